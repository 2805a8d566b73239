"""The cotangent of a parameter as a sum of outer products, which is not carried out.

A dense layer computes ``z_t = a_t w`` at each position t. The cotangent of w is ``sum_t a_t
d_t^T``, where d_t is the cotangent of z_t. All positions and all reads of w together give two
matrices, A with the rows a_t and D with the rows d_t, so that ``ct_w = A^T D``. A convolution's a_t
are its patches, an embedding's are unit vectors. A parameter in parts that do not meet (the layers
of a scan, the groups of a convolution, the heads of a product with batch axes) has a pair of
matrices for each part.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from funcgrad import _jax
from funcgrad.surgery.methods.parameter_uses import Use


@dataclass(frozen=True)
class Factors:
    """A parameter's cotangent as ``A^T D``, for each of its parts.

    Attributes:
      a: what the operations that read the parameter read besides, of shape (parts, positions, m).
        For an embedding the rows' numbers, of shape (parts, positions).
      d: the cotangents of their results, of shape (parts, positions, n).
      rows: the number m.
      layout: which axes of the parameter the parts, m and n are; only factors of one layout add up.
    """

    a: Any
    d: Any
    rows: int
    layout: tuple[Any, ...]

    @property
    def is_numbered(self) -> bool:
        """Whether `a` has the numbers of unit vectors."""
        return self.a.ndim == 2

    @property
    def written_out(self) -> Factors:
        """The same factors, with unit vectors in the place of their numbers."""
        a = jax.nn.one_hot(self.a, self.rows, dtype=self.d.dtype) if self.is_numbered else self.a
        return replace(self, a=a)

    @property
    def exchanged(self) -> Factors:
        """Factors of the transposed parameter, written as factors of the parameter itself."""
        own = self.written_out
        parts, a, d = self.layout
        return Factors(own.d, own.a, own.d.shape[-1], (parts, d, a))

    def squared_norm(self) -> Any:
        """The parameter's squared norm, by the smaller of its cotangent and the positions' products.

        ``|A^T D|^2 = sum_{t,s} (a_t . a_s) (d_t . d_s)``
        """
        _, positions, n = self.d.shape
        if not self.is_numbered and positions**2 > self.rows * n:
            return jnp.sum(_squared(_product("ptm,ptn->pmn", self.a, self.d)))
        d_by_d = _product("ptn,psn->pts", self.d, self.d.conj())
        if self.is_numbered:
            return jnp.sum(jnp.where(self.a[:, :, None] == self.a[:, None, :], d_by_d.real, 0))
        return jnp.sum((_product("ptm,psm->pts", self.a, self.a.conj()) * d_by_d).real)


def _product(which: str, x: Any, y: Any) -> Any:
    """A sum of products, with at least float32's accuracy."""
    dtype = jnp.promote_types(jnp.promote_types(x.dtype, y.dtype), jnp.float32)
    return jnp.einsum(which, x.astype(dtype), y.astype(dtype), precision="highest")


def _squared(x: Any) -> Any:
    return (x * x.conj()).real


def add_up(layouts: Sequence[tuple[Any, ...]]) -> bool:
    """Whether factors of these layouts can be added."""
    parts, a, d = layouts[0]
    return all(layout in ((parts, a, d), (parts, d, a)) for layout in layouts)


def added(factors: Sequence[Factors]) -> Factors:
    """The factors of a sum of cotangents, whose layouts add up."""
    first, *others = factors
    if not others:
        return first
    every = [first, *(f if f.layout == first.layout else f.exchanged for f in others)]
    if not all(f.is_numbered for f in every):
        every = [f.written_out for f in every]
    a, d = (jnp.concatenate([getattr(f, of) for f in every], axis=1) for of in ("a", "d"))
    return replace(first, a=a, d=d)


# --- the factors of one use


@dataclass(frozen=True)
class Reading:
    """How an operation multiplies what it reads with a parameter.

    Attributes:
      operand: the number of the operand that has `a`.
      layout: that of the factors.
    """

    operand: int
    layout: tuple[Any, ...]


def reading_of(use: Use) -> Reading | None:
    """How a use multiplies with the parameter; None where it does something else."""
    if use.place.op not in READINGS or not use.alone:
        return None
    reading = READINGS[use.place.op](use)
    if reading is None or _jax.is_literal(use.place.equation.invars[reading.operand]):
        return None
    return reading


def factors_of(use: Use, reading: Reading, a: Any, d: Any) -> Factors:
    """A use's factors.

    Args:
      use: the use.
      reading: what :func:`reading_of` said.
      a: the operation's other operand, with leading axes for the steps of the scans around it.
      d: the cotangent of its result, with the same leading axes.
    """
    steps = use.view.steps
    in_step = functools.partial(IN_STEP[use.place.op], use)
    for _ in steps:
        in_step = jax.vmap(in_step)
    a, d = in_step(a, d)  # (*steps, parts, positions, ...)
    over = [i for i, over in enumerate(steps) if over]
    shared = [i for i, over in enumerate(steps) if not over]
    a, d = (_merged(x, over, shared, len(steps)) for x in (a, d))
    return Factors(a, d, _rows(use, reading, a), reading.layout)


def _merged(x: Any, over: Sequence[int], shared: Sequence[int], count: int) -> Any:
    """Steps with parts of their own become parts, all other steps positions."""
    parts, positions, *rest = x.shape[count:]
    x = jnp.transpose(x, (*over, count, *shared, *range(count + 1, x.ndim)))
    steps = [math.prod(x.shape[: len(over)]), math.prod(x.shape[len(over) + 1 :][: len(shared)])]
    return x.reshape(steps[0] * parts, steps[1] * positions, *rest)


def _rows(use: Use, reading: Reading, a: Any) -> int:
    if a.ndim == 3:
        return a.shape[-1]
    return use.view.shape_now[_numbered_axis(use)]  # type: ignore[index]


def _by_axis(order: Sequence[int], x_axes: Sequence[int], view_axes: Sequence[int]) -> list[int]:
    """`x_axes`, in the order of the parameter's axes to which they belong."""
    return [x for _, x in sorted((view_axes[w], x) for w, x in zip(order, x_axes, strict=True))]


def _layout(use: Use, parts: Sequence[int], a: Sequence[int], d: Sequence[int]) -> tuple[Any, ...]:
    """The axes of the parameter that are parts, a's and d's, with how the parameter was arranged."""
    view = use.view
    of_parts, of_a, of_d = (tuple(sorted(view.axes[i] for i in axes)) for axes in (parts, a, d))
    return (view.path, view.shape, of_parts), of_a, of_d


# z[b,i,j] = sum_k x[b,i,k] w[b,k,j], or with w first


def _dot_axes(use: Use) -> tuple[list[list[int]], list[list[int]], list[int]]:
    """(parts, summed, kept) of the parameter and of the other operand, and z's axes from w."""
    (summed, batch) = use.place.params["dimension_numbers"]
    axes = []
    for i, aval in enumerate(use.place.operands):
        kept = [axis for axis in range(len(aval.shape)) if axis not in (*summed[i], *batch[i])]
        axes.append([[*batch[i]], [*summed[i]], kept])
    w, x = axes[use.operand], axes[1 - use.operand]
    first = len(batch[0]) + (len(x[2]) if use.operand == 1 else 0)
    return w, x, [*range(first, first + len(w[2]))]


def _dot_reading(use: Use) -> Reading | None:
    (parts, summed, kept), _, _ = _dot_axes(use)
    return Reading(1 - use.operand, _layout(use, parts, summed, kept))


def _dot_in_step(use: Use, x: Any, ct_z: Any) -> tuple[Any, Any]:
    w, (x_parts, x_summed, x_kept), z_kept = _dot_axes(use)
    axes = use.view.axes
    z_parts = range(len(x_parts))
    z_positions = [i for i in range(len(x_parts), ct_z.ndim) if i not in z_kept]
    a = _three(x, _by_axis(w[0], x_parts, axes), x_kept, _by_axis(w[1], x_summed, axes))
    d = _three(ct_z, _by_axis(w[0], z_parts, axes), z_positions, _by_axis(w[2], z_kept, axes))
    return a, d


def _three(x: Any, parts: Sequence[int], positions: Sequence[int], rest: Sequence[int]) -> Any:
    """`x` with three axes, each made of several."""
    groups = (parts, positions, rest)
    shape = [math.prod(x.shape[i] for i in group) for group in groups]
    return jnp.transpose(x, [i for group in groups for i in group]).reshape(shape)


# z[p,j] = sum_k patch_p[k] w[k,j], for each group of features


def _conv_reading(use: Use) -> Reading | None:
    params, view = use.place.params, use.view
    if use.operand != 1 or params["batch_group_count"] != 1:
        return None
    spec = params["dimension_numbers"].rhs_spec
    at = (view.path, view.shape, view.axes, spec, params["feature_group_count"])
    return Reading(0, (at, "patches", "features"))


def _conv_in_step(use: Use, x: Any, ct_z: Any) -> tuple[Any, Any]:
    params = use.place.params
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    w = use.place.operands[1]
    patches = lax.conv_general_dilated_patches(
        x,
        [w.shape[axis] for axis in numbers.rhs_spec[2:]],
        params["window_strides"],
        params["padding"],
        lhs_dilation=params["lhs_dilation"],
        rhs_dilation=params["rhs_dilation"],
        dimension_numbers=numbers,
        precision=lax.Precision.HIGHEST,
    )

    def in_groups(y: Any) -> Any:
        batch, features, *positions = numbers.out_spec
        y = _three(y, [features], [batch, *positions], [])[..., 0]
        return jnp.moveaxis(y.reshape(groups, -1, y.shape[-1]), 1, 2)

    return in_groups(patches), in_groups(ct_z)


# z[t] = w[number_t]


MODES = (
    lax.GatherScatterMode.CLIP,
    lax.GatherScatterMode.FILL_OR_DROP,
    lax.GatherScatterMode.PROMISE_IN_BOUNDS,
)


def _row_layout(use: Use, axis: int) -> tuple[Any, ...]:
    return _layout(use, [], [axis], [i for i in range(len(use.view.axes)) if i != axis])


def _numbered_axis(use: Use) -> int | None:
    """The axis of which the operation takes single elements, all of the others; None otherwise."""
    shape, params = use.place.operands[0].shape, use.place.params
    sizes = params["slice_sizes"]
    part = [i for i, (all_, some) in enumerate(zip(shape, sizes, strict=True)) if some != all_]
    if len(part) != 1 or sizes[part[0]] != 1 or use.operand != 0:
        return None
    return part[0]


def _gather_reading(use: Use) -> Reading | None:
    axis = _numbered_axis(use)
    numbers = use.place.params["dimension_numbers"]
    known = use.place.params["mode"] in MODES and not numbers.operand_batching_dims
    clipped = use.place.params["mode"] == lax.GatherScatterMode.CLIP
    if axis is None or axis not in numbers.start_index_map or not known:
        return None
    if len(numbers.start_index_map) > 1 and not clipped:
        return None
    return Reading(1, _row_layout(use, axis))


def _gather_in_step(use: Use, indices: Any, ct_z: Any) -> tuple[Any, Any]:
    axis, params = _numbered_axis(use), use.place.params
    assert axis is not None
    numbers = params["dimension_numbers"]
    number = indices[..., numbers.start_index_map.index(axis)].reshape(1, -1)
    rows = use.view.shape_now[axis]
    kept = [i for i in range(len(use.view.axes)) if i not in numbers.collapsed_slice_dims]
    z_kept = _by_axis(kept, numbers.offset_dims, use.view.axes)
    positions = [i for i in range(ct_z.ndim) if i not in z_kept]
    d = _three(ct_z, [], positions, z_kept)
    if params["mode"] == lax.GatherScatterMode.FILL_OR_DROP:
        inside = (number >= 0) & (number < rows)
        d = jnp.where(inside[..., None], d, 0)
    return jnp.clip(number, 0, rows - 1), d


def _slice_reading(use: Use) -> Reading | None:
    axis = _numbered_axis(use)
    if axis is None:
        return None
    return Reading(1 + axis, _row_layout(use, axis))


def _slice_in_step(use: Use, number: Any, ct_z: Any) -> tuple[Any, Any]:
    axis = _numbered_axis(use)
    assert axis is not None
    number = jnp.clip(number, 0, use.view.shape_now[axis] - 1).reshape(1, 1)
    every = range(ct_z.ndim)
    return number, _three(ct_z, [], [], _by_axis(every, every, use.view.axes))


READINGS: dict[Any, Callable[[Use], Reading | None]] = {
    lax.dot_general_p: _dot_reading,
    lax.conv_general_dilated_p: _conv_reading,
    lax.gather_p: _gather_reading,
    lax.dynamic_slice_p: _slice_reading,
}
IN_STEP: dict[Any, Callable[[Use, Any, Any], tuple[Any, Any]]] = {
    lax.dot_general_p: _dot_in_step,
    lax.conv_general_dilated_p: _conv_in_step,
    lax.gather_p: _gather_in_step,
    lax.dynamic_slice_p: _slice_in_step,
}
