"""Gather, the scatters, dynamic slices, and the indexing syntax that becomes them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from funcgrad import errors
from tests.rules.cases import Case, complex_normal, distinct, normal


def ints(*values: Any) -> np.ndarray:
    return np.array(values, np.int32)


def slice_at(*starts: int, sizes: Any) -> Any:
    at = ints(*starts)
    return lambda x: lax.dynamic_slice(x, jnp.asarray(at), sizes, allow_negative_indices=False)


def update_at(*starts: int) -> Any:
    at = ints(*starts)
    return lambda x, u: lax.dynamic_update_slice(
        x, u, jnp.asarray(at), allow_negative_indices=False
    )


def take(mode: str) -> Any:
    return lambda x, i: jnp.take(x, i, axis=0, mode=mode)


def put(method: str, **kwargs: Any) -> Any:
    return lambda x, u, i: getattr(x.at[i], method)(u, **kwargs)


def scatter_rows(scatter: Any) -> Any:
    dims = lax.ScatterDimensionNumbers((1,), (0,), (0,))
    return lambda x, u, i: scatter(x, i[:, None], u, dims)


def gather_rows(x: Any, i: Any) -> Any:
    dims = lax.GatherDimensionNumbers((1,), (0,), (0,))
    return lax.gather(x, i[:, None], dims, (1, x.shape[1]))


def two_axis_windows(x: Any, i: Any) -> Any:
    dims = lax.GatherDimensionNumbers(
        offset_dims=(0, 2), collapsed_slice_dims=(), start_index_map=(1, 0)
    )
    return lax.gather(x, i, dims, (2, 2), mode="clip")


def one_of_each_row(mode: Any, *batching: int, axis: int = 1) -> Any:
    """Element i of each row; `batching` says which axis of the rows each axis of indices is for."""
    dims = lax.GatherDimensionNumbers(
        offset_dims=(),
        collapsed_slice_dims=(axis,),
        start_index_map=(axis,),
        operand_batching_dims=tuple(sorted(batching)),
        start_indices_batching_dims=tuple(batching.index(at) for at in sorted(batching)),
    )
    return lambda x, i: lax.gather(x, i[..., None], dims, (1,) * x.ndim, mode=mode)


SLICE, UPDATE, GATHER = lax.dynamic_slice_p, lax.dynamic_update_slice_p, lax.gather_p
PROMISED = "promise_in_bounds"
ROWS = ints(0, 2, 2, 1)
UNIQUE = ints(2, 0)
BATCHED = ints([0, 2], [1, 1], [2, 0])

CASES = [
    Case(SLICE, slice_at(1, 0, sizes=(2, 2)), (normal(4, 3),), "plain"),
    Case(SLICE, slice_at(3, -2, sizes=(2, 2)), (complex_normal(4, 3),), "clamped-complex"),
    Case(SLICE, slice_at(1, 0, sizes=(0, 2)), (normal(4, 3),), "empty"),
    Case(UPDATE, update_at(1, 0), (normal(4, 3), normal(2, 2)), "plain"),
    Case(UPDATE, update_at(3, -2), (normal(4, 3), normal(2, 2)), "clamped"),
    Case(UPDATE, update_at(1, 0), (normal(4, 3), normal(0, 2)), "empty"),
    Case(GATHER, lambda x, i: x[i], (normal(3, 2), ROWS), "repeated"),
    Case(GATHER, lambda x, i: x[i, i], (complex_normal(3, 3), ROWS), "points-complex"),
    Case(GATHER, take("clip"), (normal(3, 2), ints(0, 5, 2, 2)), "clip"),
    Case(GATHER, take("fill"), (normal(3, 2), ints(0, 5, 2, 2)), "fill", smooth=False),
    Case(GATHER, gather_rows, (normal(3, 2), ROWS[:0]), "empty"),
    Case(GATHER, two_axis_windows, (normal(4, 3), ints([0, 1], [1, 9])), "windows"),
    Case(
        GATHER,
        lambda x, i: jnp.take_along_axis(x, i, axis=1),
        (normal(3, 3), BATCHED),
        "take-along-axis",
    ),
    *(
        Case(GATHER, one_of_each_row(mode, 0), (normal(4, 3), ints(*at)), f"of-each-row-{mode}")
        for mode, at in [("fill", (2, 0, 1, 1)), ("clip", (7, -2, 1, 0)), (PROMISED, (0, 2, 1, 1))]
    ),
    Case(
        GATHER,
        one_of_each_row("clip", 2, 0),
        (complex_normal(2, 4, 3), ints([0, 3], [2, 9], [1, 1])),
        "of-each-row-turned-complex",
    ),
    Case(
        GATHER,
        one_of_each_row("fill", 1, axis=0),
        (normal(300, 3), np.array([0, 127, -1], np.int8)),
        "of-each-row-small-type",
        smooth=False,
    ),
    Case(
        GATHER,
        jax.vmap(lambda x, i: lax.dynamic_slice(x, (i,), (2,))),
        (normal(3, 4), ints(0, 2, 9)),
        "batched-slice",
    ),
    Case(lax.scatter_add_p, put("add"), (normal(3, 2), normal(4, 2), ROWS), "repeated"),
    Case(lax.scatter_add_p, put("add"), (normal(3, 2), normal(2), ints(1, 7, 1)), "dropped"),
    Case(
        lax.scatter_add_p,
        put("add", mode="clip"),
        (complex_normal(3), complex_normal(3), ints(1, 7, 2)),
        "clip-complex",
    ),
    Case(
        lax.scatter_add_p,
        jax.vmap(put("add")),
        (normal(3, 3), normal(3, 2), BATCHED),
        "batched",
    ),
    Case(
        lax.scatter_add_p,
        scatter_rows(lax.scatter_add),
        (normal(3, 2), normal(0, 2), ROWS[:0]),
        "empty",
    ),
    Case(
        lax.scatter_sub_p,
        scatter_rows(lax.scatter_sub),
        (normal(3, 2), normal(4, 2), ROWS),
        "repeated",
    ),
    Case(lax.scatter_p, put("set"), (normal(3, 2), normal(4, 2), ROWS), "repeated"),
    Case(
        lax.scatter_p,
        put("set", unique_indices=True),
        (complex_normal(3, 2), complex_normal(2, 2), UNIQUE),
        "unique-complex",
    ),
    Case(lax.scatter_p, lambda x, u: x.at[1].set(u), (normal(3, 2), normal(2)), "single"),
    Case(lax.scatter_p, put("set"), (normal(3), normal(3), ints(1, 7, 1)), "dropped"),
    Case(lax.scatter_p, jax.vmap(put("set")), (normal(3, 3), normal(3, 2), BATCHED), "batched"),
    Case(
        lax.scatter_mul_p,
        put("multiply", unique_indices=True),
        (normal(3, 2), normal(2, 2), UNIQUE),
        "unique",
    ),
    Case(lax.scatter_max_p, put("max"), (distinct(3, 2), distinct(4, 2, seed=1) + 0.03, ROWS)),
    Case(
        lax.scatter_min_p,
        jax.vmap(put("min")),
        (distinct(3, 3), distinct(3, 2, seed=1) + 0.03, BATCHED),
        "batched",
    ),
]

TIED = np.array([1.0, 2.0, 3.0])
SPECIAL = [
    Case(op, put(method), args, name, smooth=False, order=1, vmap=False)
    for op, method in [(lax.scatter_max_p, "max"), (lax.scatter_min_p, "min")]
    for name, args in {
        "tie-with-operand": (TIED, np.array([2.0, 1.0]), ints(1, 0)),
        "tie-of-updates": (TIED, np.array([9.0, 9.0, -9.0, -9.0]), ints(1, 1, 0, 0)),
        "all-tie": (TIED, np.array([2.0, 2.0, 3.0]), ints(1, 1, 2)),
        "infinite": (np.array([np.inf, -np.inf, 0]), np.array([np.inf, -np.inf]), ints(0, 1)),
        "nan": (np.array([np.nan, 1.0, np.nan]), np.array([1.0, np.nan]), ints(0, 1)),
    }.items()
]


@pytest.mark.parametrize("zeros", [(), (1,), (1, 6), (1, 2), (1, 2, 5)])
def test_repeated_multiply_counts_every_factor(zeros: tuple[int, ...]) -> None:
    """jax.grad refuses repeated indices; the reference multiplies one update at a time."""
    indices, x = ints(0, 1, 1, 2, 0, 1, 2), normal(3)
    u = normal(7, seed=1)
    u[list(zeros)] = 0.0

    def one_by_one(x: Any, u: Any) -> Any:
        for j, k in enumerate(indices):
            x = x * jnp.where(jnp.arange(3) == k, u[j], 1)
        return jnp.sum(jnp.sin(x) + x)

    def at_once(x: Any, u: Any) -> Any:
        x = x.at[indices].multiply(u)
        return jnp.sum(jnp.sin(x) + x)

    with jax.enable_x64(True):
        x, u = jnp.asarray(x), jnp.asarray(u)
        ours = funcgrad.grad(at_once, (0, 1))(x, u)
        expected = jax.grad(one_by_one, (0, 1))(x, u)
        for a, b in zip(ours, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)

        def probe(grad: Any, f: Any) -> Any:
            return lambda x, u: jnp.sum(grad(f, 1)(x, u) * jnp.arange(1.0, 8.0))

        ours = funcgrad.grad(probe(funcgrad.grad, at_once), (0, 1))(x, u)
        expected = jax.grad(probe(jax.grad, one_by_one), (0, 1))(x, u)
        for a, b in zip(ours, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11)


def test_indices_may_be_out_of_range_without_harm_to_scatter_max() -> None:
    """JAX up to 0.11 gives NaN here (it gathers with another mode than it scatters)."""
    x, u = jnp.array([1.0, 2.0, 3.0]), jnp.array([5.0, 6.0])
    scatter = put("max", mode="clip")
    ours = funcgrad.grad(lambda x, u: jnp.sum(scatter(x, u, ints(0, 9))), (0, 1))(x, u)
    np.testing.assert_array_equal(ours[0], [0.0, 1.0, 0.0])
    np.testing.assert_array_equal(ours[1], [1.0, 1.0])


def test_scatter_apply_says_what_to_do() -> None:
    with pytest.raises(errors.FuncgradError, match=r"Use x\.at\[i\]\.set"):
        funcgrad.grad(lambda x: jnp.sum(x.at[0].apply(jnp.sin)))(jnp.ones(3))
