"""Rules of the bilinear ops: dot_general and conv_general_dilated."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import jax.numpy as jnp
from jax import lax

from funcgrad import _jax
from funcgrad.choices import choices
from funcgrad.registry import defvjp


@defvjp(lax.dot_general_p)
def dot_general_vjp(
    ct: Any,
    x: Any,
    y: Any,
    *,
    dimension_numbers: Any,
    precision: Any,
    preferred_element_type: Any,
    **_: Any,
) -> Any:
    # z[b,i,j] = sum_k x[b,i,k] y[b,j,k]; ct_x[b,i,k] = sum_j ct[b,i,j] y[b,j,k]; ct_y alike
    (x_summed, y_summed), (x_batch, y_batch) = dimension_numbers
    x_kept = _others(x.ndim, x_summed, x_batch)
    y_kept = _others(y.ndim, y_summed, y_batch)
    ct_batch = range(len(x_batch))
    ct_x_kept = range(len(x_batch), len(x_batch) + len(x_kept))
    ct_y_kept = range(len(x_batch) + len(x_kept), ct.ndim)
    how = {"precision": precision, "preferred_element_type": preferred_element_type}
    ct_x = _contract(
        (ct, ct_y_kept, ct_batch),
        (y, y_kept, y_batch),
        (x_batch, x_kept, x_summed),
        y_summed,
        {**how, "out_sharding": _jax.cotangent_sharding(x)},
    )
    ct_y = _contract(
        (ct, ct_x_kept, ct_batch),
        (x, x_kept, x_batch),
        (y_batch, y_kept, y_summed),
        x_summed,
        {**how, "out_sharding": _jax.cotangent_sharding(y)},
    )
    return _cast(ct_x, x.dtype), _cast(ct_y, y.dtype)


def _contract(ct_side: Any, other_side: Any, axes: Any, other_summed: Any, how: Any) -> Any:
    """The cotangent of the operand whose axes are (batch, kept, summed)."""
    ct, ct_summed, ct_batch = ct_side
    other, other_kept, other_batch = other_side
    batch, kept, summed = axes
    by_axis = sorted(range(len(batch)), key=lambda i: batch[i])
    batch, ct_batch, other_batch = (
        [dims[i] for i in by_axis] for dims in (batch, ct_batch, other_batch)
    )
    summed = [axis for _, axis in sorted(zip(other_summed, summed, strict=True))]
    ct_first, other_first = [*batch, *kept, *summed], [*batch, *summed, *kept]
    ct_dims, other_dims = (tuple(ct_summed), ct_batch), (tuple(other_kept), other_batch)
    if other_first == sorted(other_first):
        dims = (other_dims[0], ct_dims[0]), (other_dims[1], ct_dims[1])
        return product(other, ct, dims, **how)
    dims = (ct_dims[0], other_dims[0]), (ct_dims[1], other_dims[1])
    sharding = _jax.permuted(how["out_sharding"], ct_first)
    contracted = product(ct, other, dims, **{**how, "out_sharding": sharding})
    if ct_first == sorted(ct_first):
        return contracted
    return lax.transpose(contracted, _inverse(ct_first))


def product(x: Any, y: Any, dimension_numbers: Any, **how: Any) -> Any:
    """``dot_general``, with leading axes that it sums over as one axis if that is whole on one device.

    Of the operands of a sum over several axes, XLA for CPUs makes transposed copies. On several devices
    one of them may be sharded, and parts of the axis in their place lie on no device together.
    """
    (x_summed, y_summed), (x_batch, y_batch) = dimension_numbers
    pairs = {*zip(x_summed, y_summed, strict=True)}
    rows = next(n for n in range(len(pairs) + 1) if (n, n) not in pairs)
    if rows > 1 and _jax.on_one_device(x, y):
        x, y = (lax.reshape(v, (prod(v.shape[:rows]), *v.shape[rows:])) for v in (x, y))
        rest = [(i - rows + 1, j - rows + 1) for i, j in pairs if i >= rows]
        x_summed, y_summed = zip((0, 0), *rest, strict=True)
        x_batch, y_batch = ([i - rows + 1 for i in axes] for axes in (x_batch, y_batch))
    return lax.dot_general(x, y, ((x_summed, y_summed), (x_batch, y_batch)), **how)


@defvjp(lax.conv_general_dilated_p)
def conv_general_dilated_vjp(
    ct: Any,
    x: Any,
    w: Any,
    *,
    window_strides: Any,
    padding: Any,
    lhs_dilation: Any,
    rhs_dilation: Any,
    dimension_numbers: Any,
    feature_group_count: int,
    batch_group_count: int,
    precision: Any,
    preferred_element_type: Any,
    **_: Any,
) -> Any:
    # y[p] = sum_k X[p s + k d - lo] w[k], X the dilated x
    if 0 in (ct.size, x.size, w.size):
        return _jax.cotangent_zeros(x), _jax.cotangent_zeros(w)
    x_axes, w_axes, y_axes = dimension_numbers
    sides = (x, x_axes, lhs_dilation), (w, w_axes, rhs_dilation), (ct, y_axes, window_strides)
    lows, groups = [lo for lo, _ in padding], (feature_group_count, batch_group_count)
    sizes = [*zip(*map(_dilated, sides), lows, strict=True)]
    how = {"precision": precision, "preferred_element_type": preferred_element_type}
    ct_x = _ct_of_image(*sides, sizes, groups, {**how, "out_sharding": _jax.cotangent_sharding(x)})
    ct_w = _ct_of_kernel(*sides, sizes, groups, {**how, "out_sharding": _jax.cotangent_sharding(w)})
    return _cast(ct_x, x.dtype), _cast(ct_w, w.dtype)


Side = tuple[Any, Sequence[int], Sequence[int]]
"""An operand of a convolution or the cotangent of its result, with its axes and its dilation."""

Sizes = Sequence[tuple[int, int, int, int]]
"""By spatial axis, the dilated sizes of `x`, `w` and `ct`, and the padding in front of `x`."""


def _ct_of_image(
    x_side: Side, w_side: Side, y_side: Side, sizes: Sizes, groups: tuple[int, int], how: Any
) -> Any:
    # ct_x[i] = sum_k ct[(i + lo - k d) / s] w[k]
    (_, x_axes, strides), (w, w_axes, w_dilation), (ct, y_axes, y_dilation) = x_side, w_side, y_side
    features, batches = groups
    count = features * batches
    flipped = lax.rev(_move_groups(w, count, w_axes[0], w_axes[1]), w_axes[2:])
    image, kernel = y_side, (flipped, _swapped(w_axes), w_dilation)
    axes, moved = x_axes, (batches, x_axes[1], x_axes[0])
    around = [(k - 1 - lo, n - m + lo) for n, k, m, lo in sizes]
    is_larger = prod(k for _, k, _, _ in sizes) > prod(m for _, _, m, _ in sizes)
    if is_larger and (count == 1 or _jax.on_one_device(w, ct)):
        # the smaller one is the kernel: XLA is faster
        flipped = lax.rev(_move_groups(ct, count, y_axes[1], y_axes[0]), y_axes[2:])
        image, kernel = (w, _swapped(w_axes), w_dilation), (flipped, y_axes, y_dilation)
        axes, moved = _swapped(x_axes), (features, x_axes[0], x_axes[1])
        around = [(m - 1 - lo, n - k + lo) for n, k, m, lo in sizes]
    ct_x = _convolved(ct.dtype, image, kernel, axes, strides, around, (count, 1), how)
    return _move_groups(ct_x, *moved)


def _ct_of_kernel(
    x_side: Side, w_side: Side, y_side: Side, sizes: Sizes, groups: tuple[int, int], how: Any
) -> Any:
    # ct_w[k] = sum_p X[p s + k d - lo] ct[p]
    (x, x_axes, x_dilation), (w, w_axes, strides), (ct, y_axes, y_dilation) = x_side, w_side, y_side
    features, batches = groups
    image, kernel = (x, _swapped(x_axes), x_dilation), (ct, _swapped(y_axes), y_dilation)
    if features * batches == 1 and max(x_dilation, default=1) > 1:
        # the one with zeros between its elements is the kernel: XLA is faster
        around = [(k - 1 - lo, n - m + lo) for n, k, m, lo in sizes]
        ct_w = _convolved(ct.dtype, kernel, image, w_axes, strides, around, (1, 1), how)
        return lax.rev(ct_w, w_axes[2:])
    counts = batches, features
    if features > 1 and _groups_go_to_features(
        x, ct, x.shape[x_axes[1]], w.shape[w_axes[0]], features
    ):
        moved = _move_groups(x, features, x_axes[1], x_axes[0])
        image, counts = (moved, _swapped(x_axes), x_dilation), (features, 1)
    around = [(lo, k + m - 1 - n - lo) for n, k, m, lo in sizes]
    return _convolved(ct.dtype, image, kernel, _swapped(w_axes), strides, around, counts, how)


def _convolved(
    dtype: Any,
    image: Side,
    kernel: Side,
    axes: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    groups: tuple[int, int],
    how: Any,
) -> Any:
    """The convolution of two sides, whose result has these axes."""
    (x, x_axes, x_dilation), (w, w_axes, w_dilation) = image, kernel
    return lax.conv_general_dilated(
        x.astype(dtype),
        w.astype(dtype),
        window_strides=strides,
        padding=padding,
        lhs_dilation=x_dilation,
        rhs_dilation=w_dilation,
        dimension_numbers=lax.ConvDimensionNumbers(x_axes, w_axes, axes),
        feature_group_count=groups[0],
        batch_group_count=groups[1],
        **how,
    )


def _groups_go_to_features(x: Any, ct: Any, channels: int, results: int, groups: int) -> bool:
    """Whether a cotangent of weights is computed with groups of features, not with groups of batches.

    XLA for CPUs is slow with the latter but where each group is one channel. On several devices the
    batch may be sharded, and its parts lie on no device together in an axis of groups and batch.
    """
    by_channel = channels == results == groups
    return choices().weights_by_features and not by_channel and _jax.on_one_device(x, ct)


def _dilated(side: Side) -> list[int]:
    """The spatial sizes once `dilation - 1` zeros stand between neighbours."""
    x, axes, dilation = side
    return [(x.shape[axis] - 1) * d + 1 for axis, d in zip(axes[2:], dilation, strict=True)]


def _swapped(axes: Sequence[int]) -> tuple[int, ...]:
    """Exchange the roles of batch and feature (or of output and input feature)."""
    return (axes[1], axes[0], *axes[2:])


def _move_groups(x: Any, groups: int, source: int, target: int) -> Any:
    """Split `groups` off the front of axis `source` and put them in front of axis `target`."""
    if groups == 1:
        return x
    shape = list(x.shape)
    shape[source : source + 1] = [groups, shape[source] // groups]
    split = x.reshape(shape)
    target = target + (target > source)
    moved = jnp.moveaxis(split, source, target if target < source else target - 1)
    shape = list(x.shape)
    shape[source] //= groups
    shape[target - (target > source)] *= groups
    return moved.reshape(shape)


def _others(ndim: int, *taken: Sequence[int]) -> list[int]:
    used = {axis for axes in taken for axis in axes}
    return [axis for axis in range(ndim) if axis not in used]


def _inverse(permutation: Sequence[int]) -> list[int]:
    return sorted(range(len(permutation)), key=lambda i: permutation[i])


def _cast(x: Any, dtype: Any) -> Any:
    """`x` in an operand's dtype; the cotangent of a real operand is real."""
    if jnp.iscomplexobj(x) and not jnp.issubdtype(dtype, jnp.complexfloating):
        x = lax.real(x)
    return x.astype(dtype)
