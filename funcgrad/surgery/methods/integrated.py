"""Integrated gradients, of a function's input or of an inner layer.

    attribution of h = (h - h') * integral from 0 to 1 of df/dh(h' + a (h - h')) da

M. Sundararajan, A. Taly, Q. Yan: Axiomatic attribution for deep networks. ICML 2017. Of an inner layer:
K. Dhamdhere, M. Sundararajan, Q. Yan: How important is a neuron? ICLR 2019, with the path straight in h.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcgrad.places import Selector
from funcgrad.surgery.methods.patching import activations, at_each
from funcgrad.transforms import grad


def integrated_gradients(
    fun: Callable[..., Any], layer: Selector | None = None, *, steps: int = 32
) -> Callable[..., Any]:
    """Return a function that computes the integrated gradients of a scalar-valued `fun`.

    Args:
      fun: maps an array, or a pytree of arrays, to a scalar.
      layer: the places whose values are explained; None for the input.
      steps: the number of points on the way, those of Gauss and Legendre.

    Returns:
      A function ``(x, baseline)``. It returns a pytree like `x`, or with `layer` a list of arrays,
      one for each value that is meant. If `fun` depends on `x` through these values alone, the
      attributions sum to ``fun(x) - fun(baseline)``.

    Raises:
      errors.SelectorError: the selector means no place.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> from funcgrad.surgery.methods.integrated import integrated_gradients
      >>> model = lambda x: jnp.sum(jnp.exp(x) ** 2)
      >>> explain = integrated_gradients(model, funcgrad.at(op="exp"))
      >>> print(explain(jnp.zeros(2), jnp.full(2, -jnp.inf)))
      [Array([1., 1.], dtype=float32)]
    """
    points, weights = np.polynomial.legendre.leggauss(steps)
    points, weights = (points + 1) / 2, weights / 2

    if layer is None:
        return lambda x, baseline: _integral(grad(fun), x, baseline, points, weights)

    def of_layer(x: Any, baseline: Any) -> Any:
        run = activations(fun, layer)

        def cts(values: Sequence[Any]) -> list[Any]:
            edit = at_each(layer, lambda here, value: value, values)
            return grad(fun, taps={"h": layer}, edit=edit)(x)[1]["h"].cotangents

        return _integral(cts, run(x).values, run(baseline).values, points, weights)

    return of_layer


def _integral(
    gradient: Callable[..., Any], end: Any, start: Any, points: np.ndarray, weights: np.ndarray
) -> Any:
    """``(end - start) * sum_a weight_a gradient(start + a (end - start))``."""
    change = jax.tree.map(lambda a, b: a - b, end, start)

    def at_point(a: Any) -> Any:
        return gradient(jax.tree.map(lambda x, dx: x + (a * dx).astype(dx.dtype), start, change))

    cts = jax.vmap(at_point)(jnp.asarray(points, jnp.float32))
    means = jax.tree.map(lambda ct: jnp.tensordot(weights.astype(ct.dtype), ct, 1), cts)
    return jax.tree.map(lambda ct, dx: ct * dx, means, change)
