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
    """A cotangent; zeros, shaped as `like`, for one that did not arrive."""
    return jnp.zeros_like(like) if ct is None else ct
