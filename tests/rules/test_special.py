"""Tests of rules/special.py."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import jax.scipy.special as jsp
import numpy as np
import pytest
from jax import lax

import funcgrad
from funcgrad import errors
from tests.rules.alone import check_alone
from tests.rules.cases import Case, normal, uniform

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

TESTED_APART = (lax.igamma_grad_a_p, lax.zeta_p)

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


OPERANDS = [
    (lax.betainc, (A, POSITIVE, FRACTION)),
    (lax.polygamma, (np.ones((3, 2)), POSITIVE)),
    (lax.igamma, (A, POSITIVE)),
    (lax.igammac, (A, POSITIVE)),
    (lax.igamma_grad_a, (A, POSITIVE)),
    (lax.zeta, (1 + A, POSITIVE)),
    (lax.random_gamma_grad, (A, POSITIVE)),
    *((fn, (FRACTION,)) for fn in (lax.erf, lax.erfc, lax.erf_inv, lax.lgamma, lax.digamma)),
    *((fn, (FRACTION,)) for fn in (lax.bessel_i0e, lax.bessel_i1e)),
]
"""Each special function, with operands."""


def slopes_by_differences(fn, args, i):
    def at(step):
        return fn(*(x + step if k == i else x for k, x in enumerate(args)))

    return (at(1e-6) - at(-1e-6)) / 2e-6


@pytest.mark.parametrize(
    ("fn", "args", "i"),
    [
        pytest.param(fn, args, i, id=f"{fn.__name__}-{i}")
        for fn, args in OPERANDS
        for i in range(len(args))
    ],
)
def test_each_operand_has_a_right_derivative_or_an_error(fn, args, i):
    with jax.enable_x64(True):
        xs = tuple(map(jnp.asarray, args))
        total = lambda *xs: jnp.sum(fn(*xs))
        try:
            ours = funcgrad.grad(total, i)(*xs)
        except errors.NoDerivativeError:
            with pytest.raises((ValueError, NotImplementedError)):
                jax.grad(total, i)(*xs)
            return
        try:
            theirs, rtol = jax.grad(total, i)(*xs), 1e-10
        except (ValueError, NotImplementedError):
            theirs, rtol = slopes_by_differences(fn, xs, i), 1e-6
        np.testing.assert_allclose(ours, theirs, rtol=rtol)


def test_the_error_says_what_to_do_and_where():
    with pytest.raises(errors.NoDerivativeError, match=r"test_special.*order.*stop_gradient"):
        funcgrad.grad(lax.polygamma)(2.0, 1.5)


def test_an_operand_without_derivative_that_is_no_argument_says_nothing():
    assert np.isfinite(funcgrad.grad(lambda x: lax.betainc(2.0, 3.0, x))(0.3))
    assert np.isfinite(funcgrad.grad(funcgrad.grad(lambda x: lax.igamma(2.5, x)))(1.2))
    frozen = lambda a: lax.betainc(lax.stop_gradient(a), 3.0, a / 9)
    assert np.isfinite(funcgrad.grad(frozen)(2.0))


@pytest.mark.parametrize("op", [lax.zeta_p, lax.igamma_grad_a_p], ids=str)
def test_the_slope_that_jax_lacks(op):
    fn = {lax.zeta_p: lax.zeta, lax.igamma_grad_a_p: lax.igamma_grad_a}[op]
    check_alone(op, lambda x: fn(jnp.asarray(1 + A, x.dtype), x), POSITIVE)
    with pytest.raises(errors.NoDerivativeError):
        funcgrad.grad(fn)(2.5, 1.5)


def test_igamma_has_a_mixed_second_derivative_where_jax_has_none():
    with jax.enable_x64(True):
        mixed = funcgrad.grad(lambda x: funcgrad.grad(lax.igamma)(2.5, x))(1.2)
        step = 1e-6
        sides = [funcgrad.grad(lax.igamma)(2.5, 1.2 + h) for h in (step, -step)]
        np.testing.assert_allclose(mixed, (sides[0] - sides[1]) / (2 * step), rtol=1e-7)


NAMES = (
    "betaln digamma entr erf erfc erfcx erfinv expit expm1 expi exp1 gammaln gamma i0 i0e i1 i1e"
)
NAMES += " log_ndtr logit ndtr ndtri sici spence"


@pytest.mark.parametrize("name", [n for n in NAMES.split() if hasattr(jsp, n)])
def test_functions_of_jax_scipy(name):
    fn = getattr(jsp, name)
    args = (POSITIVE, A) if name == "betaln" else (FRACTION,)
    compare_with_jax(lambda *xs: sum(jnp.sum(y) for y in jax.tree.leaves(fn(*xs))), *args)


@pytest.mark.parametrize(
    ("name", "fn"),
    [
        ("zeta", jsp.zeta),
        ("multigammaln", lambda a, x: jsp.multigammaln(a + 2, 3)),
        ("poch", lambda a, x: jsp.poch(x, a)),
        ("rel_entr", jsp.rel_entr),
        ("kl_div", jsp.kl_div),
        ("xlogy", jsp.xlogy),
        ("xlog1py", jsp.xlog1py),
        ("beta", jsp.beta),
        ("gammainc", jsp.gammainc),
        ("gammaincc", jsp.gammaincc),
        ("hyp1f1", lambda a, x: jsp.hyp1f1(2.0, 3.0, x)),
        ("logsumexp", lambda a, x: jsp.logsumexp(a, axis=0, b=x)),
        ("bessel_jn", lambda a, x: jsp.bessel_jn(x, v=3, n_iter=20)),
    ],
)
def test_functions_of_two_arguments_of_jax_scipy(name, fn):
    compare_with_jax(lambda a, x: jnp.sum(fn(a, x)), 0.5 + A, POSITIVE)


def compare_with_jax(fn, *args):
    with jax.enable_x64(True):
        xs, every = tuple(map(jnp.asarray, args)), tuple(range(len(args)))
        pairs = jax.jit(lambda *xs: (funcgrad.grad(fn, every)(*xs), jax.grad(fn, every)(*xs)))(*xs)
        for ours, expected in zip(*pairs, strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-12)


def test_an_order_held_constant_costs_no_nan():
    slope = funcgrad.grad(lambda x: jax.scipy.special.betainc(2.0, 1.0, x))(0.5)
    np.testing.assert_allclose(slope, 1.0, rtol=1e-5)
