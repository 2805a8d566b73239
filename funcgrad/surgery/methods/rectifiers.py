"""Guided backpropagation and the deconvnet: two other ways back through rectifiers.

    gradient                 ct_x = ct * [x > 0]
    deconvnet                ct_x = ct * [ct > 0]
    guided backpropagation   ct_x = ct * [x > 0] * [ct > 0]

M. D. Zeiler, R. Fergus: Visualizing and understanding convolutional networks. ECCV 2014.
J. T. Springenberg et al.: Striving for simplicity: the all convolutional net. ICLR workshop 2015.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from funcgrad import _jax
from funcgrad.places import Selector, at
from funcgrad.places.program import Place
from funcgrad.places.taps import with_cotangent_changed
from funcgrad.surgery.methods.surrogate import surrogate
from funcgrad.transforms import grad


def is_max_with_zero(place: Place) -> bool:
    """Whether an operation is ``max(x, 0)``, with the zero written in the program."""
    if place.op is not lax.max_p or place.sealed is not None:
        return False
    return any(_jax.is_literal(v) and v.val == 0 for v in place.equation.invars)


RECTIFIERS = at(function=jax.nn.relu) | at(where=is_max_with_zero)
"""Calls of ``jax.nn.relu``, and ``max(x, 0)``."""


def guided_backprop(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    *,
    rectifiers: Selector = RECTIFIERS,
) -> Callable[..., Any]:
    """Return a function that computes the guided backpropagation of a scalar-valued `fun`.

    Args:
      fun: maps pytrees of arrays to a scalar, such as the logit of a class.
      argnums: the positional arguments that are explained.
      rectifiers: the places that count as rectifiers.

    Returns:
      A function with `fun`'s arguments that returns what :func:`funcgrad.grad` would, with negative
      cotangents set to zero behind each rectifier.

    Raises:
      errors.SelectorError: `fun` has no rectifier.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from funcgrad.surgery.methods.rectifiers import guided_backprop
      >>> weights = jnp.array([1.0, -1.0, 1.0])
      >>> model = lambda x: weights @ jax.nn.relu(x)
      >>> print(guided_backprop(model)(jnp.array([2.0, 2.0, -2.0])))
      [1. 0. 0.]
    """
    return grad(fun, argnums, edit=rectifiers.cotangent(positive))


def deconvnet(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    *,
    rectifiers: Selector = RECTIFIERS,
) -> Callable[..., Any]:
    """Return a function that computes the deconvnet's signal for a scalar-valued `fun`.

    Arguments and errors are those of :func:`guided_backprop`. On the way back a rectifier is applied to
    the cotangent, and it does not matter which values were positive on the way forward.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from funcgrad.surgery.methods.rectifiers import deconvnet
      >>> weights = jnp.array([1.0, -1.0, 1.0])
      >>> model = lambda x: weights @ jax.nn.relu(x)
      >>> print(deconvnet(model)(jnp.array([2.0, 2.0, -2.0])))
      [1. 0. 1.]
    """

    def rectified(original: Callable[..., Any], x: Any) -> Any:
        return surrogate(original(x), with_cotangent_changed(x, positive, False))

    return grad(fun, argnums, edit=rectifiers.replaced(rectified))


def positive(ct: Any) -> Any:
    """The cotangent where it is positive, else zero."""
    return jnp.maximum(ct, 0)
