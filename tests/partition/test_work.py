"""Counts of operations and bytes: beside XLA's own for single operations, and beside counts by hand."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from funcgrad.partition.work import Work, parts_of, work_of

X = jnp.ones((4, 6))
SQUARE = jnp.eye(6)
IMAGE, KERNEL = jnp.ones((2, 3, 8, 8)), jnp.ones((4, 3, 3, 3))


def equation(fun: Any, *args: Any) -> Any:
    """The one equation of a function, or of the one that it calls."""
    (eqn,) = jax.make_jaxpr(fun)(*args).eqns
    return eqn.params["jaxpr"].eqns[0] if eqn.primitive.name == "jit" else eqn


def by_xla(fun: Any, *args: Any) -> dict[str, float]:
    found: Any = jax.jit(fun).lower(*args).compile().cost_analysis()
    return found


def conv(strides: tuple[int, int], padding: Any, **params: Any) -> Any:
    return lambda x, w: lax.conv_general_dilated(x, w, strides, padding, **params)


COUNTED_BY_XLA = {
    "add": (lax.add, X, X),
    "div": (lax.div, X, X),
    "neg": (lax.neg, X),
    "max": (lax.max, X, X),
    "compare": (lax.gt, X, X),
    "of integers": (lax.mul, X.astype(int), X.astype(int)),
    "of booleans": (lax.bitwise_and, X > 0, X > 0),
    "complex mul": (lax.mul, X + 0j, X + 0j),
    "real": (lax.real, X + 0j),
    "select": (lax.select, X > 0, X, X),
    "clamp": (lax.clamp, X, X, X),
    "convert": (lambda x: lax.convert_element_type(x, np.int32), X),
    "square": (lax.square, X),
    "exp": (lax.exp, X),
    "tanh": (lax.tanh, X),
    "sin": (lax.sin, X),
    "pow": (lax.pow, X, X),
    "sqrt": (lax.sqrt, X),
    "erf": (lax.erf, X),
    "atan2": (lax.atan2, X, X),
    "x^5": (lambda x: lax.integer_pow(x, 5), X),
    "x^16": (lambda x: lax.integer_pow(x, 16), X),
    "sum of all": (lambda x: lax.reduce_sum_p.bind(x, axes=(0, 1), out_sharding=None), X),
    "sum": (lambda x: lax.reduce_sum_p.bind(x, axes=(0,), out_sharding=None), X),
    "max of all": (lambda x: lax.reduce_max_p.bind(x, axes=(0, 1), out_sharding=None), X),
    "sort": (lambda x: lax.sort(x), jnp.ones(48)),
    "matrix product": (lambda x, w: lax.dot(x, w), X, jnp.ones((6, 5))),
    "matrix by vector": (lambda x, w: lax.dot(x, w), X, jnp.ones(6)),
    "batched product": (lambda x: lax.batch_matmul(x, x), jnp.ones((3, 5, 5))),
    "convolution": (conv((1, 1), "SAME"), IMAGE, KERNEL),
    "strides": (conv((2, 2), "VALID"), IMAGE, KERNEL),
    "much padding": (conv((1, 1), [(4, 0), (1, 3)]), IMAGE, KERNEL),
    "groups of features": (
        conv((1, 1), "SAME", feature_group_count=3),
        IMAGE,
        jnp.ones((6, 1, 3, 3)),
    ),
    "groups of examples": (conv((1, 1), "SAME", batch_group_count=2), IMAGE, KERNEL),
    "dilations": (
        conv((1, 1), [(2, 2), (2, 2)], lhs_dilation=(2, 2), rhs_dilation=(2, 2)),
        IMAGE,
        KERNEL,
    ),
    "window": (
        lambda x: lax.reduce_window_max_p.bind(
            x,
            window_dimensions=(2, 3),
            window_strides=(1, 1),
            padding=((0, 0), (0, 0)),
            base_dilation=(1, 1),
            window_dilation=(1, 1),
        ),
        X,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTED_BY_XLA)
def test_operations_are_those_that_xla_counts(name):
    fun, *args = COUNTED_BY_XLA[name]
    work, found = work_of(equation(fun, *args)), by_xla(fun, *args)
    assert work is not None
    assert work.flops == found.get("flops", 0.0)
    assert work.transcendentals == found.get("transcendentals", 0.0)


MOVED_AS_XLA = ("neg", "exp", "square", "convert", "matrix product", "matrix by vector", "select")


@pytest.mark.parametrize("name", MOVED_AS_XLA)
def test_bytes_are_those_that_xla_counts(name):
    fun, *args = COUNTED_BY_XLA[name]
    args = [x + i for i, x in enumerate(args)] if name != "select" else [X > 0, X, X + 1]
    work = work_of(equation(fun, *args))
    assert work is not None
    assert work.bytes == by_xla(fun, *args)["bytes accessed"]


@pytest.mark.parametrize(
    ("fun", "args", "flops", "bytes_moved"),
    [
        (lambda x: lax.transpose(x, (1, 0)), (X,), 0, 192),
        (lambda x: lax.reshape(x, (24,)), (X,), 0, 0),
        (lambda x: lax.broadcast_in_dim(x, (3, 4, 6), (1, 2)), (X,), 0, 96 + 288),
        (lambda x: lax.slice(x, (0, 0), (2, 6)), (X,), 0, 2 * 48),
        (lambda x: lax.cumsum(x, axis=1), (X,), 4 * 5, 192),
        (lambda x: lax.argmax(x, 1, np.int32), (X,), 4 * 5, 96 + 16),
        (lambda x: lax.sort(x, dimension=1), (X,), 24 * 3, 192),
        (lambda x: lax.integer_pow(x, -3), (X,), 24 * 3, 192),
        (lambda x: lax.integer_pow(x, 1), (X,), 0, 192),
        (lambda x: lax.fft(x, "FFT", (8,)), (jnp.ones((3, 8)) + 0j,), 5 * 3 * 8 * 3, 2 * 3 * 64),
        (lambda x: lax.fft(x, "RFFT", (8,)), (jnp.ones(8),), 2.5 * 8 * 3, 32 + 5 * 8),
        (lax.linalg.cholesky_p.bind, (SQUARE,), 6**3 / 3, 2 * 144),
    ],
    ids=["transpose", "reshape", "broadcast", "slice", "cumsum", "argmax", "sort", "x^-3", "x^1", "fft",
         "rfft", "cholesky"],
)  # fmt: skip
def test_counts_by_hand(fun, args, flops, bytes_moved):
    assert work_of(equation(fun, *args)) == Work(flops, 0.0, bytes_moved)


def count_of(name: str, fun: Any, *args: Any) -> float:
    """The flops of the one equation of this primitive."""
    (eqn,) = [e for e in jax.make_jaxpr(fun)(*args).eqns if e.primitive.name == name]
    work = work_of(eqn)
    assert work is not None
    return work.flops


def test_factorizations_as_textbooks_count_them():
    """Golub and Van Loan, Matrix Computations: 2/3 n^3 for LU, 2 n^2 (m - n/3) for Householder's QR."""
    assert count_of("lu", lax.linalg.lu, SQUARE) == pytest.approx(2 / 3 * 6**3)
    tall = jnp.ones((9, 4))
    assert count_of("lu", lax.linalg.lu, tall) == pytest.approx(4**2 * (9 - 4 / 3))
    assert count_of("lu", lax.linalg.lu, tall.T) == pytest.approx(4**2 * (9 - 4 / 3))
    solve = lambda a, b: lax.linalg.triangular_solve(a, b, left_side=True)
    assert count_of("triangular_solve", solve, SQUARE, jnp.ones((6, 5))) == 6**2 * 5
    reflectors = lambda a, t: lax.linalg.householder_product(a, t)
    whole = count_of("householder_product", reflectors, SQUARE, jnp.ones(6))
    assert whole == pytest.approx(4 / 3 * 6**3)


def test_scattered_updates_are_added_one_by_one():
    at = jnp.array([1, 2, 1])
    scattered = lambda x, y: x.at[at].add(y, mode="promise_in_bounds")
    assert count_of("scatter-add", scattered, X, jnp.ones((3, 6))) == 18


def test_a_window_that_selects_and_adds():
    pooled = lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (2, 2), (2, 2), "VALID")
    backward = lambda x, ct: jax.vjp(pooled, x)[1](ct)
    # each of the 6 windows: 3 comparisons to find the greatest, and one addition
    assert count_of("select_and_scatter_add", backward, X, jnp.ones((2, 3))) == 6 * 4


@pytest.mark.parametrize(
    "fun",
    [lambda x: jax.random.bits(jax.random.key(0), (4,)), lambda x: jnp.linalg.eigh(x)],
    ids=["random bits", "iterative method"],
)
def test_what_has_no_count_says_so(fun):
    eqns = jax.make_jaxpr(fun)(SQUARE).eqns
    flat = [e for eqn in eqns for e in inside(eqn)]
    assert None in [work_of(e) for e in flat]


def inside(eqn: Any) -> list[Any]:
    called = parts_of(eqn)
    return [eqn] if called is None else [e for p in called for q in p.jaxpr.eqns for e in inside(q)]


def test_calls():
    (scan,) = parts_of(equation(lambda x: lax.scan(lambda c, _: (c * c, None), x, None, 7)[0], X))
    assert (scan.steps, scan.more, scan.is_branch) == (7, 0, False)
    test, body = parts_of(
        equation(lambda x: lax.while_loop(lambda c: c[0, 0] < 9, lambda c: c * c, x), X)
    )
    assert (test.steps, test.more, body.steps, body.more) == (None, 1, None, 0)
    branches = parts_of(equation(lambda x: lax.cond(True, jnp.sin, lambda x: x * x, x), X))
    assert [branch.is_branch for branch in branches] == [True, True]
    assert parts_of(equation(lax.sin, X)) is None
