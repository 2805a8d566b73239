"""Edits of cotangents: reversed, and clipped by value or by norm.

Each is given as ``edit=`` to ``grad`` or ``value_and_grad``.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp

from funcgrad.places.selectors import Edit, Selector


def reversed_at(selector: Selector, scale: float = 1.0) -> Edit:
    """Reverse the gradient at places: values stay, ``ct_x = -scale * ct``.

    Ganin and Lempitsky (2015), "Unsupervised Domain Adaptation by Backpropagation": what comes
    before the place learns to make worse what comes after it.

    Args:
      selector: the places.
      scale: by how much the reversed cotangent is multiplied.

    Returns:
      An edit.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> from funcgrad.surgery.methods import reversed_at
      >>> edit = reversed_at(funcgrad.at(op="exp"), scale=2.0)
      >>> print(funcgrad.grad(jnp.exp, edit=edit)(0.0))
      -2.0
    """
    return selector.cotangent(lambda ct: -scale * ct)


def clipped_at(selector: Selector, most: float) -> Edit:
    """Clip each element of the cotangents at places to the interval from ``-most`` to ``most``.

    Args:
      selector: the places.
      most: the largest size of an element.

    Returns:
      An edit.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> from funcgrad.surgery.methods import clipped_at
      >>> edit = clipped_at(funcgrad.at(op="exp"), 1.0)
      >>> print(funcgrad.grad(lambda x: 5 * jnp.exp(x), edit=edit)(0.0))
      1.0
    """
    return selector.cotangent(lambda ct: jnp.clip(ct, -most, most))


def norm_clipped_at(
    selector: Selector, most: float, axis: int | Sequence[int] | None = None
) -> Edit:
    """Scale down the cotangents at places whose norm is larger than `most`.

    ``ct_x = ct * min(1, most / |ct|)``: Pascanu, Mikolov and Bengio (2013), "On the difficulty of
    training recurrent neural networks", at any place instead of at the parameters.

    Args:
      selector: the places. In a scan each step's cotangent is clipped by itself.
      most: the largest norm.
      axis: the axes over which the norm is taken, such as -1 for each example of a batch by itself
        (where the function calls ``jax.vmap``, JAX decides which axis is that of the examples);
        None for all.

    Returns:
      An edit.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> from funcgrad.surgery.methods import norm_clipped_at
      >>> edit = norm_clipped_at(funcgrad.at(op="exp"), 1.0)
      >>> loss = lambda x: jnp.array([3.0, 4.0]) @ jnp.exp(x)
      >>> print(funcgrad.grad(loss, edit=edit)(jnp.zeros(2)))
      [0.6 0.8]
    """
    axes = tuple(axis) if isinstance(axis, Sequence) else axis

    def clip(ct: jnp.ndarray) -> jnp.ndarray:
        norm = jnp.sqrt(jnp.sum(jnp.abs(ct) ** 2, axis=axes, keepdims=True))
        return jnp.where(norm > most, ct * (most / jnp.where(norm > most, norm, 1)), ct)

    return selector.cotangent(clip)
