"""Rules of the error, gamma, beta and Bessel functions.

`unknown` stands for a derivative that has no known closed form, and that JAX refuses.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
from jax import lax

from funcgrad import errors
from funcgrad.registry import defvjp, partials

Array = Any

ERROR_FUNCTIONS = partials(
    {
        lax.erf_p: lambda x, y: 2 / math.sqrt(math.pi) * lax.exp(-x * x),
        lax.erfc_p: lambda x, y: -2 / math.sqrt(math.pi) * lax.exp(-x * x),
        lax.erf_inv_p: lambda x, y: math.sqrt(math.pi) / 2 * lax.exp(y * y),
    }
)

GAMMA_FUNCTIONS = partials(
    {
        lax.lgamma_p: lambda x, y: lax.digamma(x),
        lax.digamma_p: lambda x, y: lax.polygamma(lax.full_like(x, 1), x),
    }
)

BESSEL_FUNCTIONS = partials(
    {
        lax.bessel_i0e_p: lambda x, y: lax.bessel_i1e(x) - lax.sign(x) * y,
        lax.bessel_i1e_p: lambda x, y: bessel_i1e_slope(x, y),
    }
)


def bessel_i1e_slope(x: Array, y: Array) -> Array:
    # y = exp(-|x|) I1(x); dy/dx = exp(-|x|) I0(x) - y (sign(x) + 1/x), and 1/2 at 0
    tiny = jnp.finfo(x.dtype).eps
    near_zero = lax.abs(x) <= tiny
    nonzero = jnp.where(near_zero, tiny, x)
    slope = lax.bessel_i0e(nonzero) - y * (lax.sign(nonzero) + 1 / nonzero)
    return jnp.where(near_zero, 0.5, slope)


def unknown(op: Any, operand: str) -> Any:
    """In the place of a cotangent: the error where one is asked for."""
    return errors.no_derivative(
        op,
        f"has no derivative by {operand} that is known in closed form. If it is a constant, wrap it in "
        "jax.lax.stop_gradient; otherwise give the op a rule with rules.override.",
    )


@defvjp(lax.polygamma_p, elementwise=True)
def polygamma_vjp(ct: Array, m: Array, x: Array, **_: Any) -> Any:
    return unknown(lax.polygamma_p, "its order"), ct * lax.polygamma(m + 1, x)


@defvjp(lax.igamma_p, elementwise=True)
def igamma_vjp(ct: Array, a: Array, x: Array, **_: Any) -> Any:
    return ct * lax.igamma_grad_a(a, x), ct * gamma_density(a, x)


@defvjp(lax.igammac_p, elementwise=True)
def igammac_vjp(ct: Array, a: Array, x: Array, **_: Any) -> Any:
    # igammac = 1 - igamma
    return -ct * lax.igamma_grad_a(a, x), -ct * gamma_density(a, x)


@defvjp(lax.regularized_incomplete_beta_p, elementwise=True)
def regularized_incomplete_beta_vjp(ct: Array, a: Array, b: Array, x: Array, **_: Any) -> Any:
    op = lax.regularized_incomplete_beta_p
    return (
        unknown(op, "its parameter a"),
        unknown(op, "its parameter b"),
        ct * beta_density(a, b, x),
    )


@defvjp(lax.igamma_grad_a_p, elementwise=True)
def igamma_grad_a_vjp(ct: Array, a: Array, x: Array, **_: Any) -> Any:
    # d/dx dP/da = d/da p(x; a) = p(x; a) (log(x) - digamma(a))
    ct_x = ct * (gamma_density(a, x) * (lax.log(x) - lax.digamma(a)))
    return unknown(lax.igamma_grad_a_p, "its parameter a"), ct_x


@defvjp(lax.zeta_p, elementwise=True)
def zeta_vjp(ct: Array, x: Array, q: Array, **_: Any) -> Any:
    # zeta(x, q) = sum_n (n + q)^-x; d/dq = -x zeta(x + 1, q)
    return unknown(lax.zeta_p, "its exponent"), -ct * (x * lax.zeta(x + 1, q))


def gamma_density(a: Array, x: Array) -> Array:
    # x^(a-1) exp(-x) / Gamma(a)
    return lax.exp((a - 1) * lax.log(x) - x - lax.lgamma(a))


def beta_density(a: Array, b: Array, x: Array) -> Array:
    # x^(a-1) (1-x)^(b-1) / B(a, b)
    log_beta = lax.lgamma(a) + lax.lgamma(b) - lax.lgamma(a + b)
    return lax.exp((a - 1) * lax.log(x) + (b - 1) * lax.log1p(-x) - log_beta)
