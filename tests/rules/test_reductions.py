"""Reductions and cumulative reductions against jax.vjp and finite differences."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from tests.rules.cases import Case, complex_normal, distinct, normal, uniform

INF = np.inf


def over(reduce: Any, *axes: int) -> Any:
    return lambda x: reduce(x, axes)


def along(cumulate: Any, axis: int, reverse: bool = False) -> Any:
    return lambda x: cumulate(x, axis, reverse)


def row(*values: float) -> tuple[np.ndarray]:
    return (np.array(values, float),)


CASES = [
    Case(lax.reduce_sum_p, over(lax.reduce_sum, 0, 2), (normal(2, 3, 4),)),
    Case(lax.reduce_sum_p, over(lax.reduce_sum, 1), (complex_normal(2, 3),), "complex"),
    Case(lax.reduce_sum_p, over(lax.reduce_sum, 1), (normal(2, 0),)),
    Case(lax.reduce_max_p, over(lax.reduce_max, 0, 2), (distinct(2, 3, 4),)),
    Case(lax.reduce_max_p, over(lax.reduce_max, 1), (normal(0, 3),)),
    Case(lax.reduce_min_p, over(lax.reduce_min, 1), (distinct(2, 3, 4),)),
    Case(lax.reduce_min_p, over(lax.reduce_min, 1), (normal(2, 0),), smooth=False),
    Case(lax.reduce_prod_p, over(lax.reduce_prod, 0, 2), (normal(3, 2, 5),)),
    Case(lax.reduce_prod_p, over(lax.reduce_prod, 0), row(2, 0, 3), "a zero"),
    Case(lax.reduce_prod_p, over(lax.reduce_prod, 0), row(2, 0, 3, 0), "two zeros"),
    Case(lax.reduce_prod_p, over(lax.reduce_prod, 0), (complex_normal(3, 2),), "complex"),
    Case(lax.reduce_prod_p, over(lax.reduce_prod, 1), (normal(2, 0),)),
    Case(lax.reduce_prod_p, over(lax.reduce_prod, 0), (normal(1, 2),)),
    Case(lax.cumsum_p, along(lax.cumsum, 1), (normal(2, 5),)),
    Case(lax.cumsum_p, along(lax.cumsum, 0, True), (normal(3, 2),), "reverse"),
    Case(lax.cumsum_p, along(lax.cumsum, 1), (normal(2, 0),)),
    Case(lax.cumprod_p, along(lax.cumprod, 1), (normal(2, 7),)),
    Case(lax.cumprod_p, along(lax.cumprod, 0, True), (normal(6, 2),), "reverse"),
    Case(lax.cumprod_p, along(lax.cumprod, 0), row(2, 3, 0, 5, 0, 7), "two zeros"),
    Case(lax.cumprod_p, along(lax.cumprod, 0), (complex_normal(5),), "complex"),
    Case(lax.cumprod_p, along(lax.cumprod, 1), (normal(2, 0),)),
    Case(lax.cummax_p, along(lax.cummax, 1), (distinct(2, 7),)),
    Case(lax.cummax_p, along(lax.cummax, 0, True), (distinct(6, 2),), "reverse"),
    Case(lax.cummax_p, along(lax.cummax, 1), (normal(2, 0),)),
    Case(lax.cummin_p, along(lax.cummin, 1), (distinct(2, 6),)),
    Case(lax.cummin_p, along(lax.cummin, 1, True), (distinct(2, 3),), "reverse"),
    Case(lax.cumlogsumexp_p, along(lax.cumlogsumexp, 1), (normal(2, 6),)),
    Case(lax.cumlogsumexp_p, along(lax.cumlogsumexp, 0, True), (normal(5, 2),), "reverse"),
    Case(lax.cumlogsumexp_p, along(lax.cumlogsumexp, 1), (normal(2, 1),)),
    Case(lax.cumlogsumexp_p, along(lax.cumlogsumexp, 1), (normal(2, 0),)),
]


CASES += [
    Case(op, fn, args, name, order=1)
    for op, fn, args, name in [
        (lax.cumsum_p, along(lax.cumsum, 0, True), (complex_normal(3, 2),), "complex reverse"),
        (lax.cumprod_p, along(lax.cumprod, 1, True), (complex_normal(2, 3),), "complex reverse"),
        (lax.cumsum_p, along(lax.cumsum, 0), (normal(1, 2),), "one"),
        (lax.cumprod_p, along(lax.cumprod, 0), (normal(1, 2),), "one"),
        (lax.cummax_p, along(lax.cummax, 1), (normal(2, 1),), "one"),
        (lax.cummin_p, along(lax.cummin, 0), (normal(0, 2),), "none"),
        (lax.cumlogsumexp_p, along(lax.cumlogsumexp, 2), (normal(2, 1, 3),), "last of three"),
        (lax.reduce_prod_p, over(lax.reduce_prod, 0, 1, 2), (complex_normal(2, 1, 2),), "all"),
        (lax.reduce_sum_p, over(lax.reduce_sum), (normal(2),), "no axis"),
        (lax.reduce_max_p, over(lax.reduce_max), (normal(2),), "no axis"),
        (lax.reduce_min_p, over(lax.reduce_min, 0), (normal(1, 2),), "one"),
    ]
]


def special(op: Any, fn: Any, args: Any, name: str) -> Case:
    return Case(op, fn, args, name, order=1, smooth=False, vmap=False)


TIES = np.array([[1.0, 2, 2, 0, 2], [3, 3, 3, 3, 3]])
MIXED = np.array([0.0, 0, 1, 1, 1, 0, 2, 2, 1, 2, 2])

SPECIAL = [
    special(lax.reduce_max_p, over(lax.reduce_max, 1), (TIES,), "ties"),
    special(lax.reduce_min_p, over(lax.reduce_min, 0, 1), (TIES,), "ties"),
    special(lax.reduce_max_p, over(lax.reduce_max, 0), row(1, INF, -INF, INF), "infinities"),
    special(lax.reduce_max_p, over(lax.reduce_max, 0), row(1, np.nan), "nan"),
    special(lax.reduce_prod_p, over(lax.reduce_prod, 0), row(2, INF, 3), "infinity"),
    special(lax.reduce_prod_p, over(lax.reduce_prod, 0), row(0, INF, 3), "zero times infinity"),
    special(lax.cummax_p, along(lax.cummax, 0), (MIXED,), "ties"),
    special(lax.cummax_p, along(lax.cummax, 1, True), (TIES,), "reverse ties"),
    special(lax.cummin_p, along(lax.cummin, 0), (MIXED[::-1],), "ties"),
    special(lax.cummax_p, along(lax.cummax, 0), row(-INF, -INF, 0, np.nan, 1), "nan"),
    special(lax.cumprod_p, along(lax.cumprod, 0), row(2, 3, INF, 0.5), "infinity"),
    special(lax.cumprod_p, along(lax.cumprod, 0, True), row(0, 0, 2, 0), "reverse zeros"),
    special(lax.cumprod_p, along(lax.cumprod, 0), (np.array([0, 2j, 0, 1 + 1j]),), "complex zeros"),
    special(lax.cummin_p, along(lax.cummin, 0, True), row(INF, 1, 1, INF, INF), "infinities"),
    special(lax.reduce_prod_p, over(lax.reduce_prod, 0), (np.array([0, 2j, 0]),), "complex zeros"),
    special(lax.reduce_min_p, over(lax.reduce_min, 1), (TIES.T[:0],), "empty"),
    special(lax.cumlogsumexp_p, along(lax.cumlogsumexp, 0), row(-INF, 1, 2), "minus infinity"),
    special(
        lax.cumlogsumexp_p, along(lax.cumlogsumexp, 0), row(1, -INF, -INF, 2), "inner infinities"
    ),
    special(
        lax.cumlogsumexp_p, along(lax.cumlogsumexp, 0), row(-INF, -INF, 1, 2), "two infinities"
    ),
    special(lax.cumlogsumexp_p, along(lax.cumlogsumexp, 0), row(900, -900, 0, 901), "large"),
]


def test_cumlogsumexp_of_plus_infinity_gives_the_others_nothing() -> None:
    # jax.vjp multiplies the finite elements' cotangents by exp(x) here.
    pull = funcgrad.vjp(lambda x: lax.cumlogsumexp(x, 0), jnp.array([1.0, INF, 2.0]))[1]
    np.testing.assert_array_equal(pull(jnp.array([1.0, 2.0, 3.0]))[0], [1.0, 5.0, 0.0])


@pytest.mark.parametrize("n", range(1, 10))
@pytest.mark.parametrize("cumulate", [lax.cummax, lax.cumprod])
def test_every_length_of_the_tree(cumulate: Any, n: int) -> None:
    x, ct = np.round(uniform(0, 3, n)), jnp.asarray(normal(n, seed=1))

    def pulled(vjp: Any) -> Any:
        return vjp(lambda x: cumulate(x, 0), jnp.asarray(x))[1](ct)[0]

    np.testing.assert_allclose(pulled(funcgrad.vjp), pulled(jax.vjp), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: lax.argmax(x, 0, jnp.int32),
        lambda x: lax.argmin(x, 0, jnp.int32),
        lambda x: lax.reduce_and(x > 0, (0,)),
        lambda x: lax.reduce_or(x > 0, (0,)),
        lambda x: lax.reduce_xor(x > 0, (0,)),
    ],
    ids=["argmax", "argmin", "reduce_and", "reduce_or", "reduce_xor"],
)
def test_discrete_reductions_carry_no_gradient(fn: Any) -> None:
    x = jnp.asarray(normal(3))
    gradient = funcgrad.grad(lambda x: fn(x).astype(x.dtype) * 3 + 0 * x.sum())(x)
    np.testing.assert_array_equal(gradient, np.zeros(3))
