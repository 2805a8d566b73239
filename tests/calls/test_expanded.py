"""Reductions by any function, and Householder reflectors: ops differentiated as programs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from funcgrad import errors
from tests.rules.alone import check_alone
from tests.rules.cases import Case, assert_close, check, complex_normal, distinct, normal

la = lax.linalg


def reduce(start: Any, combine: Any, *axes: int) -> Any:
    def reduced(*xs: Any) -> Any:
        if len(xs) == 1:
            return lax.reduce(xs[0], np.asarray(start, xs[0].dtype), combine, axes)
        starts = tuple(np.asarray(s, x.dtype) for s, x in zip(start, xs, strict=True))
        return lax.reduce(xs, starts, combine, axes)

    return reduced


def windows(start: Any, combine: Any, *params: Any) -> Any:
    def reduced(*xs: Any) -> Any:
        if len(xs) == 1:
            return lax.reduce_window(xs[0], np.asarray(start, xs[0].dtype), combine, *params)
        starts = tuple(np.asarray(s, x.dtype) for s, x in zip(start, xs, strict=True))
        return lax.reduce_window(xs, starts, combine, *params)

    return reduced


def product_and_sum(x: Any, y: Any) -> Any:
    """Dual numbers multiplied: an associative function of pairs."""
    return x[0] * y[0], x[1] * y[0] + x[0] * y[1]


def larger(x: Any, y: Any) -> Any:
    """The pair of the larger key; the first of equal ones."""
    keep = x[0] >= y[0]
    return jnp.where(keep, x[0], y[0]), jnp.where(keep, x[1], y[1])


def plus(x: Any, y: Any) -> Any:
    return x + y + x * y


REDUCE, WINDOW = lax.reduce_p, lax.reduce_window_p
TIES = np.array([1.0, 2, 2, 0, 2, 2, 1])

CASES = [
    Case(REDUCE, reduce(-np.inf, jnp.logaddexp, 1), (normal(2, 5, 2),), "logaddexp"),
    Case(REDUCE, reduce(0, plus, 2, 0), (normal(2, 3, 3),), "axes"),
    Case(REDUCE, reduce((1, 0), product_and_sum, 0), (normal(5), normal(5, seed=1)), "pairs"),
    Case(
        REDUCE,
        reduce((-np.inf, 0), larger, 1),
        (distinct(2, 4), normal(2, 4)),
        "argmax-with-payload",
    ),
    Case(REDUCE, reduce(0, plus, 0), (complex_normal(3, 2),), "complex"),
    Case(REDUCE, reduce(0, plus, 1), (normal(2, 0),), "empty", smooth=False),
    Case(REDUCE, reduce(0, plus, 0), (normal(3, 0),), "empty-rest"),
    Case(REDUCE, reduce(0, plus, 0), (normal(1, 2),), "one"),
    Case(REDUCE, reduce(0, plus), (normal(3),), "no-axis"),
]

SPECIAL = [
    Case(REDUCE, reduce(0, lax.max, 0), (TIES,), "ties", order=1, smooth=False),
    Case(REDUCE, reduce((-np.inf, 0), larger, 0), (TIES, TIES), "tied", order=1, smooth=False),
    Case(
        REDUCE,
        reduce(-np.inf, jnp.logaddexp, 0),
        (np.array([-np.inf, 1, -np.inf]),),
        "infinities",
        order=1,
        smooth=False,
    ),
]


@pytest.mark.parametrize("case", [*CASES, *SPECIAL], ids=lambda c: c.id)
def test_rule(case: Case) -> None:
    check(case)


def test_an_integer_operand_where_jax_errs() -> None:
    def chosen(x: Any) -> Any:
        keys, places = lax.reduce((x, np.arange(4)), (-np.inf, 9), larger, (0,))
        return keys * (places + 1)

    check_alone(REDUCE, chosen, distinct(4))


SIDES = ((1, 0), (0, 2))
WINDOWS = {
    "overlapping": (windows(0, plus, (2, 3), (1, 2), SIDES), (normal(3, 5),)),
    "dilated": (windows(0, plus, (2, 2), (2, 1), SIDES, (2, 1), (1, 2)), (normal(3, 4),)),
    "large": (windows(0, plus, (66,), (2,), ((1, 0),)), (0.1 * normal(70),)),
    "pairs": (
        windows((1, 0), product_and_sum, (3,), (1,), "SAME"),
        (normal(4), normal(4, seed=1)),
    ),
    "argmax-with-payload": (
        windows((-np.inf, 0), larger, (2, 2), (2, 2), "VALID"),
        (distinct(4, 4), normal(4, 4)),
    ),
    "no-window": (windows(0, plus, (3,), (1,), "VALID"), (normal(2),)),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_that_jax_differentiates_forward_only(name: str) -> None:
    fn, args = WINDOWS[name]
    check_alone(WINDOW, fn, *args)
    with jax.enable_x64(True):
        xs = tuple(map(jnp.asarray, args))
        ts = tuple(jnp.asarray(normal(*np.shape(x), seed=4 + i)) for i, x in enumerate(xs))
        outs, tangents = jax.jvp(lambda *xs: jax.tree.leaves(fn(*xs)), xs, ts)
        values, pull = funcgrad.vjp(lambda *xs: jax.tree.leaves(fn(*xs)), *xs)
        assert_close(values, outs, 1e-12, "value")
        cts = [jnp.asarray(normal(*y.shape, seed=9 + i)) for i, y in enumerate(outs)]
        forward = sum(jnp.sum(ct * t) for ct, t in zip(cts, tangents, strict=True))
        backward = sum(jnp.sum(ct * t) for ct, t in zip(pull(cts), ts, strict=True))
        assert_close(backward, forward, 1e-12, "pairing")


def test_tied_windows_share_as_in_jaxs_forward_mode() -> None:
    fn = windows(0, lambda x, y: lax.max(x, y), (3,), (1,), "SAME")
    with jax.enable_x64(True):
        x = jnp.asarray(TIES - 1)
        columns = [jax.jvp(fn, (x,), (e,))[1] for e in jnp.eye(7)]
        assert_close(funcgrad.jacrev(fn)(x), jnp.stack(columns, 1), 1e-12, "jacobian")


@pytest.mark.parametrize("reduced", [reduce(0, plus, 0), windows(0, plus, (2,), (1,), "SAME")])
def test_vmap(reduced: Any) -> None:
    xs = jnp.asarray(normal(3, 4))
    slopes = funcgrad.grad(lambda x: jnp.sum(reduced(x) ** 2))
    each = jnp.stack([slopes(x) for x in xs])
    np.testing.assert_allclose(jax.vmap(slopes)(xs), each, rtol=1e-5)


@pytest.mark.parametrize(
    "fn",
    [
        lambda s: lax.reduce(jnp.ones(3), s, plus, (0,)),
        lambda s: jnp.sum(lax.reduce_window(jnp.ones(3), s, plus, (2,), (1,), "SAME")),
    ],
    ids=["reduce", "reduce_window"],
)
def test_an_initial_value_takes_no_gradient(fn: Any) -> None:
    with pytest.raises(errors.InitialValueError, match=r"initial value of `reduce.*test_expanded"):
        funcgrad.grad(fn)(0.0)
    assert funcgrad.grad(lambda s: s * fn(lax.stop_gradient(s)))(0.0) > 0


# --- Householder reflectors -------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 3), (4, 1)], ids=str)
def test_householder_product(shape: tuple[int, ...]) -> None:
    args = normal(*shape), normal(*shape[:-2], min(shape[-1], 2), seed=1)
    check_alone(la.householder_product_p, la.householder_product, *args)


def test_a_reflector_that_is_the_identity() -> None:
    check_alone(la.householder_product_p, la.householder_product, normal(3, 2), np.array([0.0, 1]))


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("transpose", [True, False])
def test_ormqr(left: bool, transpose: bool) -> None:
    def fn(a: Any, taus: Any, c: Any) -> Any:
        return la.ormqr(a, taus, c, left=left, transpose=transpose)

    c = normal(4, 2, seed=2) if left else normal(2, 4, seed=2)
    check_alone(la.ormqr_p, fn, normal(4, 3), normal(2, seed=1), c)


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("transpose", [True, False])
def test_programs_compute_what_their_complex_ops_do(left: bool, transpose: bool) -> None:
    def fn(a: Any, taus: Any, c: Any) -> Any:
        product = la.ormqr(a, taus, c, left=left, transpose=transpose)
        return product, la.householder_product(a, taus)

    with jax.enable_x64(True):
        a, taus, c = complex_normal(3, 2), complex_normal(2, seed=3), complex_normal(3, 3, seed=5)
        assert_close(funcgrad.vjp(fn, a, taus, c)[0], fn(a, taus, c), 1e-12, "value")


def test_cholesky_update() -> None:
    r = np.triu(normal(3, 3)) + 3 * np.eye(3)
    check_alone(la.cholesky_update_p, la.cholesky_update, r, normal(3, seed=1))
