"""The sparse arrays of jax.experimental: their primitives, and what these do to data and indices.

Importing them costs a tenth of a second, so nothing imports this file before somebody has.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax.experimental.sparse import bcoo, bcsr, coo, csr, linalg, util
from jax.experimental.sparse.api import todense_p  # noqa: F401

bcoo_dot_general_p = bcoo.bcoo_dot_general_p
bcoo_dot_general_sampled_p = bcoo.bcoo_dot_general_sampled_p
bcoo_extract_p = bcoo.bcoo_extract_p
bcoo_fromdense_p = bcoo.bcoo_fromdense_p
bcoo_sort_indices_p = bcoo.bcoo_sort_indices_p
bcoo_spdot_general_p = bcoo.bcoo_spdot_general_p
bcoo_sum_duplicates_p = bcoo.bcoo_sum_duplicates_p
bcoo_todense_p = bcoo.bcoo_todense_p
bcoo_transpose_p = bcoo.bcoo_transpose_p
bcsr_dot_general_p = bcsr.bcsr_dot_general_p
bcsr_extract_p = bcsr.bcsr_extract_p
bcsr_fromdense_p = bcsr.bcsr_fromdense_p
bcsr_todense_p = bcsr.bcsr_todense_p
coo_fromdense_p = coo.coo_fromdense_p
coo_matmat_p = coo.coo_matmat_p
coo_matvec_p = coo.coo_matvec_p
coo_todense_p = coo.coo_todense_p
csr_fromdense_p = csr.csr_fromdense_p
csr_matmat_p = csr.csr_matmat_p
csr_matvec_p = csr.csr_matvec_p
csr_todense_p = csr.csr_todense_p
spsolve_p = linalg.spsolve_p

Array = Any

spsolve = linalg.spsolve
"""Solve by a CSR matrix, given its data, column indices and row pointers."""

transposed_csr: Callable[[Array, Array, Array], Any] = linalg._csr_transpose
"""Data, column indices and row pointers of a square matrix's transpose."""

rows_and_columns: Callable[[Array, Array], Any] = util._csr_to_coo
"""The row and the column of each entry of a CSR matrix."""


def extract(indices: Array, x: Array, assume_unique: bool = True) -> Array:
    """A dense array's values at these indices; zero where an index lies outside.

    It is a gather, not ``bcoo_extract``, which JAX cannot batch along every axis.
    """
    return bcoo._bcoo_extract_impl(indices, x, assume_unique=assume_unique)


def extract_csr(columns: Array, pointers: Array, x: Array) -> Array:
    """The same at the column indices and row pointers of a BCSR array."""
    return extract(bcoo_indices(columns, pointers, x.shape), x)


def spread(data: Array, indices: Array, shape: Any) -> Array:
    """The dense array of a BCOO array's data; equal indices add up."""
    return bcoo._bcoo_todense(data, indices, spinfo=util.SparseInfo(tuple(shape)))


def spread_csr(data: Array, columns: Array, pointers: Array, shape: Any) -> Array:
    """The dense array of a BCSR array's data."""
    return bcsr._bcsr_todense(data, columns, pointers, spinfo=util.SparseInfo(tuple(shape)))


def bcoo_indices(columns: Array, pointers: Array, shape: Any) -> Array:
    """The indices of a BCSR array as those of a BCOO array."""
    return bcsr._bcsr_to_bcoo(columns, pointers, shape=shape)


def contract(data: Array, indices: Array, dense: Array, dims: Any, info: Any, dtype: Any) -> Array:
    """``dot_general`` of a BCOO array and a dense array."""
    return bcoo._bcoo_dot_general(
        data,
        indices,
        dense,
        dimension_numbers=dims,
        preferred_element_type=dtype,
        lhs_spinfo=info,
    )


def contract_stored(x: Array, y: Array, indices: Array, dims: Any) -> Array:
    """``dot_general`` of two dense arrays at these indices alone."""
    return bcoo.bcoo_dot_general_sampled(x, y, indices, dimension_numbers=dims)


def order_of(indices: Array) -> Array:
    """For each place of sorted indices, the place of the same entry before sorting."""
    batch = indices.ndim - 2
    sort = util.nfold_vmap(bcoo._bcoo_sort_indices_unbatched, batch, broadcasted=False)
    return sort(indices)[1]


def places_of(indices: Array, shape: Any) -> Array:
    """For each entry, its place among the sorted indices without duplicates."""
    return bcoo._unique_indices(indices, shape=tuple(shape), return_inverse=True)[1]


def taken(x: Array, places: Array, batch: int) -> Array:
    """The rows of `x` at these places, under `batch` leading axes; zeros at a place outside."""
    take: Callable[..., Array] = partial(jax.numpy.take, axis=0, mode="fill", fill_value=0)
    return util.nfold_vmap(take, batch)(x, places)


def spdot_general(*operands: Array, **params: Any) -> Any:
    """What ``bcoo_spdot_general`` computes, as operations on data and indices."""
    return bcoo._bcoo_spdot_general_impl(*operands, **params)


def todense(*buffers: Array, tree: Any) -> Array:
    """What ``todense`` computes: the array's own method, or a dense array as it is."""
    array = jax.tree.unflatten(tree, buffers)
    return array if isinstance(array, jax.Array) else array.todense()
