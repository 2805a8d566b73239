"""Rows of a Jacobian: how many are pulled back at once, and the loop over the parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import tree_flatten, tree_leaves, tree_map, tree_unflatten

from funcgrad import _jax, errors
from funcgrad.partition.budget import parse_bytes, peak_of_jaxpr


def check_chunk_size(chunk_size: Any) -> int | str | None:
    """The number of rows at once, or a budget of bytes as it was written."""
    if chunk_size is None:
        return None
    whole = isinstance(chunk_size, int | np.integer) and not isinstance(chunk_size, bool)
    if whole and chunk_size > 0:
        return int(chunk_size)
    if isinstance(chunk_size, str) and parse_bytes(chunk_size) is not None:
        return chunk_size
    raise errors.InputError(
        f"A Jacobian was asked for with chunk_size={chunk_size!r}. Pass how many rows are to be "
        "computed at once, as a positive integer; a string such as '200MB' or '1.5GiB' for as many "
        "as take so much memory; or None for all."
    )


def rows_of(pullback: Callable[[Any], Any], out: Any, chunk_size: int | str | None) -> Any:
    """The pullback of each element of the output, stacked along a leading axis.

    Args:
      pullback: from a cotangent like `out` to a pytree of input cotangents.
      out: the output: a pytree of arrays.
      chunk_size: how many rows are computed at once, or within how many bytes.

    Raises:
      errors.BudgetError: one row takes more bytes than there may be.
    """
    leaves, tree = tree_flatten(out)
    ends = np.cumsum([np.size(y) for y in leaves], dtype=int)
    total = int(ends[-1]) if leaves else 0

    def row(number: Any) -> Any:
        """The row of one output element, numbered through all leaves."""
        ct_leaves = [
            (number - int(end - np.size(y)) == jnp.arange(np.size(y)))
            .astype(jnp.result_type(y))
            .reshape(np.shape(y))
            for y, end in zip(leaves, ends, strict=True)
        ]
        return pullback(tree_unflatten(tree, ct_leaves))

    if total == 1 and not isinstance(chunk_size, str):
        return tree_map(lambda ct: ct[None], row(0))
    if isinstance(chunk_size, str):
        chunk_size = _rows_within(chunk_size, row)
    if chunk_size is None or chunk_size >= total:
        return jax.vmap(row)(jnp.arange(total))
    size = equal_parts(total, chunk_size)
    if _jax.is_eager(_jax.current_trace()):
        return _one_after_another(row, total, size)
    return _in_a_loop(row, total, size)


def equal_parts(total: int, most: int) -> int:
    """A part's size, at most `most`: one that divides the total if it is not less than half of that."""
    divisors = (size for size in range(most, most // 2, -1) if total % size == 0)
    return next(divisors, most)


def _one_after_another(row: Callable[[Any], Any], total: int, size: int) -> Any:
    """Without jit: a part's operations run before the next part's begin."""
    starts = range(0, total, size)
    parts = [jax.vmap(row)(jnp.arange(i, min(i + size, total))) for i in starts]
    return tree_map(_joined, *parts)


def _joined(*parts: Any) -> Any:
    return (np if parts[0].dtype == jax.dtypes.float0 else jnp).concatenate(parts)


def _in_a_loop(row: Callable[[Any], Any], total: int, size: int) -> Any:
    """As one loop. It cannot carry values of dtype float0, which are made after it."""
    like = jax.eval_shape(row, jnp.zeros((), int))
    shapes, tree = tree_flatten(like)

    def without_float0(number: Any) -> list[Any]:
        return [ct for ct in tree_leaves(row(number)) if ct.dtype != jax.dtypes.float0]

    found = iter(lax.map(without_float0, jnp.arange(total), batch_size=size))
    rows = [
        np.zeros((total, *ct.shape), jax.dtypes.float0)
        if ct.dtype == jax.dtypes.float0
        else next(found)
        for ct in shapes
    ]
    return tree_unflatten(tree, rows)


def _rows_within(budget: str, row: Callable[[Any], Any]) -> int:
    """As many rows as take so many bytes: what two and three of them take says what another adds."""
    limit = parse_bytes(budget)
    assert limit is not None
    two, three = (
        peak_of_jaxpr(jax.make_jaxpr(jax.vmap(row))(jnp.arange(count)).jaxpr) for count in (2, 3)
    )
    each = max(three - two, 1)
    fixed = max(two - 2 * each, 0)
    if fixed + each > limit:
        raise errors.BudgetError(
            f"The rows of a Jacobian were to be computed within {budget}, {limit:,} bytes. One row "
            f"takes {fixed + each:,}. Raise chunk_size, or put funcgrad.checkpoint around parts of "
            "the function."
        )
    return (limit - fixed) // each
