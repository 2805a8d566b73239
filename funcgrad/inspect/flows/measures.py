"""Numbers of one array, and of several together, as small arrays that are computed where it is.

The last number of each is 1: a measure that was not taken, since a branch was not run or no cotangent
arrived, is zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

MOMENTS = 4
"""Norm, mean, share of zeros, and 1."""
SATURATED = 0.97
"""From here on, |tanh x| and |2 sigmoid(x) - 1| count as saturated: the slope is below 0.06."""


@jax.jit
def moments(x: Any) -> Any:
    """Norm, mean and share of zeros: ``f32[4]``; of complex numbers, the modulus of their mean.

    The norm is max|x| ‖x / max|x|‖, which neither overflows nor vanishes where squares would.
    """
    x = _wide(x)
    size = jnp.abs(x)
    largest = jnp.max(size)
    unit = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1.0)
    norm = unit * jnp.sqrt(jnp.sum(jnp.square(size / unit)))
    mean = jnp.mean(x)
    mean = jnp.abs(mean) if jnp.iscomplexobj(mean) else mean
    return jnp.stack([norm, mean, jnp.mean(x == 0, dtype=norm.dtype), jnp.ones_like(norm)])


@partial(jax.jit, static_argnums=1)
def moments_by_step(x: Any, steps: int) -> Any:
    """The moments of each of `steps` parts along the leading axes: ``f32[steps, 4]``."""
    return jax.vmap(moments)(x.reshape(steps, -1)) if steps > 1 else moments(x)[None]


def together(parts: Sequence[tuple[int, Any]]) -> Any:
    """The moments of several arrays together, from their sizes and moments ``f32[..., 4]``."""
    if len(parts) == 1:
        return parts[0][1]
    sizes = jnp.array([size for size, _ in parts], jnp.float32)
    each = jnp.stack([found for _, found in parts], -1)
    norm, mean, zeros, taken = (each[..., i, :] for i in range(MOMENTS))
    weight = sizes * taken
    share = weight / jnp.maximum(jnp.sum(weight, -1, keepdims=True), 1.0)
    largest = jnp.max(norm, -1, keepdims=True)
    unit = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1.0)
    norm = unit[..., 0] * jnp.sqrt(jnp.sum(jnp.square(norm / unit), -1))
    mean, zeros = jnp.sum(share * mean, -1), jnp.sum(share * zeros, -1)
    return jnp.stack([norm, mean, zeros, jnp.max(taken, -1)], -1)


def dead_units(unit_axis: int) -> Callable[[Any], Any]:
    """The share of units that are zero in all examples, and 1: ``f32[2]``."""

    def measure(x: Any) -> Any:
        others = tuple(i for i in range(x.ndim) if i != unit_axis % x.ndim)
        dead = jnp.mean(jnp.all(x == 0, axis=others), dtype=jnp.float32)
        return jnp.stack([dead, jnp.ones_like(dead)])

    return measure


def saturated_tanh(y: Any) -> Any:
    """The share of a tanh's results that are saturated, and 1: ``f32[2]``."""
    share = jnp.mean(jnp.abs(y) > SATURATED, dtype=jnp.float32)
    return jnp.stack([share, jnp.ones_like(share)])


def saturated_sigmoid(y: Any) -> Any:
    """The share of a sigmoid's results that are saturated, and 1: ``f32[2]``."""
    return saturated_tanh(2 * _wide(y) - 1)


def shares_together(parts: Sequence[tuple[int, Any]]) -> Any:
    """The share among several arrays, from their sizes and shares ``f32[..., 2]``."""
    weights = [size * found[..., 1] for size, found in parts]
    total = sum(w * found[..., 0] for w, (_, found) in zip(weights, parts, strict=True))
    weight = sum(weights)
    return jnp.stack([total / jnp.maximum(weight, 1.0), jnp.minimum(weight, 1.0)], -1)


def _wide(x: Any) -> Any:
    """In at least 32 bits."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
