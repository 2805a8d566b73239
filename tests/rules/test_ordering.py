"""Sorting and choosing against jax.vjp and finite differences."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from tests.rules.cases import Case, complex_normal, distinct, normal

TIES = np.array([[2.0, 1, 2, 1, 2], [0, 0, 0, 0, 0]])


def sort(dimension: int, num_keys: int = 1, is_stable: bool = True) -> Any:
    def sorted_operands(*xs: Any) -> Any:
        return lax.sort(xs, dimension=dimension, num_keys=num_keys, is_stable=is_stable)

    return sorted_operands


def top_k(k: int, axis: int = -1) -> Any:
    return lambda x: lax.top_k(x, k, axis=axis)


CASES = [
    Case(lax.sort_p, sort(1), (distinct(2, 4),)),
    Case(lax.sort_p, sort(0, is_stable=False), (distinct(4, 2),), "unstable"),
    Case(lax.sort_p, sort(0), (distinct(4, 2), normal(4, 2)), "payload"),
    Case(lax.sort_p, sort(0), (np.array([3, 1, 2, 1]), normal(4), normal(4)), "integer key"),
    Case(lax.sort_p, lambda x: sort(0)(x, np.arange(4))[0], (distinct(4),), "integer payload"),
    Case(lax.sort_p, lambda *xs: sort(0)(*xs)[1], (distinct(4), normal(4)), "one part used"),
    Case(
        lax.sort_p,
        sort(0, num_keys=2),
        (np.array([1, 0, 1, 0, 1]), distinct(5), normal(5)),
        "two keys",
    ),
    Case(lax.sort_p, sort(1), (normal(2, 0),)),
    Case(lax.sort_p, sort(1), (normal(0, 2), normal(0, 2))),
    Case(lax.top_k_p, top_k(2), (distinct(3, 5),)),
    Case(lax.top_k_p, top_k(2, axis=0), (distinct(4, 3),), "axis"),
    Case(lax.top_k_p, top_k(0), (distinct(2, 3),), "none chosen"),
    Case(lax.top_k_p, top_k(2), (normal(0, 3),)),
    Case(lax.approx_top_k_p, lambda x: lax.approx_max_k(x, 2), (distinct(3, 5),)),
    Case(
        lax.approx_top_k_p,
        lambda x: lax.approx_min_k(x, 2, reduction_dimension=0),
        (distinct(5, 2),),
        "smallest",
    ),
]


def approx(is_max: bool, **params: Any) -> Any:
    choose = lax.approx_max_k if is_max else lax.approx_min_k
    return lambda x: choose(x, 2, **params)


CASES += [
    Case(lax.approx_top_k_p, approx(is_max, **params), (distinct(3, 6),), f"{is_max}-{i}", order=1)
    for is_max in (True, False)
    for i, params in enumerate(
        [
            {"aggregate_to_topk": False},
            {"reduction_dimension": 0, "reduction_input_size_override": 8},
        ]
    )
]
CASES += [
    Case(lax.sort_p, sort(0), (complex_normal(4), complex_normal(4)), "complex", order=1),
    Case(lax.sort_p, sort(0), (normal(4), complex_normal(4)), "complex payload", order=1),
    Case(lax.sort_p, sort(1), (normal(3, 1), normal(3, 1)), "one", order=1),
    Case(lax.sort_p, sort(0, num_keys=3), (distinct(3), distinct(3), normal(3)), "keys", order=1),
]

SPECIAL = [
    Case(
        lax.sort_p,
        sort(0, num_keys=2),
        (np.array([1.0, 1, 0, 0, 1]), np.array([2.0, 2, 1, 0, 0]), normal(5)),
        "tied keys",
        order=1,
        smooth=False,
    ),
    Case(
        lax.sort_p,
        sort(0, is_stable=False),
        (np.array([1.0, 1, 0, 0]), normal(4)),
        "unstable ties",
        order=1,
        smooth=False,
    ),
    Case(
        lax.approx_top_k_p,
        approx(True),
        (np.array([[1.0, 1, 1, 0]]),),
        "ties",
        order=1,
        smooth=False,
    ),
    Case(lax.sort_p, sort(1), (TIES, TIES), "ties", order=1, smooth=False),
    Case(lax.sort_p, sort(1), (TIES,), "ties alone", order=1, smooth=False),
    Case(
        lax.sort_p,
        sort(0),
        (np.array([0.0, -0.0, np.nan, np.inf, -np.inf, np.nan]),),
        "signed zeros, nan, infinities",
        order=1,
        smooth=False,
    ),
    Case(lax.top_k_p, top_k(3), (TIES,), "ties", order=1, smooth=False),
]


@pytest.mark.parametrize("sorting", [jnp.sort, jnp.median, lambda x: jnp.percentile(x, 30.0)])
@pytest.mark.parametrize("looped", [False, True], ids=["plain", "scan"])
def test_a_key_is_sorted_once(sorting: Any, looped: bool) -> None:
    """The sort on the way forward says where each element came from, as JAX's does."""

    def loss(x: Any) -> Any:
        if looped:
            return lax.scan(lambda total, row: (total + jnp.sum(sorting(row) ** 2), None), 0.0, x)[
                0
            ]
        return jnp.sum(sorting(x) ** 2)

    x = distinct(3, 40)
    compiled = jax.jit(funcgrad.value_and_grad(loss)).lower(x).compile().as_text()
    assert len(re.findall(r" sort\(", compiled)) == 1


def test_a_rule_without_the_origins_sorts_again() -> None:
    """As where JAX differentiates our gradient, and must see the sort itself."""
    x = distinct(4)
    (ct_x,) = funcgrad.DEFAULT[lax.sort_p](
        (jnp.arange(4.0),), x, out=(jnp.sort(x),), dimension=0, is_stable=True, num_keys=1
    )
    expected = jax.vjp(jnp.sort, x)[1](jnp.arange(4.0))[0]
    np.testing.assert_array_equal(ct_x, expected)
