"""Prices of computing an equation again."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from funcgrad.choices import choices
from funcgrad.partition.costs import CHEAP_ONLY, Prices, quick, worthwhile

X = jnp.ones(8)


def only_equation(fun, *args):
    (eqn,) = jax.make_jaxpr(fun)(*args).eqns
    return eqn


def printed(x):
    jax.debug.print("{}", x)
    return x * 2.0


@pytest.mark.parametrize(
    ("fun", "cheap_only", "where_worth_it", "at_one_byte"),
    [
        (lambda x: x * 2.0, 0.0, 0.0, 8.0),
        (jnp.exp, None, 20.0, 80.0),
        (jnp.cumsum, None, None, 8.0),
        (jax.jit(lambda x: x * 2.0 + 1.0), 0.0, 0.0, 16.0),
        (jnp.sin, None, 80.0, 320.0),
        (lambda x: 1.0 / x, None, 20.0, 80.0),
        (jax.jit(lambda x: jnp.exp(x * 2.0)), None, 20.0, 88.0),
        (jax.jit(lambda x: (x * 2.0, 1.0 + jnp.zeros(3))), None, None, 7.0),
        (jax.jit(printed), None, None, None),
    ],
    ids=[
        *("cheap", "exp", "scan", "sin", "quotient"),
        *("cheap call", "dear call", "needless input", "effect"),
    ],
)
def test_prices(fun, cheap_only, where_worth_it, at_one_byte):
    eqn = only_equation(fun, X)
    assert CHEAP_ONLY.of(eqn) == cheap_only
    assert worthwhile().of(eqn) == where_worth_it
    assert Prices.at(1.0).of(eqn) == at_one_byte


@pytest.mark.parametrize("fun", [jnp.exp, jnp.sin, jnp.sqrt, jnp.sum], ids=lambda f: f.__name__)
def test_where_time_goes_first_only_swift_functions_are_computed_again(fun):
    eqn = only_equation(fun, X)
    swift = eqn.primitive in choices().swift
    assert swift == (fun is jnp.exp)
    assert quick().of(eqn) == (worthwhile().of(eqn) if swift else None)


@pytest.mark.parametrize(
    ("shapes", "kept"),
    [
        (((5, 1, 3), (1, 5, 3)), True),
        (((5, 1, 16), (1, 5, 16)), True),
        (((5, 1, 17), (1, 5, 17)), False),
        (((5, 5, 3), (1, 5, 3)), False),
        (((5, 1), (5,)), True),
        (((5, 5, 1), (1, 5, 1)), False),
        (((3,), (3,)), False),
    ],
    ids=str,
)
def test_where_time_goes_first_what_is_broadcast_over_a_short_axis_is_kept(shapes, kept):
    operands = [jnp.ones(shape) for shape in shapes]
    rank = max(map(len, shapes))
    operands = [x.reshape((1,) * (rank - x.ndim) + x.shape) for x in operands]
    jaxpr = jax.make_jaxpr(lambda x, y: x - y)(*operands).jaxpr
    eqn = next(eqn for eqn in jaxpr.eqns if eqn.primitive is jax.lax.sub_p)
    assert quick().of(eqn) == (None if kept else 0.0)
    assert worthwhile().of(eqn) == 0.0
