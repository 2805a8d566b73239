"""Numbers of one array, computed where it is, and of the arrays of each row together.

The last number of each is 1: a measure that was not taken, since a branch was not run or no cotangent
arrived, is zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

SATURATED = 0.97
"""From here on, |tanh x| and |2 sigmoid(x) - 1| count as saturated: the slope is below 0.06."""


@partial(jax.jit, static_argnums=1)
def moments(x: Any, steps: int = 0) -> Any:
    """Norm, mean and share of zeros: ``f32[..., 4]``; of complex numbers, the modulus of their mean.

    The norm is m ‖x/m‖ with m = max|x|, which neither overflows nor vanishes where squares would.
    One pass finds m, the sum and the number of zeros; a second one finds the norm. The first `steps`
    axes are kept.
    """
    x = _wide(x)
    axes, count = _reduced(x, steps)
    size = jnp.abs(x)
    parts = (x.real, x.imag) if jnp.iscomplexobj(x) else (x,)
    operands = (size, (x == 0).astype(jnp.uint32), *parts)
    start = tuple(jnp.zeros((), operand.dtype) for operand in operands)
    largest, zeros, *sums = lax.reduce(operands, start, _largest_and_sums, axes)
    means = [total / count for total in sums]
    mean = means[0] if len(means) == 1 else jnp.hypot(*means)
    norm = _norm(size, largest, axes)
    return jnp.stack([norm, mean, zeros / count, jnp.ones_like(norm)], -1).astype(norm.dtype)


@partial(jax.jit, static_argnums=1)
def norms(x: Any, steps: int = 0) -> Any:
    """The norm, and 1: ``f32[..., 2]``."""
    size = jnp.abs(_wide(x))
    axes, _ = _reduced(size, steps)
    norm = _norm(size, jnp.max(size, axes), axes)
    return jnp.stack([norm, jnp.ones_like(norm)], -1)


def _reduced(x: Any, steps: int) -> tuple[tuple[int, ...], int]:
    """The axes behind the first `steps`, and how many elements they have."""
    axes = tuple(range(steps, x.ndim))
    return axes, int(np.prod([x.shape[i] for i in axes], dtype=np.int64))


def _largest_and_sums(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
    return jnp.maximum(a[0], b[0]), *(x + y for x, y in zip(a[1:], b[1:], strict=True))


def _norm(size: Any, largest: Any, axes: tuple[int, ...]) -> Any:
    unit = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1.0)
    return unit * jnp.sqrt(jnp.sum(jnp.square(size / jnp.expand_dims(unit, axes)), axes))


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


def _wide(x: Any) -> Any:
    """In at least 32 bits."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


# --- several arrays together


@dataclass(frozen=True, eq=False)
class Part:
    """Numbers of one array.

    Attributes:
      rows: the rows that it belongs to, one for each of its steps.
      size: how many elements belong to each.
      numbers: a measure of each: ``f32[len(rows), ...]``.
    """

    rows: Sequence[int]
    size: int
    numbers: Any


def by_row(parts: Sequence[Part], count: int, width: int) -> Any:
    """The shares or means of each row's arrays together, by their sizes; zeros for a row without any."""
    each, sizes = _of_rows(parts, count, width)
    taken = each[..., -1]
    weight = sizes * taken
    share = weight / jnp.maximum(jnp.sum(weight, 1, keepdims=True), 1.0)
    return jnp.sum(share[..., None] * each, 1).at[:, -1].set(jnp.max(taken, 1))


def moments_by_row(parts: Sequence[Part], count: int, width: int = 4) -> Any:
    """The same of numbers that begin with a norm: the root of the sum of the squares."""
    norm = _of_rows(parts, count, width)[0][..., 0]
    return by_row(parts, count, width).at[:, 0].set(_norm(norm, jnp.max(norm, 1), (1,)))


def _of_rows(parts: Sequence[Part], count: int, width: int) -> tuple[Any, Any]:
    """The numbers of each row's arrays, ``f32[count, most, width]``, and the arrays' sizes."""
    of_row: list[list[int]] = [[] for _ in range(count)]
    sizes = [0]
    for part in parts:
        for row in part.rows:
            of_row[row].append(len(sizes))
            sizes.append(part.size)
    most = max([1, *map(len, of_row)])
    table = np.array([own + [0] * (most - len(own)) for own in of_row], int).reshape(count, most)
    flat = [part.numbers.reshape(len(part.rows), width) for part in parts]
    return jnp.concatenate([jnp.zeros((1, width)), *flat])[table], jnp.array(sizes, float)[table]
