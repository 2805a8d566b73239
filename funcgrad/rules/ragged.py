"""Rules of matrix products in groups (mixture of experts) and of products of scaled operands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from funcgrad import _jax
from funcgrad.registry import defvjp
from funcgrad.rules import linear

Array = Any


@defvjp(_jax.ragged_dot_general_p)
def ragged_dot_general_vjp(
    ct: Array,
    x: Array,
    y: Array,
    group_sizes: Array,
    *,
    ragged_dot_dimension_numbers: Any,
    **how: Any,
) -> Any:
    # The ragged axis of x, cut into groups, is one of the kept, of the summed or of the batch axes:
    # z[b,i,j] = sum_k x[b,i,k] y[group(i),b,k,j];  z[group,b,i,j] = sum_{k in group} x[b,i,k] y[b,k,j]
    (x_summed, _), (x_batch, _) = ragged_dot_dimension_numbers.dot_dimension_numbers
    (ragged,) = ragged_dot_dimension_numbers.lhs_ragged_dimensions
    if ragged in x_batch:  # groups change nothing
        dims = ragged_dot_dimension_numbers.dot_dimension_numbers
        ct_x, ct_y = linear.dot_general_vjp(ct, x, y, dimension_numbers=dims, **how)
        return ct_x, ct_y, None
    products = _grouped_sum_vjp if ragged in x_summed else _grouped_rows_vjp
    return *products(ct, x, y, group_sizes, ragged_dot_dimension_numbers, how), None


def _grouped_rows_vjp(
    ct: Array, x: Array, y: Array, sizes: Array, numbers: Any, how: Any
) -> tuple[Array, Array]:
    # ct_x[b,i,k] = sum_j ct[b,i,j] y[group(i),b,k,j]; ct_y[group,b,k,j] = sum_{i in group} x ct
    (x_summed, y_summed), (x_batch, y_batch) = numbers.dot_dimension_numbers
    (ragged,), groups = numbers.lhs_ragged_dimensions, numbers.rhs_group_dimensions
    x_kept = _others(x.ndim, x_summed, x_batch)
    y_kept = _others(y.ndim, y_summed, y_batch, groups)
    b, i = len(x_batch), len(x_kept)
    ct_batch, ct_i, ct_j = range(b), range(b, b + i), range(b + i, ct.ndim)
    y = _arrange(y, groups, y_batch, y_summed, y_kept)
    batch, k = range(1, 1 + b), range(1 + b, 1 + b + len(y_summed))
    ct_x = _ragged(
        (ct, ct_j, ct_batch),
        (y, range(k.stop, y.ndim), batch),
        sizes,
        ct_i[x_kept.index(ragged)],
        [0],
        how,
    )
    ct_y = _ragged((x, x_kept, x_batch), (ct, ct_i, ct_batch), sizes, ragged, [], how)
    by_axis = [k for _, k in sorted(zip(x_summed, y_summed, strict=True))]
    return (
        _restore(ct_x, x.dtype, x_batch, x_kept, x_summed),
        _restore(ct_y, y.dtype, groups, y_batch, by_axis, y_kept),
    )


def _grouped_sum_vjp(
    ct: Array, x: Array, y: Array, sizes: Array, numbers: Any, how: Any
) -> tuple[Array, Array]:
    # ct_x[b,i,k] = sum_j ct[group(k),b,i,j] y[b,k,j]; ct_y[b,k,j] = sum_i ct[group(k),b,i,j] x[b,i,k]
    (x_summed, y_summed), (x_batch, y_batch) = numbers.dot_dimension_numbers
    place = x_summed.index(numbers.lhs_ragged_dimensions[0])
    x_kept, y_kept = _others(x.ndim, x_summed, x_batch), _others(y.ndim, y_summed, y_batch)
    b, k = len(x_batch), len(x_summed)
    ct_batch = range(1, 1 + b)
    ct_i, ct_j = range(1 + b, 1 + b + len(x_kept)), range(1 + b + len(x_kept), ct.ndim)
    xs = _arrange(x, x_batch, x_summed, x_kept)
    ys = _arrange(y, y_batch, y_summed, y_kept)
    ct_x = _ragged(
        (ys, range(b + k, y.ndim), range(b)), (ct, ct_j, ct_batch), sizes, b + place, [0], how
    )
    ct_y = _ragged(
        (xs, range(b + k, x.ndim), range(b)), (ct, ct_i, ct_batch), sizes, b + place, [0], how
    )
    return (
        _restore(ct_x, x.dtype, x_batch, x_summed, x_kept),
        _restore(ct_y, y.dtype, y_batch, y_summed, y_kept),
    )


def _ragged(
    left: tuple[Array, Any, Any],
    right: tuple[Array, Any, Any],
    sizes: Array,
    ragged: int,
    groups: Sequence[int],
    how: Any,
) -> Array:
    """A ragged product of (array, summed axes, batch axes) twice."""
    (x, x_summed, x_batch), (y, y_summed, y_batch) = left, right
    numbers = lax.RaggedDotDimensionNumbers(
        ((x_summed, y_summed), (x_batch, y_batch)), [ragged], groups
    )
    return lax.ragged_dot_general(
        x,
        y,
        sizes,
        numbers,
        precision=how["precision"],
        preferred_element_type=how["preferred_element_type"],
        group_offset=how["group_offset"],
    )


def _others(ndim: int, *taken: Sequence[int]) -> list[int]:
    used = {axis for axes in taken for axis in axes}
    return [axis for axis in range(ndim) if axis not in used]


def _arrange(x: Array, *axes: Sequence[int]) -> Array:
    """`x` with its axes in this order."""
    return lax.transpose(x, [axis for part in axes for axis in part])


def _restore(ct: Array, dtype: Any, *axes: Sequence[int]) -> Array:
    """The transpose of `_arrange`, in an operand's dtype."""
    order = [axis for part in axes for axis in part]
    return lax.transpose(ct, sorted(range(ct.ndim), key=lambda i: order[i])).astype(dtype)


# --- products of scaled operands --------------------------------------------------------------


@defvjp(_jax.scaled_dot_p)
def scaled_dot_vjp(
    ct: Array,
    x: Array,
    y: Array,
    x_scale: Array,
    y_scale: Array,
    *,
    dimension_numbers: Any,
    preferred_element_type: Any,
    **_: Any,
) -> Any:
    # z = dot(x sx, y sy), each scale standing for a block of x; a scale without a sign has no gradient
    wide = jnp.bfloat16
    x_scales, y_scales = _spread(x_scale, x), _spread(y_scale, y)
    ct_x, ct_y = linear.dot_general_vjp(
        ct,
        x.astype(wide) * x_scales,
        y.astype(wide) * y_scales,
        dimension_numbers=dimension_numbers,
        precision=None,
        preferred_element_type=preferred_element_type,
    )
    return (
        (ct_x * x_scales).astype(x.dtype),
        (ct_y * y_scales).astype(y.dtype),
        _gather_blocks(ct_x * x.astype(wide), x_scale),
        _gather_blocks(ct_y * y.astype(wide), y_scale),
    )


def _spread(scale: Array, x: Array) -> Array:
    """Each scale over its block of `x`."""
    scale = scale.astype(jnp.bfloat16)
    for axis, (blocks, size) in enumerate(zip(scale.shape, x.shape, strict=True)):
        scale = jnp.repeat(scale, size // blocks, axis) if blocks != size else scale
    return scale


def _gather_blocks(ct: Array, scale: Array) -> Array | None:
    """The transpose of `_spread`; None for a dtype of exponents alone."""
    if scale.dtype == jnp.float8_e8m0fnu:
        return None
    pairs = [n for m, size in zip(scale.shape, ct.shape, strict=True) for n in (m, size // m)]
    return jnp.sum(ct.reshape(pairs), tuple(range(1, 2 * ct.ndim, 2))).astype(scale.dtype)
