"""Rules of arithmetic: sums, products, powers, extrema, selection, complex parts and casts."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from funcgrad import _jax, errors
from funcgrad.registry import defvjp, partials, zero
from funcgrad.rules._common import kept_elsewhere, kept_where, where

Array = Any


def is_integer(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.integer)


def cast_back(ct: Array, x: Array, out: Array) -> Array | None:
    """The cotangent of an `x` that became `out` by a cast, in the dtype of `x`; an integer has none."""
    if out.dtype == x.dtype:
        return ct
    if not _jax.is_inexact(x):
        return None
    if _jax.is_complex(ct) and not _jax.is_complex(x):
        ct = lax.real(ct)
    return lax.convert_element_type(ct, x.dtype)


# --- sums, products, quotients ----------------------------------------------------------------


@defvjp(lax.add_p, _jax.add_any_p, elementwise=True)
def add_vjp(ct: Array, x: Array, y: Array, **_: Any) -> Any:
    return ct, ct


@defvjp(lax.sub_p, elementwise=True)
def sub_vjp(ct: Array, x: Array, y: Array, **_: Any) -> Any:
    return ct, -ct


@defvjp(lax.neg_p, elementwise=True)
def neg_vjp(ct: Array, x: Array, **_: Any) -> Any:
    return -ct


@defvjp(lax.mul_p, elementwise=True)
def mul_vjp(ct: Array, x: Array, y: Array, *, out: Array, **_: Any) -> Any:
    # z = x y; ct_x = y ct, in this order: in sums over 4 axes XLA for CPUs takes 1.4 times as long for
    # a first factor that is broadcast, and what is broadcast is most often the cotangent
    return cast_back(y * ct, x, out), cast_back(x * ct, y, out)


@defvjp(lax.div_p, elementwise=True)
def div_vjp(ct: Array, x: Array, y: Array, *, out: Array, **_: Any) -> Any:
    # z = x / y; dz/dx = 1 / y; dz/dy = -z / y
    ct_x = ct / y
    return ct_x, -ct_x * out


@defvjp(lax.rem_p, elementwise=True)
def rem_vjp(ct: Array, x: Array, y: Array, **_: Any) -> Any:
    # z = x - y trunc(x / y)
    ratio = x / y
    return ct, -ct * (lax.sign(ratio) * lax.floor(lax.abs(ratio)))


# --- powers and roots -------------------------------------------------------------------------


@defvjp(lax.pow_p, elementwise=True)
def pow_vjp(ct: Array, x: Array, y: Array, *, out: Array, **_: Any) -> Any:
    # z = x^y; dz/dx = y x^(y-1); dz/dy = z log(x), taken as 0 where x = 0
    if is_integer(y):
        exponent = jnp.where(y == 0, 1, y)
        return y * x ** (exponent - 1) * ct, None
    base = jnp.where(x == 0, 1, x)
    return y * x ** (y - 1) * ct, lax.log(base) * out * ct


@defvjp(lax.integer_pow_p, elementwise=True)
def integer_pow_vjp(ct: Array, x: Array, *, out: Array, y: int, **_: Any) -> Any:
    # d(x^n)/dx = n x^(n-1); d(1/x)/dx = -(1/x)^2
    if y == 0:
        return None
    if y == -1:
        return -(out * out) * ct
    return y * (x if y == 2 else x ** (y - 1)) * ct


POWERS = partials(
    {
        lax.square_p: lambda x, y: 2 * x,
        lax.sqrt_p: lambda x, y: 0.5 / y,
        lax.rsqrt_p: lambda x, y: -0.5 * (y * y * y),
        lax.cbrt_p: lambda x, y: 1 / (3 * (y * y)),
    }
)


# --- absolute value, sign, extrema ------------------------------------------------------------


@defvjp(lax.abs_p, elementwise=True)
def abs_vjp(ct: Array, x: Array, *, out: Array, **_: Any) -> Any:
    # y = |x|; dy/dx = conj(x) / |x| and 0 at 0; on the real line it is 1 at 0
    if _jax.is_complex(x):
        return ct / jnp.where(out == 0, 1, out) * lax.conj(x)
    return where(x >= 0, ct, -ct)


@defvjp(lax.sign_p, elementwise=True)
def sign_vjp(ct: Array, x: Array, *, out: Array, **_: Any) -> Any:
    # y = x / |x|; dy = i y Im(conj(y) dx) / |x|, which is 0 on the real line
    if not _jax.is_complex(x):
        return None
    radius = lax.abs(x)
    turn = lax.imag(ct * out) / jnp.where(radius == 0, 1, radius)
    return 1j * turn * lax.conj(out)


@defvjp(lax.max_p, elementwise=True)
def max_vjp(ct: Array, x: Array, y: Array, **_: Any) -> Any:
    # the larger one has slope 1; equal ones have slope 1/2 each
    shared = kept_where(x == y, 0.5 * ct)
    return where(x > y, ct, shared), where(x < y, ct, shared)


@defvjp(lax.min_p, elementwise=True)
def min_vjp(ct: Array, x: Array, y: Array, **_: Any) -> Any:
    # the smaller one has slope 1; equal ones have slope 1/2 each
    shared = kept_where(x == y, 0.5 * ct)
    return where(x < y, ct, shared), where(x > y, ct, shared)


@defvjp(lax.clamp_p, elementwise=True)
def clamp_vjp(ct: Array, low: Array, x: Array, high: Array, **_: Any) -> Any:
    return (
        kept_where((x < low) & (low < high), ct),
        kept_where((low < x) & (x < high), ct),
        kept_where(high < x, ct),
    )


@defvjp(lax.nextafter_p, elementwise=True)
def nextafter_vjp(ct: Array, x: Array, y: Array, **_: Any) -> Any:
    return ct, None


@defvjp(lax.select_n_p, elementwise=True)
def select_n_vjp(ct: Array, which: Array, *cases: Array, **_: Any) -> Any:
    if len(cases) == 1:
        return None, ct
    if not is_integer(which):
        return None, kept_elsewhere(which, ct), kept_where(which, ct)
    chosen = jnp.clip(which, 0, len(cases) - 1)
    return None, *(kept_where(chosen == i, ct) for i in range(len(cases)))


# --- complex numbers: the cotangent pairs without conjugation, dL = Re(ct dz) -----------------


@defvjp(lax.real_p, elementwise=True)
def real_vjp(ct: Array, x: Array, **_: Any) -> Any:
    return lax.complex(ct, lax.full_like(ct, 0))


@defvjp(lax.imag_p, elementwise=True)
def imag_vjp(ct: Array, x: Array, **_: Any) -> Any:
    return lax.complex(lax.full_like(ct, 0), -ct)


@defvjp(lax.complex_p, elementwise=True)
def complex_vjp(ct: Array, x: Array, y: Array, **_: Any) -> Any:
    return lax.real(ct), -lax.imag(ct)


@defvjp(lax.conj_p, elementwise=True)
def conj_vjp(ct: Array, x: Array, **_: Any) -> Any:
    return lax.conj(ct) if _jax.is_complex(x) else lax.real(ct)


# --- casts and copies -------------------------------------------------------------------------


@defvjp(lax.convert_element_type_p, elementwise=True)
def convert_element_type_vjp(ct: Array, x: Array, *, out: Array, **_: Any) -> Any:
    return cast_back(ct, x, out) if _jax.is_inexact(out) else None


@defvjp(_jax.to_edtype_p)
def to_edtype_vjp(ct: Array, x: Array, *, edtype: Any, **_: Any) -> Array | None:
    return cast_as_tangent(ct, x, edtype, "to_edtype")


@defvjp(_jax.from_edtype_p)
def from_edtype_vjp(ct: Array, x: Array, **_: Any) -> Array | None:
    return cast_as_tangent(ct, x, x.dtype, "from_edtype")


def cast_as_tangent(ct: Array, x: Array, edtype: Any, op: str) -> Array | None:
    """The cotangent of an `x` that was cast to or from an extended dtype."""
    if not _jax.is_inexact(x):
        return None
    dtype = _jax.tangent_aval(x).dtype
    cast = ct if ct.dtype == dtype else lax.convert_element_type(ct, dtype)
    if cast.shape != x.shape:
        problem = (
            f"casts between arrays of shape {x.shape} and {ct.shape}, but their tangents have the "
            f"dtypes {dtype} and {ct.dtype}, between which no cast changes the shape. Give the function "
            f"a custom_vjp, or {edtype} another tangent_dtype."
        )
        raise errors.no_derivative(op, problem)
    return cast


@defvjp(lax.reduce_precision_p, elementwise=True)
def reduce_precision_vjp(
    ct: Array, x: Array, *, exponent_bits: int, mantissa_bits: int, **_: Any
) -> Any:
    return lax.reduce_precision(ct, exponent_bits, mantissa_bits)


@defvjp(lax.copy_p, elementwise=True)
def copy_vjp(ct: Array, x: Array, **_: Any) -> Any:
    return lax.copy_p.bind(ct)


# --- derivative zero --------------------------------------------------------------------------

CONSTANTS = zero(lax.stop_gradient_p)

STEPS = zero(lax.floor_p, lax.ceil_p, lax.round_p)

PREDICATES = zero(
    lax.is_finite_p,
    lax.eq_p,
    lax.ne_p,
    lax.lt_p,
    lax.le_p,
    lax.gt_p,
    lax.ge_p,
    lax.eq_to_p,
    lax.lt_to_p,
    lax.le_to_p,
)

BITS = zero(
    lax.and_p,
    lax.or_p,
    lax.xor_p,
    lax.not_p,
    lax.shift_left_p,
    lax.shift_right_arithmetic_p,
    lax.shift_right_logical_p,
    lax.population_count_p,
    lax.clz_p,
    lax.mulhi_p,
)
