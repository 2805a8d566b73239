"""Tests of rules/elementwise.py."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from funcgrad import _jax
from tests.compare import assert_same
from tests.rules.cases import Case, complex_normal, normal, uniform

INFINITY = np.inf

ANYWHERE = normal(3, 4)
INSIDE = uniform(-0.9, 0.9, 3, 4)
POSITIVE = uniform(0.5, 3.0, 3, 4)

UNARY = [
    (lax.exp_p, lax.exp, ANYWHERE),
    (lax.exp2_p, lax.exp2, ANYWHERE),
    (lax.expm1_p, lax.expm1, ANYWHERE),
    (lax.log_p, lax.log, POSITIVE),
    (lax.log1p_p, lax.log1p, INSIDE),
    (lax.logistic_p, lax.logistic, ANYWHERE),
    (lax.sin_p, lax.sin, ANYWHERE),
    (lax.cos_p, lax.cos, ANYWHERE),
    (lax.tan_p, lax.tan, INSIDE),
    (lax.asin_p, lax.asin, INSIDE),
    (lax.acos_p, lax.acos, INSIDE),
    (lax.atan_p, lax.atan, ANYWHERE),
    (lax.sinh_p, lax.sinh, ANYWHERE),
    (lax.cosh_p, lax.cosh, ANYWHERE),
    (lax.tanh_p, lax.tanh, ANYWHERE),
    (lax.asinh_p, lax.asinh, ANYWHERE),
    (lax.acosh_p, lax.acosh, 1 + POSITIVE),
    (lax.atanh_p, lax.atanh, INSIDE),
]

if _jax.log2_p is not None:
    UNARY.append((lax.log2_p, lax.log2, POSITIVE))
    UNARY.append((lax.one_minus_square_p, lax.one_minus_square_p.bind, ANYWHERE))


def in_right_half_plane(x):
    """Where every branch of every function of the table is the principal one in every JAX."""
    return np.abs(x.real) + 1j * x.imag


CASES = [
    *(Case(op, fn, (x,)) for op, fn, x in UNARY),
    *(
        Case(op, fn, (in_right_half_plane(complex_normal(3)),), name="complex", order=1, rtol=1e-10)
        for op, fn, _ in UNARY
    ),
    Case(lax.exp_p, lax.exp, (normal(0, 4),)),
    Case(lax.tanh_p, lax.tanh, (normal(),)),
    Case(lax.atan2_p, lax.atan2, (normal(3, 4), normal(3, 4, seed=1))),
    Case(lax.atan2_p, lax.atan2, (normal(3, 1), normal(1, 4, seed=1))),
    Case(lax.atan2_p, lax.atan2, (complex_normal(3), complex_normal(3, seed=5)), name="complex"),
]

if _jax.polynomial_p is not None:

    def polynomial(x, *coefficients):
        return lax.polynomial(x, coefficients)

    CASES += [
        Case(_jax.polynomial_p, polynomial, tuple(normal(4, seed=i) for i in range(4))),
        Case(
            _jax.polynomial_p,
            polynomial,
            (normal(3, 1), normal(3, 4, seed=1), normal(1, 4, seed=2)),
        ),
        Case(
            _jax.polynomial_p,
            polynomial,
            (0.5 * normal(2), *(normal(2, seed=i) for i in range(10))),
            name="long",
        ),
    ]

EDGES = np.array([0.0, -0.0, 1.0, -1.0, 40.0, -40.0, 800.0, -800.0, INFINITY, -INFINITY])

SPECIAL = [
    *(
        Case(op, fn, (EDGES,), name="edges", order=1, smooth=False)
        for op, fn, _ in UNARY
        if op is not lax.acosh_p
    ),
    Case(lax.acosh_p, lax.acosh, (np.array([1.0, INFINITY]),), name="edges", order=1, smooth=False),
    Case(
        lax.atan2_p,
        lax.atan2,
        (np.array([0.0, -0.0, 0.0, 1.0, INFINITY]), np.array([0.0, -1.0, 1.0, 0.0, 1.0])),
        name="edges",
        order=1,
        smooth=False,
    ),
]


def test_tanh_is_exact_near_saturation():
    y = jnp.float32(np.nextafter(np.float32(1.0), np.float32(0.0)))
    slope = funcgrad.DEFAULT[lax.tanh_p](jnp.float32(1.0), None, out=y)
    assert float(slope) == float((1 - np.float64(y)) * (1 + np.float64(y)).astype(np.float32))


def test_expm1_keeps_its_slope_where_its_value_is_minus_one():
    slope = funcgrad.grad(jnp.expm1)(jnp.float32(-30.0))
    np.testing.assert_allclose(slope, np.exp(-30.0), rtol=1e-6)


ACCURATE = [
    (lax.exp, 1.0),
    (lax.exp2, 1.0),
    (lax.expm1, -2.0),
    (lax.log, 2.0),
    (lax.log1p, 2.0),
    (lax.logistic, 40.0),
    (lax.tanh, 25.0),
    (lax.sin, 1.0),
    (lax.cos, 1.0),
    (lax.tan, 1.0),
    (lax.sqrt, 2.0),
    (lax.rsqrt, 2.0),
    (lax.cbrt, 2.0),
]
ACCURATE += [  # from JAX 0.12 on
    (getattr(lax, name), x)
    for name, x in (("log2", 2.0), ("erfc", 1.0))
    if "accuracy" in inspect.signature(getattr(lax, name, lambda x: x)).parameters
]
"""Each function that takes an accuracy, and where the output alone has lost its derivative's digits."""


@pytest.mark.parametrize(("fn", "x"), ACCURATE, ids=[fn.__name__ for fn, _ in ACCURATE])
@pytest.mark.parametrize("accuracy", [None, lax.AccuracyMode.HIGHEST, lax.AccuracyMode.DEFAULT])
def test_the_derivative_is_as_accurate_as_the_function(fn, x, accuracy):
    of = lambda x: fn(x, accuracy=accuracy)
    with jax.enable_x64(True):
        assert_same(funcgrad.grad(of)(x), jax.grad(of)(x), rtol=1e-12, weak=False)
        if accuracy is lax.AccuracyMode.HIGHEST and fn in (lax.logistic, lax.tanh):
            assert funcgrad.grad(of)(x) > 0
    found = funcgrad.grad(of)(jnp.float32(x))
    np.testing.assert_allclose(found, jax.grad(of)(jnp.float32(x)), rtol=1e-5)


def test_every_function_with_an_accuracy_is_in_the_table():
    functions = {name: fn for name, fn in vars(lax).items() if inspect.isfunction(fn)}
    takes = [
        name for name, fn in functions.items() if "accuracy" in inspect.signature(fn).parameters
    ]
    assert {*takes} == {fn.__name__ for fn, _ in ACCURATE}


@pytest.mark.parametrize("shape", [(256, 8), (4, 2048)])
def test_logsumexp_takes_no_more_memory_than_jax_grads(shape):
    def loss(x):
        return jnp.sum(jax.nn.logsumexp(x, axis=1) ** 2)

    x = jnp.asarray(np.random.default_rng(0).standard_normal(shape), np.float32)
    programs = [jax.jit(grad(loss)).lower(x).compile() for grad in (funcgrad.grad, jax.grad)]
    assert_same(programs[0](x), programs[1](x), rtol=1e-5)
    ours, allowed = (p.memory_analysis().temp_size_in_bytes for p in programs)
    assert ours <= 1.02 * allowed
