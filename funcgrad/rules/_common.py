"""What several families of rules say of arrays. No family itself: ``default`` leaves it out."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from funcgrad import _jax

Array = Any


def conjugate(x: Array) -> Array:
    """The complex conjugate; a real array as it is."""
    return lax.conj(x) if _jax.is_complex(x) else x


def adjoint(x: Array) -> Array:
    """The conjugate transpose of matrices."""
    return conjugate(x.mT)


def or_zeros(ct: Array | None, like: Array) -> Array:
    """A cotangent of `like`; zeros for one that did not arrive."""
    return _jax.cotangent_zeros(like) if ct is None else ct


def kept_where(chosen: Array, ct: Array) -> Array:
    """A cotangent where something is `chosen`, zeros elsewhere."""
    if _jax.is_partial(ct):  # which jnp.where does not take
        return lax.select_n(chosen, _jax.zeros(_jax.typeof(ct)), ct)
    return jnp.where(chosen, ct, 0)


def kept_elsewhere(chosen: Array, ct: Array) -> Array:
    """A cotangent but where something is `chosen`, zeros there."""
    if _jax.is_partial(ct):
        return lax.select_n(chosen, ct, _jax.zeros(_jax.typeof(ct)))
    return jnp.where(chosen, 0, ct)


def summed(ct: Array, axes: tuple[int, ...], sharding: Any) -> Array:
    """The sum of a cotangent over some axes.

    The sum over a mesh axis is left to others where the result's `sharding` says so.
    """
    if sharding is None or not sharding.spec.unreduced:
        return jnp.sum(ct, axes)
    return lax.reduce_sum(ct, axes, out_sharding=sharding)
