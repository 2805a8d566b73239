"""What several families of rules say of arrays. No family itself: ``default`` leaves it out."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
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


def where(condition: Array, x: Array, y: Array) -> Array:
    """``jnp.where``, in half of its trace where nothing is to be broadcast or promoted."""
    if condition.shape == x.shape == y.shape and x.dtype == y.dtype:
        return lax.select_n(condition, y, x)
    return jnp.where(condition, x, y)


def kept_where(chosen: Array, ct: Array) -> Array:
    """A cotangent where something is `chosen`, zeros elsewhere."""
    return where(chosen, ct, _jax.zeros(_jax.typeof(ct)))


def kept_elsewhere(chosen: Array, ct: Array) -> Array:
    """A cotangent but where something is `chosen`, zeros there."""
    return where(chosen, _jax.zeros(_jax.typeof(ct)), ct)


def summed(ct: Array, axes: tuple[int, ...], sharding: Any) -> Array:
    """The sum of a cotangent over some axes.

    The sum over a mesh axis is left to others where the result's `sharding` says so.
    """
    if sharding is not None and sharding.spec.unreduced:
        return lax.reduce_sum(ct, axes, out_sharding=sharding)
    return total(ct, axes)


def total(x: Array, axes: tuple[int, ...]) -> Array:
    """``jnp.sum``, which adds up floats of few bits as longer ones; the others at once."""
    return lax.reduce_sum(x, axes) if x.dtype in LONG_FLOATS else jnp.sum(x, axes)


LONG_FLOATS = frozenset(map(np.dtype, ("float32", "float64", "complex64", "complex128")))
