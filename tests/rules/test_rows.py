"""Every row of every table: `CASES`, and `SPECIAL`, which are zeros, ties, infinities.

In the quick part of the tests the first row of an op in `CASES` is asked for its first derivative,
eager and jitted. All that must hold of a row, and the other rows, are slow.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad
from funcgrad.registry import op_key
from funcgrad.testing.problem import equations, random_like
from tests.rules.cases import Case, check
from tests.rules.rows import rows


def each(table: str, first: bool | None = None) -> list[Any]:
    """The rows as parameters, or those that are the first of an op, or the others; these are slow."""
    found, met = [], set()
    for family, case in rows(table):
        again = table == "SPECIAL" or op_key(case.op) in met
        met.add(op_key(case.op))
        marks = [pytest.mark.slow] if again else []
        if first is None or first != again:
            found.append(pytest.param(case, id=f"{family}-{case.id}", marks=marks))
    return found


@pytest.mark.parametrize("case", each("CASES", first=True))
def test_first_derivative(case: Case) -> None:
    check(case, only=("types", "value", "jax", "jit"))


@pytest.mark.slow(landing=True)
@pytest.mark.parametrize("case", each("CASES", first=True))
def test_first_row(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("case", each("CASES", first=False))
def test_rule(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("case", each("SPECIAL"))
def test_special_points(case: Case) -> None:
    check(case)


# --- JAX's settings for careful users


@contextlib.contextmanager
def careful(case: Case) -> Iterator[None]:
    """No implicit promotion and no tracer that stays; JAX leaks tracers itself in a shard_map."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.enable_x64(True))
        stack.enter_context(jax.numpy_dtype_promotion("strict"))
        stack.enter_context(jax.numpy_rank_promotion("raise"))
        if not any("shard_map" in str(eqn.primitive) for eqn in equations_of(case)):
            stack.enter_context(jax.checking_leaks())
        yield


def equations_of(case: Case) -> list[Any]:
    with jax.enable_x64(True):
        return equations(jax.make_jaxpr(case.fn)(*case.args).jaxpr)


def gradient(case: Case, *xs: Any) -> list[Any]:
    """The cotangents of a row's operands for random ones of its outputs."""
    out, pullback = funcgrad.vjp(case.fn, *xs)
    cts = pullback(jax.tree.map(cotangent, out))
    return [ct for ct in jax.tree.leaves(cts) if ct.dtype != jax.dtypes.float0]


def cotangent(y: Any) -> Any:
    if jax.dtypes.issubdtype(y.dtype, jnp.inexact):
        return random_like(y, (3,))
    return np.zeros(y.shape, jax.dtypes.float0)


@pytest.mark.parametrize("case", [*each("CASES"), *each("SPECIAL")])
def test_careful_settings(case: Case) -> None:
    """A rule promotes nothing implicitly and leaks no tracer."""
    with careful(case):
        xs = tuple(map(jnp.asarray, case.args))
        jax.make_jaxpr(lambda *xs: gradient(case, *xs))(*xs)


@pytest.mark.parametrize("case", each("CASES"))
def test_values_that_are_not_finite(case: Case) -> None:
    """No NaN and no infinity comes up on the way back where the function's values have none."""
    with jax.enable_x64(True):
        xs = tuple(map(jnp.asarray, case.args))
        if not all(np.isfinite(y).all() for y in jax.tree.leaves(case.fn(*xs))):
            return  # the values themselves are not finite, as a fill value of NaN
        with jax.debug_nans(True), jax.debug_infs(True):
            gradient(case, *xs)
