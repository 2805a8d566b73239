"""Rules of ``jax.experimental.sparse``: a gradient at the stored entries, none for indices.

``S`` spreads stored data over a dense array, where equal indices add up and one outside is dropped.
Its transpose ``S'`` extracts the dense array's values at the indices; one outside gives zero.
``default`` imports this file when somebody has imported the sparse arrays.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from funcgrad import _jax
from funcgrad._jax import sparse
from funcgrad.registry import defvjp

Array = Any

# --- BCOO: data[batch, entry, dense], indices[batch, entry, sparse axis] -------------------------


@defvjp(sparse.bcoo_todense_p)
def bcoo_todense_vjp(ct: Array, data: Array, indices: Array, *, out: Array, spinfo: Any) -> Any:
    # y = S data; ct_data = S' ct
    return _summed_to(sparse.extract(indices, ct), data), None


@defvjp(sparse.bcoo_fromdense_p)
def bcoo_fromdense_vjp(ct: Any, x: Array, *, out: Any, **_: Any) -> Array:
    # data = S' x; ct_x = S ct
    ct_data, _ = ct
    _, indices = out
    return sparse.spread(ct_data, indices, x.shape)


@defvjp(sparse.bcoo_extract_p)
def bcoo_extract_vjp(
    ct: Array, indices: Array, x: Array, *, out: Array, assume_unique: bool
) -> Any:
    # y = m S' x, where m is 1, or 0 at an entry whose index has stood before; ct_x = S m ct
    if not assume_unique:
        ct = ct * sparse.extract(indices, jnp.ones_like(x), assume_unique=False)
    return None, sparse.spread(ct, indices, x.shape)


@defvjp(sparse.bcoo_transpose_p)
def bcoo_transpose_vjp(
    ct: Any, data: Array, indices: Array, *, out: Any, permutation: Any, spinfo: Any
) -> Any:
    # the data's axes are (batch, entry, dense), of which entry stays where it is
    ct_data, _ = ct
    batch, entries = indices.ndim - 2, indices.ndim - 2
    skipped = indices.shape[-1] - 1  # sparse axes of the array, for the one axis of entries
    dense = [axis - skipped for axis in permutation[batch + indices.shape[-1] :]]
    return lax.transpose(ct_data, _inverse([*permutation[:batch], entries, *dense])), None


@defvjp(sparse.bcoo_dot_general_p)
def bcoo_dot_general_vjp(
    ct: Array, data: Array, indices: Array, y: Array, *, out: Array, **params: Any
) -> Any:
    # z = dot(S data, y); ct_data = S' dot(ct, y); ct_y = dot(S data, ct)
    ct_data, ct_y = _contraction_cts(ct, data, indices, y, **params)
    return ct_data, None, ct_y


def _contraction_cts(
    ct: Array,
    data: Array,
    indices: Array,
    y: Array,
    *,
    dimension_numbers: Any,
    preferred_element_type: Any,
    lhs_spinfo: Any,
) -> tuple[Array, Array]:
    (x_summed, y_summed), (x_batch, y_batch) = dimension_numbers
    shape = lhs_spinfo.shape
    batch = indices.ndim - 2
    indices = jnp.broadcast_to(indices, (*shape[:batch], *indices.shape[batch:]))
    stored = jnp.broadcast_to(data, (*shape[:batch], *data.shape[batch:]))
    x_kept = _others(len(shape), x_summed, x_batch)
    y_kept = _others(y.ndim, y_summed, y_batch)
    ct_batch, ct_x_kept, ct_y_kept = _ranges(x_batch, x_kept, y_kept)

    x_axes = [*x_batch, *x_kept, *_sorted_by(y_summed, x_summed)]
    dims = ((ct_y_kept, y_kept), (ct_batch, y_batch))
    ct_data = _stored(ct, y.astype(ct.dtype), indices, dims, x_axes, shape)

    y_axes = [*y_batch, *_sorted_by(x_summed, y_summed), *y_kept]
    dims = ((x_kept, ct_x_kept), (x_batch, ct_batch))
    if batch + indices.shape[-1] < len(shape):  # JAX sums no axis of blocks
        dense = sparse.spread(data, indices, shape)
        ct_y = lax.dot_general(dense, ct, dims, preferred_element_type=preferred_element_type)
    else:
        ct_y = sparse.contract(stored, indices, ct, dims, lhs_spinfo, preferred_element_type)
    return _summed_to(ct_data, data), _cast(lax.transpose(ct_y, _inverse(y_axes)), y)


def _stored(ct: Array, y: Array, indices: Array, dims: Any, axes: list[int], shape: Any) -> Array:
    """``S' dot(ct, y)``, the product's axes being these of the sparse array.

    Only the stored entries are computed, unless batch or dense axes would have to change places.
    """
    batch, num_sparse = indices.ndim - 2, indices.shape[-1]
    if sorted(axes[:batch]) != list(range(batch)) or batch + num_sparse < len(shape):
        dense = lax.transpose(lax.dot_general(ct, y, dims), _inverse(axes))
        return sparse.extract(indices, dense)
    indices = indices[..., np.array([axis - batch for axis in axes[batch:]], int)]
    indices = lax.transpose(indices, (*axes[:batch], batch, batch + 1))
    data = sparse.contract_stored(ct, y, indices, dims)
    return lax.transpose(data, (*_inverse(axes[:batch]), batch))


@defvjp(sparse.bcoo_dot_general_sampled_p)
def bcoo_dot_general_sampled_vjp(
    ct: Array, x: Array, y: Array, indices: Array, *, out: Array, dimension_numbers: Any
) -> Any:
    # data = S' dot(x, y); ct_x = dot(S ct, y); ct_y = dot(S ct, x)
    (x_summed, y_summed), (x_batch, y_batch) = dimension_numbers
    x_kept = _others(x.ndim, x_summed, x_batch)
    y_kept = _others(y.ndim, y_summed, y_batch)
    ct_batch, ct_x_kept, ct_y_kept = _ranges(x_batch, x_kept, y_kept)
    sizes = ((x, x_batch), (x, x_kept), (y, y_kept))
    dense = sparse.spread(ct, indices, [z.shape[axis] for z, axes in sizes for axis in axes])
    x_axes = [*x_batch, *x_kept, *_sorted_by(y_summed, x_summed)]
    y_axes = [*y_batch, *y_kept, *_sorted_by(x_summed, y_summed)]
    highest = lax.Precision.HIGHEST
    ct_x = lax.dot_general(dense, y, ((ct_y_kept, y_kept), (ct_batch, y_batch)), highest)
    ct_y = lax.dot_general(dense, x, ((ct_x_kept, x_kept), (ct_batch, x_batch)), highest)
    ct_x, ct_y = lax.transpose(ct_x, _inverse(x_axes)), lax.transpose(ct_y, _inverse(y_axes))
    return _cast(ct_x, x), _cast(ct_y, y), None


@defvjp(sparse.bcoo_sort_indices_p)
def bcoo_sort_indices_vjp(
    ct: Any, data: Array, indices: Array, *, out: Any, spinfo: Any
) -> tuple[Array, None]:
    # y[k] = data[p[k]]; ct_data[p[k]] = ct[k]
    ct_data, _ = ct
    if not indices.shape[-1]:
        return ct_data, None
    places = jnp.argsort(sparse.order_of(indices), axis=-1)
    return _summed_to(sparse.taken(ct_data, places, indices.ndim - 2), data), None


@defvjp(sparse.bcoo_sum_duplicates_p)
def bcoo_sum_duplicates_vjp(
    ct: Any, data: Array, indices: Array, *, out: Any, spinfo: Any, nse: int | None
) -> tuple[Array, None]:
    # y[k] = sum of data[i] with p[i] = k; ct_data[i] = ct[p[i]]
    ct_data, _ = ct
    batch = indices.ndim - 2
    if not indices.shape[-1]:
        shape = (*ct_data.shape[:batch], *data.shape[batch:])
        return _summed_to(
            jnp.broadcast_to(ct_data[(slice(None),) * batch + (slice(1),)], shape), data
        ), None
    places = sparse.places_of(indices, spinfo.shape)
    return _summed_to(sparse.taken(ct_data, places, batch), data), None


# --- BCSR: the column of each entry, and where each row begins ------------------------------------


@defvjp(sparse.bcsr_todense_p)
def bcsr_todense_vjp(
    ct: Array, data: Array, columns: Array, pointers: Array, *, out: Array, spinfo: Any
) -> Any:
    return _summed_to(sparse.extract_csr(columns, pointers, ct), data), None, None


@defvjp(sparse.bcsr_fromdense_p)
def bcsr_fromdense_vjp(ct: Any, x: Array, *, out: Any, **_: Any) -> Array:
    ct_data, _, _ = ct
    _, columns, pointers = out
    return sparse.spread_csr(ct_data, columns, pointers, x.shape)


@defvjp(sparse.bcsr_extract_p)
def bcsr_extract_vjp(ct: Array, columns: Array, pointers: Array, x: Array, *, out: Array) -> Any:
    return None, None, sparse.spread_csr(ct, columns, pointers, x.shape)


@defvjp(sparse.bcsr_dot_general_p)
def bcsr_dot_general_vjp(
    ct: Array, data: Array, columns: Array, pointers: Array, y: Array, *, out: Array, **params: Any
) -> Any:
    indices = sparse.bcoo_indices(columns, pointers, params["lhs_spinfo"].shape)
    ct_data, ct_y = _contraction_cts(ct, data, indices, y, **params)
    return ct_data, None, None, ct_y


# --- COO and CSR matrices: data[entry] at (row[entry], column[entry]) -----------------------------


@defvjp(sparse.coo_todense_p)
def coo_todense_vjp(
    ct: Array, data: Array, row: Array, column: Array, *, out: Array, spinfo: Any
) -> Any:
    return _at(ct, row, column), None, None


@defvjp(sparse.csr_todense_p)
def csr_todense_vjp(
    ct: Array, data: Array, columns: Array, pointers: Array, *, out: Array, shape: Any
) -> Any:
    return _at(ct, *sparse.rows_and_columns(columns, pointers)), None, None


@defvjp(sparse.coo_fromdense_p)
def coo_fromdense_vjp(ct: Any, x: Array, *, out: Any, nse: int, **_: Any) -> Array:
    ct_data, _, _ = ct
    _, row, column = out
    return _spread_entries(ct_data, row, column, x)


@defvjp(sparse.csr_fromdense_p)
def csr_fromdense_vjp(ct: Any, x: Array, *, out: Any, nse: int, **_: Any) -> Array:
    ct_data, _, _ = ct
    _, columns, pointers = out
    row, column = sparse.rows_and_columns(columns, pointers)
    return _spread_entries(ct_data, row, column, x)


def _spread_entries(ct: Array, row: Array, column: Array, x: Array) -> Array:
    """``S ct``; entries beyond the matrix's own, which fill the array up, are constant."""
    own = jnp.arange(ct.size) < jnp.count_nonzero(x)
    return jnp.zeros(x.shape, ct.dtype).at[row, column].add(jnp.where(own, ct, 0))


@defvjp(sparse.coo_matvec_p, sparse.coo_matmat_p)
def coo_matmul_vjp(
    ct: Array,
    data: Array,
    row: Array,
    column: Array,
    y: Array,
    *,
    out: Array,
    spinfo: Any,
    transpose: bool,
) -> Any:
    # z[row] += data y[column]; ct_data = ct[row] . y[column]; ct_y[column] += data ct[row]
    ct_data, ct_y = _product_cts(ct, data, row, column, y, transpose)
    return ct_data, None, None, ct_y


@defvjp(sparse.csr_matvec_p, sparse.csr_matmat_p)
def csr_matmul_vjp(
    ct: Array,
    data: Array,
    columns: Array,
    pointers: Array,
    y: Array,
    *,
    out: Array,
    shape: Any,
    transpose: bool,
) -> Any:
    row, column = sparse.rows_and_columns(columns, pointers)
    ct_data, ct_y = _product_cts(ct, data, row, column, y, transpose)
    return ct_data, None, None, ct_y


def _product_cts(
    ct: Array, data: Array, row: Array, column: Array, y: Array, transpose: bool
) -> tuple[Array, Array]:
    if transpose:
        row, column = column, row
    ct_rows = _at(ct, row)
    ct_data = jnp.sum(ct_rows * _at(y, column), axis=tuple(range(1, y.ndim)))
    stored = data.reshape(-1, *(1,) * (y.ndim - 1))
    return ct_data, jnp.zeros_like(y).at[column].add(stored * ct_rows)


@defvjp(sparse.spsolve_p)
def spsolve_vjp(
    ct: Array,
    data: Array,
    columns: Array,
    pointers: Array,
    b: Array,
    *,
    out: Array,
    **params: Any,
) -> Any:
    # x = M^-1 b; ct_b = M^-T ct; ct_M = -ct_b x^T at the stored entries
    of_transpose = sparse.transposed_csr(data, columns, pointers)
    ct_b = sparse.spsolve(*of_transpose, b=ct, **params)
    row, column = sparse.rows_and_columns(columns, pointers)
    return -_at(ct_b, row) * _at(out, column), None, None, ct_b


# --- what they share ------------------------------------------------------------------------------


def _at(x: Array, *indices: Array) -> Array:
    """The values of `x` at these indices; zero at one outside, by which arrays are filled up."""
    return x.at[indices].get(mode="fill", fill_value=0)


def _others(ndim: int, *used: Any) -> list[int]:
    """The axes that are in none of these."""
    return [axis for axis in range(ndim) if not any(axis in axes for axes in used)]


def _ranges(*axes: Any) -> list[list[int]]:
    """Numbers one after the other, as many as each of these has."""
    ends = np.cumsum([len(some) for some in axes])
    return [list(range(end - len(some), end)) for end, some in zip(ends, axes, strict=True)]


def _sorted_by(keys: Any, values: Any) -> list[int]:
    """The second of two lists, in the order that sorts the first."""
    return [value for _, value in sorted(zip(keys, values, strict=True))]


def _inverse(permutation: Any) -> list[int]:
    return [int(i) for i in np.argsort(np.array(permutation, int))]


def _summed_to(ct: Array, x: Array) -> Array:
    """A cotangent summed over the axes on which `x`, of the same rank, has size 1; of its dtype."""
    axes = tuple(i for i, (n, m) in enumerate(zip(ct.shape, x.shape, strict=True)) if n != m)
    return _cast(jnp.sum(ct, axes, keepdims=True) if axes else ct, x)


def _cast(ct: Array, x: Array) -> Array:
    """A cotangent in the dtype of its operand; the real part for a real one."""
    if _jax.is_complex(ct) and not _jax.is_complex(x):
        ct = lax.real(ct)
    return ct.astype(x.dtype)
