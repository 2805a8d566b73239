"""Tests of rules/special.py."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from tests.rules.cases import Case, check, normal, uniform

INFINITY = np.inf

POSITIVE = uniform(0.5, 3.0, 3, 2)
FRACTION = uniform(0.1, 0.9, 3, 2)

# JAX has no derivative of igamma_grad_a, so only x of (a, x) has a second one
A = uniform(1.0, 3.0, 3, 2, seed=1)

CASES = [
    Case(lax.erf_p, lax.erf, (normal(3, 2),)),
    Case(lax.erfc_p, lax.erfc, (normal(3, 2),)),
    Case(lax.erf_inv_p, lax.erf_inv, (uniform(-0.9, 0.9, 3, 2),), rtol=1e-9),
    Case(lax.lgamma_p, lax.lgamma, (POSITIVE,)),
    Case(lax.lgamma_p, lax.lgamma, (-FRACTION,), name="negative", rtol=1e-10),
    Case(lax.lgamma_p, lax.lgamma, (normal(0, 2),)),
    Case(lax.digamma_p, lax.digamma, (POSITIVE,)),
    Case(lax.polygamma_p, lambda x: lax.polygamma(jnp.full_like(x, 2.0), x), (POSITIVE,)),
    Case(
        lax.polygamma_p,
        lambda x: lax.polygamma(jnp.array([[1.0, 2.0]], x.dtype), x),
        (POSITIVE[:, :1],),
        name="broadcast",
    ),
    Case(lax.igamma_p, lax.igamma, (A, POSITIVE), order=1),
    Case(lax.igamma_p, lax.igamma, (A[:, :1], POSITIVE[:1]), order=1),
    Case(lax.igamma_p, lambda x: lax.igamma(jnp.asarray(A, x.dtype), x), (POSITIVE,), name="x"),
    Case(lax.igammac_p, lax.igammac, (A, POSITIVE), order=1),
    Case(lax.igammac_p, lambda x: lax.igammac(jnp.asarray(A, x.dtype), x), (POSITIVE,), name="x"),
    Case(
        lax.regularized_incomplete_beta_p,
        lambda x: lax.betainc(jnp.asarray(A, x.dtype), jnp.asarray(POSITIVE, x.dtype), x),
        (FRACTION,),
    ),
    Case(
        lax.regularized_incomplete_beta_p,
        lambda x: lax.betainc(jnp.asarray(A[:, :1], x.dtype), jnp.asarray(POSITIVE, x.dtype), x),
        (FRACTION[:1],),
        name="broadcast",
    ),
    Case(lax.bessel_i0e_p, lax.bessel_i0e, (normal(3, 2),)),
    Case(lax.bessel_i1e_p, lax.bessel_i1e, (normal(3, 2),), rtol=1e-10),
]

EDGES = np.array([0.0, -0.0, 1.0, -1.0, INFINITY, -INFINITY])

SPECIAL = [
    Case(op, fn, tuple(np.array(a) for a in args), name="edges", order=1, smooth=False)
    for op, fn, args in [
        (lax.erf_p, lax.erf, [EDGES]),
        (lax.erfc_p, lax.erfc, [EDGES]),
        (lax.erf_inv_p, lax.erf_inv, [EDGES]),
        (lax.lgamma_p, lax.lgamma, [EDGES]),
        (lax.digamma_p, lax.digamma, [EDGES]),
        (lax.bessel_i0e_p, lax.bessel_i0e, [EDGES]),
        (lax.bessel_i1e_p, lax.bessel_i1e, [[0.0, 1e-20, -1e-20, 1e-10, -1e-10]]),
        (lax.igamma_p, lax.igamma, [[0.0, 1.0, 2.0], [1.0, 0.0, INFINITY]]),
        (lax.igammac_p, lax.igammac, [[0.0, 1.0, 2.0], [1.0, 0.0, INFINITY]]),
    ]
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_rule(case):
    check(case)


@pytest.mark.parametrize("case", SPECIAL, ids=lambda c: c.id)
def test_special_points(case):
    check(case)


def test_what_jax_refuses_is_nan():
    assert np.isnan(funcgrad.grad(lax.polygamma)(2.0, 1.5))
    assert np.isnan(funcgrad.grad(lax.betainc, argnums=(0, 1))(2.0, 1.5, 0.5)).all()


def test_an_order_held_constant_costs_no_nan():
    slope = funcgrad.grad(lambda x: jax.scipy.special.betainc(2.0, 1.0, x))(0.5)
    np.testing.assert_allclose(slope, 1.0, rtol=1e-5)
