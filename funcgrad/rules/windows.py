"""Rules of the window reductions: max, min and sum pooling, and the ops JAX derives from them.

The element that a window selects is known by its place in the window, counted in row-major order;
a cotangent is spread to it with slices and pads, never with a scatter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from funcgrad.choices import choices
from funcgrad.registry import defvjp
from funcgrad.rules._common import kept_where, where


def is_unrolled(size: int) -> bool:
    """Whether windows of this many elements are pulled back element by element."""
    return size <= choices().unrolled


@dataclass(frozen=True)
class Windows:
    """Where windows lie on an array of `shape`, once dilated and padded (one entry an axis)."""

    shape: tuple[int, ...]
    size: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    base_dilation: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def dilated(self) -> tuple[int, ...]:
        return tuple(
            max((n - 1) * d + 1, 0) for n, d in zip(self.shape, self.base_dilation, strict=True)
        )

    @property
    def padded(self) -> tuple[int, ...]:
        return tuple(n + lo + hi for n, (lo, hi) in zip(self.dilated, self.padding, strict=True))

    @property
    def count(self) -> tuple[int, ...]:
        """How many windows there are: the shape of the reduction's result."""
        spans = ((k - 1) * d + 1 for k, d in zip(self.size, self.dilation, strict=True))
        return tuple(
            max((n - span) // s + 1, 0)
            for n, span, s in zip(self.padded, spans, self.strides, strict=True)
        )

    @property
    def disjoint(self) -> bool:
        """No element lies in two windows, and each window is a block."""
        return all(
            k <= s and d == 1
            for k, s, d in zip(self.size, self.strides, self.dilation, strict=True)
        )

    def offsets(self) -> list[tuple[int, ...]]:
        """Of each place in a window, the distance from the window's first element."""
        places = np.ndindex(*self.size)
        return [tuple(i * d for i, d in zip(p, self.dilation, strict=True)) for p in places]

    def pad(self, x: Any, value: Any) -> Any:
        config = [
            (lo, hi, d - 1) for (lo, hi), d in zip(self.padding, self.base_dilation, strict=True)
        ]
        return lax.pad(x, jnp.asarray(value, x.dtype), config) if any(map(any, config)) else x

    def unpad(self, padded: Any) -> Any:
        """The transpose of :meth:`pad`; elements missing at the end of `padded` are zero."""
        config = [
            (-lo, n + lo - m, 0)
            for (lo, _), n, m in zip(self.padding, self.dilated, padded.shape, strict=True)
        ]
        x = padded
        if any(map(any, config)):
            x = lax.pad(padded, jnp.zeros((), padded.dtype), config)
        return lax.slice(x, (0,) * x.ndim, x.shape, self.base_dilation)

    def view(self, padded: Any, offset: Sequence[int]) -> Any:
        """The elements at `offset` of every window."""
        limits = [
            o + (n - 1) * s + 1 for o, n, s in zip(offset, self.count, self.strides, strict=True)
        ]
        return lax.slice(padded, offset, limits, self.strides)


@defvjp(lax.reduce_window_sum_p)
def reduce_window_sum_vjp(ct: Any, x: Any, **params: Any) -> Any:
    # y[p] = sum_k x[p s + k]; ct_x[i] = sum of ct[p] over the windows that hold i
    windows = windows_of(x.shape, params)
    if 0 in (x.size, ct.size):
        return jnp.zeros(x.shape, x.dtype)
    if windows.disjoint:
        return _spread_blocks(ct, windows, None)
    spans = [(k - 1) * d + 1 for k, d in zip(windows.size, windows.dilation, strict=True)]
    config = [
        (span - 1 - lo, n + lo - ((m - 1) * s + 1), s - 1)
        for span, (lo, _), n, m, s in zip(
            spans, windows.padding, windows.dilated, ct.shape, windows.strides, strict=True
        )
    ]
    total = lax.pad(ct, jnp.zeros((), ct.dtype), config)
    for axis in range(x.ndim):  # a sum over a box is a sum along one axis after the other
        total = _sum_along(total, axis, windows)
    return total


def _sum_along(x: Any, axis: int, windows: Windows) -> Any:
    """Sums of windows along one axis, at the places of the array before it was dilated."""
    size, stride = windows.size[axis], windows.base_dilation[axis]
    if size == stride == 1:
        return x

    def ones_but(n: int) -> list[int]:
        return [n if i == axis else 1 for i in range(x.ndim)]

    return lax.reduce_window(
        x,
        np.zeros((), x.dtype),
        lax.add,
        ones_but(size),
        ones_but(stride),
        [(0, 0)] * x.ndim,
        window_dilation=ones_but(windows.dilation[axis]),
    )


@defvjp(lax.reduce_window_max_p)
def reduce_window_max_vjp(ct: Any, x: Any, **params: Any) -> Any:
    # y[p] = x[i] for the first i in window p that attains the maximum; ct_x[i] = ct[p]
    windows = windows_of(x.shape, params)
    return _spread(ct, _selected(x, lax.ge, windows), windows)


@defvjp(lax.reduce_window_min_p)
def reduce_window_min_vjp(ct: Any, x: Any, **params: Any) -> Any:
    windows = windows_of(x.shape, params)
    return _spread(ct, _selected(x, lax.le, windows), windows)


@defvjp(lax.select_and_gather_add_p)
def select_and_gather_add_vjp(ct: Any, t: Any, x: Any, *, select_prim: Any, **params: Any) -> Any:
    # y[p] = t[i] for the i that x selects in window p
    windows = windows_of(x.shape, params)
    return _spread(ct, _selected(x, _comparison(select_prim), windows), windows), None


@defvjp(lax.select_and_scatter_add_p)
def select_and_scatter_add_vjp(
    ct: Any, source: Any, x: Any, *, select_prim: Any, **params: Any
) -> Any:
    # y[i] = sum of source[p] over the windows p in which x selects i
    windows = windows_of(x.shape, params)
    return _pick(ct, _selected(x, _comparison(select_prim), windows), windows), None


def windows_of(shape: Sequence[int], params: Any) -> Windows:
    ones = (1,) * len(shape)
    return Windows(
        tuple(shape),
        tuple(params["window_dimensions"]),
        tuple(params["window_strides"]),
        tuple(tuple(pair) for pair in params["padding"]),
        tuple(params.get("base_dilation", ones)),
        tuple(params.get("window_dilation", ones)),
    )


def _comparison(select_prim: Any) -> Any:
    return lax.ge if select_prim is lax.ge_p else lax.le


def _selected(x: Any, better: Any, windows: Windows) -> Any:
    """Of each window the place of its first extreme element.

    An element stands until one comes that it is not at least as good as, which is XLA's
    select-and-scatter to the letter: a NaN never stands.
    """
    if 0 in windows.count:
        return jnp.zeros(windows.count, jnp.int8)
    padded = windows.pad(x, -np.inf if better is lax.ge else np.inf)
    if not is_unrolled(prod(windows.size)):
        return _selected_position(padded, better, windows)
    first, *others = windows.offsets()
    best = windows.view(padded, first)
    place = jnp.zeros(best.shape, jnp.int8)
    for k, offset in enumerate(others, start=1):
        rival = windows.view(padded, offset)
        stands = better(best, rival)
        best = where(stands, best, rival)
        place = where(stands, place, lax.full_like(place, k))
    return place


def _spread(ct: Any, place: Any, windows: Windows) -> Any:
    """Give each window's cotangent to the element selected in it."""
    if 0 in (*windows.shape, *windows.count):
        return jnp.zeros(windows.shape, ct.dtype)
    if not is_unrolled(prod(windows.size)):
        flat = jnp.zeros(prod(windows.padded), ct.dtype).at[place.ravel()].add(ct.ravel())
        return windows.unpad(flat.reshape(windows.padded))
    if windows.disjoint:
        return _spread_blocks(ct, windows, place)
    # p s + k = (p + k div s) s + k mod s: sum shifted arrays by remainder, then interleave these
    offsets = windows.offsets()
    reach = [o // s for o, s in zip(offsets[-1], windows.strides, strict=True)]
    config = [(r, r, 0) for r in reach]
    ct = lax.pad(ct, np.zeros((), ct.dtype), config)
    place = lax.pad(place, np.full((), -1, place.dtype), config)
    # each is sliced at every place, and so XLA makes it once: it drops the barrier on CPUs, and a
    # choice that is fused into one kernel for each place is made otherwise in each where elements tie
    ct, place = lax.optimization_barrier((ct, place))
    shape = [n - r for n, r in zip(ct.shape, reach, strict=True)]
    parts: dict[tuple[int, ...], Any] = {}
    for k, offset in enumerate(offsets):
        shift, rest = zip(*map(divmod, offset, windows.strides), strict=True)
        start = [r - d for d, r in zip(shift, reach, strict=True)]
        end = [a + n for a, n in zip(start, shape, strict=True)]
        part = kept_where(lax.slice(place, start, end) == k, lax.slice(ct, start, end))
        parts[rest] = parts[rest] + part if rest in parts else part
    return windows.unpad(_interleave(parts, windows.strides))


def _interleave(parts: Any, strides: Sequence[int]) -> Any:
    """The array whose elements at `rest` modulo `strides` are `parts[rest]`, zero elsewhere."""
    absent = jnp.zeros_like(next(iter(parts.values())))

    def along(axis: int, rest: tuple[int, ...]) -> Any:
        if axis == len(strides):
            return parts.get(rest, absent)
        rows = [along(axis + 1, (*rest, r)) for r in range(strides[axis])]
        if len(rows) == 1:
            return rows[0]
        shape = list(rows[0].shape)
        shape[axis] *= len(rows)
        return jnp.stack(rows, axis + 1).reshape(shape)

    return along(0, ())


def _spread_blocks(ct: Any, windows: Windows, place: Any) -> Any:
    """Windows that do not overlap: broadcast each over its block, masked, in one pass."""
    block_shape = [n for pair in zip(ct.shape, windows.strides, strict=True) for n in pair]
    size = prod(windows.size)
    places = np.full(windows.strides, -1, np.int8 if is_unrolled(size) else np.int32)
    places[tuple(map(slice, windows.size))] = np.arange(size).reshape(windows.size)
    inner = tuple(range(0, 2 * ct.ndim, 2))
    outer = tuple(range(1, 2 * ct.ndim, 2))
    blocks = lax.broadcast_in_dim(ct, block_shape, inner)
    within = lax.broadcast_in_dim(places, block_shape, outer)
    if place is not None:
        blocks = kept_where(lax.broadcast_in_dim(place, block_shape, inner) == within, blocks)
    elif windows.size != windows.strides:
        blocks = kept_where(within >= 0, blocks)
    return windows.unpad(
        blocks.reshape([n * s for n, s in zip(ct.shape, windows.strides, strict=True)])
    )


def _pick(x: Any, place: Any, windows: Windows) -> Any:
    """Of each window the selected element of `x`: the transpose of `_spread`."""
    if 0 in windows.count:
        return jnp.zeros(windows.count, x.dtype)
    padded = windows.pad(x, 0)
    if not is_unrolled(prod(windows.size)):
        return padded.ravel()[place]
    picked = jnp.zeros(windows.count, x.dtype)
    for k, offset in enumerate(windows.offsets()):
        picked = where(place == k, windows.view(padded, offset), picked)
    return picked


def _selected_position(padded: Any, better: Any, windows: Windows) -> Any:
    """As `_selected`, for large windows: the place in the flattened padded array."""
    positions = jnp.arange(padded.size, dtype=jnp.int32).reshape(padded.shape)

    def first_better(left: Any, right: Any) -> Any:
        (x, i), (y, j) = left, right
        keep = where(x == y, i < j, better(x, y))
        return where(keep, x, y), where(keep, i, j)

    worst = np.asarray(-np.inf if better is lax.ge else np.inf, padded.dtype)
    _, place = lax.reduce_window(
        (lax.stop_gradient(padded), positions),
        (worst, np.int32(padded.size)),
        first_better,
        windows.size,
        windows.strides,
        [(0, 0)] * padded.ndim,
        window_dilation=windows.dilation,
    )
    return place
