"""Activation patching and attribution patching: what if a value were that of another run?

    activation patching    effect = f(x, with h set to h') - f(x)
    attribution patching   effect = (h' - h) * df/dh, which is its first order, for all values at once

K. Meng et al.: Locating and editing factual associations in GPT. NeurIPS 2022. N. Nanda: Attribution
patching: activation patching at industrial scale. 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from funcgrad.places import Edit, Selector, Tapped
from funcgrad.transforms import grad, value_and_grad


def activations(fun: Callable[..., Any], place: Selector) -> Callable[..., Tapped]:
    """Return a function that computes the values at a place, with the cotangents of a scalar `fun`.

    Args:
      fun: maps pytrees of arrays to a scalar; its first argument is differentiated.
      place: which values.

    Returns:
      A function with `fun`'s arguments that returns the :class:`funcgrad.places.Tapped` values.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> from funcgrad.surgery.methods.patching import activations
      >>> print(activations(lambda x: jnp.exp(x) ** 2, funcgrad.at(op="exp"))(0.0).value)
      1.0
    """
    tapped_gradient = grad(fun, taps={"h": place})
    return lambda *args, **kwargs: tapped_gradient(*args, **kwargs)[1]["h"]


def at_each(place: Selector, change: Callable[..., Any], *operands: Sequence[Any]) -> list[Edit]:
    """An edit of each of the values that a selector means, with operands of its own."""
    each = zip(*operands, strict=True)
    return [place[i].value(change, *own) for i, own in enumerate(each)]


def patched(fun: Callable[..., Any], place: Selector) -> Callable[..., Any]:
    """Return a function that computes `fun` with the values at a place set to those of another run.

    Args:
      fun: maps an array, or a pytree of arrays, to a scalar.
      place: which values.

    Returns:
      A function ``(x, values, masks)``: `values` is a list of arrays, such as ``Tapped.values`` of
      another run, and `masks` a list of boolean arrays that broadcast with them, True where they are
      used. The function returns `fun`'s value, and can be differentiated, jitted and vmapped over masks.

    Raises:
      errors.SelectorError: the place means another number of values.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> from funcgrad.surgery.methods.patching import activations, patched
      >>> place = funcgrad.at(op="exp")
      >>> model = lambda x: jnp.sum(jnp.exp(x))
      >>> other = activations(model, place)(jnp.zeros(2)).values
      >>> print(patched(model, place)(jnp.full(2, -jnp.inf), other, [jnp.array([True, False])]))
      1.0
    """

    def run(x: Any, values: Sequence[Any], masks: Sequence[Any]) -> Any:
        both = zip(masks, values, strict=True)
        full = [jnp.broadcast_to(mask, value.shape) for mask, value in both]
        return value_and_grad(fun, edit=at_each(place, _where, values, full))(x)[0]

    return run


def _where(here: Any, other: Any, mask: Any) -> Any:
    return jnp.where(mask, other, here)


def attribution_patching(fun: Callable[..., Any], place: Selector) -> Callable[..., Any]:
    """Return a function that estimates the effect of patching each element of the values at a place.

    Args:
      fun: maps an array, or a pytree of arrays, to a scalar.
      place: which values.

    Returns:
      A function ``(x, other)`` that returns a list of arrays, one for each value: to first order what
      `fun` at `x` gains if the element is set to that of the run on `other`.

    Raises:
      errors.SelectorError: the selector means no place.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> from funcgrad.surgery.methods.patching import attribution_patching
      >>> model = lambda x: jnp.sum(3 * jnp.exp(x))
      >>> effects = attribution_patching(model, funcgrad.at(op="exp"))
      >>> print(effects(jnp.zeros(2), jnp.array([0.0, -jnp.inf])))
      [Array([ 0., -3.], dtype=float32)]
    """
    run = activations(fun, place)

    def effects(x: Any, other: Any) -> list[Any]:
        here, there = run(x), run(other)
        triples = zip(here.values, there.values, here.cotangents, strict=True)
        return [(new - old) * ct for old, new, ct in triples]

    return effects
