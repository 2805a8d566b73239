"""Grad-CAM: where in the maps of a convolution layer the evidence for an output lies.

    weight_k = mean over i, j of dy/dA[i, j, k]        map[i, j] = relu(sum_k weight_k A[i, j, k])

R. R. Selvaraju et al.: Grad-CAM: visual explanations from deep networks via gradient-based
localization. ICCV 2017.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from funcgrad.places import Selector
from funcgrad.transforms import grad


def grad_cam(
    fun: Callable[..., Any],
    layer: Selector,
    *,
    spatial: Sequence[int] = (-3, -2),
    channel: int = -1,
) -> Callable[..., Any]:
    """Return a function that computes the Grad-CAM map of a scalar-valued `fun` at a layer.

    Args:
      fun: maps pytrees of arrays to a scalar, such as the logit of a class. For a batch, vmap the
        function that is returned, or sum the logits of the images.
      layer: one place, whose value is the maps, such as ``funcgrad.at("conv2")``.
      spatial: the axes of height and width in the maps.
      channel: the axis of the maps' channels.

    Returns:
      A function with `fun`'s arguments that returns the map, with the axes of the layer's value but the
      channels.

    Raises:
      errors.SelectorError: `layer` means no value, or more than one.

    Example:
      >>> import jax, jax.numpy as jnp, funcgrad
      >>> from funcgrad.surgery.methods.class_activation import grad_cam
      >>> def model(image):
      ...     with jax.named_scope("maps"):
      ...         maps = jnp.stack([image, -image], axis=-1)
      ...     return jnp.sum(maps * jnp.array([1.0, -1.0]))
      >>> print(grad_cam(model, funcgrad.at("maps"))(jnp.array([[1.0, 2.0], [-1.0, 0.0]])))
      [[2. 4.]
       [0. 0.]]
    """
    tapped_gradient = grad(fun, taps={"maps": layer})

    def heat_map(*args: Any, **kwargs: Any) -> Any:
        maps = tapped_gradient(*args, **kwargs)[1]["maps"]
        weights = jnp.mean(maps.cotangent, axis=tuple(spatial), keepdims=True)
        return jax.nn.relu(jnp.sum(weights * maps.value, axis=channel))

    return heat_map
