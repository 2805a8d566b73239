"""Rules of reading and writing parts of an array: gather, the scatters, dynamic slices.

A gather and a scatter-add with the same indices are each other's transposes.
"""

from __future__ import annotations

from math import prod
from typing import Any

import jax.numpy as jnp
from jax import lax

from funcgrad import _jax, errors
from funcgrad.registry import defvjp


@defvjp(lax.dynamic_slice_p)
def dynamic_slice_vjp(ct: Any, x: Any, *starts: Any, **_: Any) -> Any:
    at = [jnp.asarray(start) for start in starts]
    zeros = _jax.cotangent_zeros(x, ct.dtype)
    ct_x = lax.dynamic_update_slice(zeros, ct, at, allow_negative_indices=False)
    return ct_x, *(None for _ in starts)


@defvjp(lax.dynamic_update_slice_p)
def dynamic_update_slice_vjp(ct: Any, x: Any, update: Any, *starts: Any, **_: Any) -> Any:
    at = [jnp.asarray(start) for start in starts]
    hole = _jax.cotangent_zeros(update, ct.dtype)
    ct_x = lax.dynamic_update_slice(ct, hole, at, allow_negative_indices=False)
    ct_update = lax.dynamic_slice(ct, at, update.shape, allow_negative_indices=False)
    return ct_x, ct_update, *(None for _ in starts)


@defvjp(lax.gather_p)
def gather_vjp(
    ct: Any,
    x: Any,
    indices: Any,
    *,
    dimension_numbers: Any,
    indices_are_sorted: bool,
    unique_indices: bool,
    mode: Any,
    **_: Any,
) -> Any:
    # y[i] = x[index_i]; ct_x[k] = sum of ct[i] over index_i = k
    ct_x = lax.scatter_add(
        _jax.cotangent_zeros(x, ct.dtype),
        indices,
        ct,
        _scatter_dims(dimension_numbers),
        indices_are_sorted=indices_are_sorted,
        unique_indices=unique_indices,
        mode=mode,
    )
    return ct_x, None


@defvjp(lax.scatter_add_p)
def scatter_add_vjp(ct: Any, x: Any, indices: Any, updates: Any, **params: Any) -> Any:
    # y[k] = x[k] + sum of u[i] over index_i = k
    return ct, None, _read(ct, indices, updates.shape, params)


@defvjp(lax.scatter_sub_p)
def scatter_sub_vjp(ct: Any, x: Any, indices: Any, updates: Any, **params: Any) -> Any:
    # y[k] = x[k] - sum of u[i] over index_i = k
    return ct, None, -_read(ct, indices, updates.shape, params)


@defvjp(lax.scatter_p)
def scatter_vjp(ct: Any, x: Any, indices: Any, updates: Any, *, out: Any, **params: Any) -> Any:
    # y[k] = u[i] for the last i with index_i = k, else x[k]; only that u[i] gets ct[k]
    if params["update_jaxpr"] is not None:
        problem = (
            "applies a function (x.at[i].apply(f)) that has no rule. Use x.at[i].set(f(x[i]))."
        )
        raise errors.no_derivative(lax.scatter_p, problem)
    ct_x = _write(lax.scatter, ct, indices, _jax.cotangent_zeros(updates, ct.dtype), params)
    ct_updates = _read(ct, indices, updates.shape, params)
    if not _writes_once(indices, params):
        writers = _numbered(updates.shape, params["dimension_numbers"])
        last = _write(lax.scatter, jnp.zeros(x.shape, writers.dtype), indices, writers, params)
        won = _read(last, indices, updates.shape, params) == writers
        ct_updates = jnp.where(won, ct_updates, 0)
    return ct_x, None, ct_updates


@defvjp(lax.scatter_mul_p)
def scatter_mul_vjp(ct: Any, x: Any, indices: Any, updates: Any, *, out: Any, **params: Any) -> Any:
    # y[k] = x[k] prod u[i] over index_i = k; ct_u[i] = ct[k] x[k] prod of the other u
    ct_x = _write(lax.scatter_mul, ct, indices, updates, params)
    ct_updates = _read(ct * x, indices, updates.shape, params)
    if not _writes_once(indices, params):
        ct_updates = ct_updates * _product_of_others(x.shape, indices, updates, params)
    return ct_x, None, ct_updates


def _product_of_others(shape: Any, indices: Any, u: Any, params: Any) -> Any:
    """For each update the product of the other updates at its place, zeros among them or not.

    Zeros are left out of the product and come in by their sum: with one zero among the factors
    that sum is the zero itself, so the derivative by it is right too.
    """
    is_zero = u == 0
    factor = jnp.where(is_zero, 1, u)
    product = _write(lax.scatter_mul, jnp.ones(shape, u.dtype), indices, factor, params)
    zeros = _write(
        lax.scatter_add, jnp.zeros(shape, u.dtype), indices, jnp.where(is_zero, u, 0), params
    )
    count = _write(
        lax.scatter_add, jnp.zeros(shape, jnp.int32), indices, is_zero.astype(jnp.int32), params
    )
    product, zeros, count = (_read(a, indices, u.shape, params) for a in (product, zeros, count))
    others = count - is_zero
    rest = product / factor
    return jnp.where(
        others == 0, rest, jnp.where(others == 1, rest * (zeros - jnp.where(is_zero, u, 0)), 0)
    )


@defvjp(lax.scatter_max_p, lax.scatter_min_p)
def scatter_extreme_vjp(
    ct: Any, x: Any, indices: Any, updates: Any, *, out: Any, **params: Any
) -> Any:
    # y[k] = max(x[k], u[i] with index_i = k); those that attain it share ct[k] equally
    attains = _read(out, indices, updates.shape, params) == updates
    zeros = jnp.zeros(x.shape, ct.dtype)
    winners = _write(lax.scatter_add, zeros, indices, attains.astype(ct.dtype), params)
    touched = _write(lax.scatter_add, zeros, indices, jnp.ones(updates.shape, ct.dtype), params)
    stays = x == out
    share = ct / jnp.maximum(winners + stays.astype(ct.dtype), 1)
    ct_x = jnp.where(stays | (touched == 0), share, 0)
    ct_updates = jnp.where(attains, _read(share, indices, updates.shape, params), 0)
    return ct_x, None, ct_updates


def _read(x: Any, indices: Any, shape: Any, params: Any) -> Any:
    """What stands in `x` where a scatter with these params writes updates of this shape."""
    dims = params["dimension_numbers"]
    sizes = iter(shape[axis] for axis in dims.update_window_dims)
    single = {*dims.inserted_window_dims, *dims.operand_batching_dims}
    return lax.gather(
        x,
        indices,
        lax.GatherDimensionNumbers(
            offset_dims=dims.update_window_dims,
            collapsed_slice_dims=dims.inserted_window_dims,
            start_index_map=dims.scatter_dims_to_operand_dims,
            operand_batching_dims=dims.operand_batching_dims,
            start_indices_batching_dims=dims.scatter_indices_batching_dims,
        ),
        [1 if axis in single else next(sizes) for axis in range(x.ndim)],
        indices_are_sorted=params["indices_are_sorted"],
        unique_indices=params["unique_indices"],
        mode=params["mode"],
        fill_value=0,
    )


def _write(scatter: Any, x: Any, indices: Any, updates: Any, params: Any) -> Any:
    """Another scatter to the places of the one with these params."""
    return scatter(
        x,
        indices,
        updates,
        params["dimension_numbers"],
        indices_are_sorted=params["indices_are_sorted"],
        unique_indices=params["unique_indices"],
        mode=params["mode"],
    )


def _scatter_dims(dims: Any) -> lax.ScatterDimensionNumbers:
    return lax.ScatterDimensionNumbers(
        update_window_dims=dims.offset_dims,
        inserted_window_dims=dims.collapsed_slice_dims,
        scatter_dims_to_operand_dims=dims.start_index_map,
        operand_batching_dims=dims.operand_batching_dims,
        scatter_indices_batching_dims=dims.start_indices_batching_dims,
    )


def _writes_once(indices: Any, params: Any) -> bool:
    """Whether no two updates can meet: promised, or there is only one index (in each batch)."""
    batching = params["dimension_numbers"].scatter_indices_batching_dims
    rows = [n for axis, n in enumerate(indices.shape[:-1]) if axis not in batching]
    return params["unique_indices"] or all(isinstance(n, int) and n <= 1 for n in rows)


def _numbered(shape: Any, dims: Any) -> Any:
    """Number the updates (windows): the same number throughout one window."""
    outer = [1 if axis in dims.update_window_dims else n for axis, n in enumerate(shape)]
    numbers = jnp.arange(prod(outer), dtype=jnp.int32)
    return jnp.broadcast_to(numbers.reshape(outer), shape)
