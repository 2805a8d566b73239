"""Rules of exponentials, logarithms, trigonometric and hyperbolic functions, and polynomials."""

from __future__ import annotations

import math
import operator
from functools import reduce
from itertools import accumulate
from typing import Any

from jax import lax

from funcgrad import _jax
from funcgrad.registry import defvjp, partials

Array = Any
Accuracy = Any

EXPONENTIALS = partials(
    {
        lax.exp_p: lambda x, y: y,
        lax.exp2_p: lambda x, y: math.log(2) * y,
    }
)

TRIGONOMETRIC = partials(
    {
        lax.tan_p: lambda x, y: 1 + y * y,
        lax.asin_p: lambda x, y: lax.rsqrt((1 - x) * (1 + x)),
        lax.acos_p: lambda x, y: -lax.rsqrt((1 - x) * (1 + x)),
    }
)

HYPERBOLIC = partials(
    {
        lax.sinh_p: lambda x, y: lax.cosh(x),
        lax.cosh_p: lambda x, y: lax.sinh(x),
        lax.asinh_p: lambda x, y: lax.rsqrt(1 + x * x),
        lax.acosh_p: lambda x, y: lax.rsqrt(x - 1) * lax.rsqrt(x + 1),
    }
)

POLYNOMIALS = partials({_jax.one_minus_square_p: lambda x, y: -2 * x})

# ct / (dx/dy) is one operation where ct * dy/dx would be two


@defvjp(lax.log_p, elementwise=True)
def log_vjp(ct: Array, x: Array, **_: Any) -> Array:
    return ct / x


@defvjp(lax.log1p_p, elementwise=True)
def log1p_vjp(ct: Array, x: Array, **_: Any) -> Array:
    return ct / (1 + x)


@defvjp(_jax.log2_p, elementwise=True)
def log2_vjp(ct: Array, x: Array, **_: Any) -> Array:
    return ct / (math.log(2) * x)


@defvjp(lax.atan_p, elementwise=True)
def atan_vjp(ct: Array, x: Array, **_: Any) -> Array:
    return ct / (1 + x * x)


@defvjp(lax.atanh_p, elementwise=True)
def atanh_vjp(ct: Array, x: Array, **_: Any) -> Array:
    return ct / ((1 - x) * (1 + x))


@defvjp(lax.sin_p, elementwise=True)
def sin_vjp(ct: Array, x: Array, *, out: Array, accuracy: Accuracy = None) -> Array:
    return lax.cos(x, accuracy=accuracy) * ct


@defvjp(lax.cos_p, elementwise=True)
def cos_vjp(ct: Array, x: Array, *, out: Array, accuracy: Accuracy = None) -> Array:
    return -(lax.sin(x, accuracy=accuracy) * ct)


@defvjp(lax.expm1_p, elementwise=True)
def expm1_vjp(ct: Array, x: Array, *, out: Array, accuracy: Accuracy = None) -> Array:
    return lax.exp(x, accuracy=accuracy) * ct


# ct from the left: XLA makes 49 kernels of an unrolled LSTM so, else 53
@defvjp(lax.logistic_p, elementwise=True)
def logistic_vjp(ct: Array, x: Array, *, out: Array, accuracy: Accuracy = None) -> Array:
    # dy/dx = y (1 - y), where 1 - y = logistic(-x) loses no digits
    if accuracy is lax.AccuracyMode.HIGHEST:
        return ct * (out * lax.logistic(-x))
    return ct * (out * (1 - out))


@defvjp(lax.tanh_p, elementwise=True)
def tanh_vjp(ct: Array, x: Array, *, out: Array, accuracy: Accuracy = None) -> Array:
    # dy/dx = (1 - y) (1 + y), where 1 - y = 2 logistic(-2x) and 1 + y = 2 logistic(2x) lose no digits
    if accuracy is lax.AccuracyMode.HIGHEST:
        above, below = (lax.logistic(sign * x, accuracy=accuracy) for sign in (2, -2))
        return 4 * (above * below) * ct
    return (1 - out) * (1 + out) * ct


@defvjp(lax.atan2_p, elementwise=True)
def atan2_vjp(ct: Array, y: Array, x: Array, **_: Any) -> Any:
    # angle = atan(y / x); d angle = (x dy - y dx) / (x^2 + y^2)
    radius_squared = x * x + y * y
    return x / radius_squared * ct, -(y / radius_squared) * ct


@defvjp(_jax.polynomial_p, elementwise=True)
def polynomial_vjp(ct: Array, x: Array, *coefficients: Array, **_: Any) -> Any:
    # y = sum a_k x^k; dy/da_k = x^k; dy/dx = sum k a_k x^(k-1), by Horner's scheme
    slopes = [k * a for k, a in enumerate(coefficients)][1:]
    ct_x = reduce(lambda slope, a: slope * x + a, reversed(slopes)) * ct
    return ct_x, *accumulate([ct] + [x] * len(slopes), operator.mul)
