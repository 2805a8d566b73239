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
