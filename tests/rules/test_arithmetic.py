"""Tests of rules/arithmetic.py."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax._src import dtypes

import funcgrad
from funcgrad import _jax
from tests.rules.cases import (
    Case,
    assert_close,
    complex_normal,
    distinct,
    normal,
    random_like,
    uniform,
)

INFINITY = np.inf
NAN = np.nan


def integer_pow(n):
    return lambda x: lax.integer_pow_p.bind(x, y=n)


def jax_differentiates(fn, *args):
    """Whether this JAX version has a derivative of `fn`."""
    try:
        jax.make_jaxpr(lambda *xs: jax.vjp(fn, *xs)[0])(*args)
    except NotImplementedError:
        return False
    return True


@jax.jit
def in_dtype_of_its_own(x):
    """A cast to a dtype that a package defined, whose tangents are plain, and back."""
    own = dtypes.primal_tangent_dtype(x.dtype, x.dtype)
    return lax.convert_element_type(lax.convert_element_type(x, own), x.dtype)


def pair(shape=(3, 4), other=None, low=0.5, high=2.0):
    """Two positive operands, well away from zero."""
    other = shape if other is None else other
    return uniform(low, high, *shape, seed=1), uniform(low, high, *other, seed=2)


CASES = [
    Case(lax.add_p, lax.add, (normal(3, 4), normal(3, 4, seed=1))),
    Case(lax.add_p, lax.add, (normal(3, 1), normal(1, 4, seed=1))),
    Case(lax.add_p, jnp.add, (normal(), normal(4, seed=1))),
    Case(lax.add_p, lax.add, (normal(0, 3), normal(0, 3))),
    Case(lax.add_p, lax.add, (complex_normal(3), complex_normal(3, seed=5)), name="complex"),
    Case(_jax.add_any_p, _jax.add_any_p.bind, (normal(3, 4), normal(3, 4, seed=1))),
    Case(lax.sub_p, lax.sub, (normal(3, 4), normal(3, 4, seed=1))),
    Case(lax.sub_p, lax.sub, (normal(3, 1), normal(1, 4, seed=1))),
    Case(lax.sub_p, jnp.subtract, (normal(4), normal(seed=1))),
    Case(lax.neg_p, lax.neg, (normal(3, 4),)),
    Case(lax.neg_p, lax.neg, (complex_normal(3),), name="complex"),
    Case(lax.mul_p, lax.mul, (normal(3, 4), normal(3, 4, seed=1))),
    Case(lax.mul_p, lax.mul, (normal(3, 1), normal(1, 4, seed=1))),
    Case(lax.mul_p, jnp.multiply, (normal(), normal(4, seed=1))),
    Case(lax.mul_p, lax.mul, (normal(3, 0), normal(3, 0))),
    Case(lax.mul_p, lax.mul, (complex_normal(3), complex_normal(3, seed=5)), name="complex"),
    Case(
        lax.mul_p,
        lambda x, y: lax.mul(x, y, out_dtype=jnp.float64),
        (np.float32(normal(4)), np.float32(normal(4, seed=1))),
        name="out_dtype",
        smooth=False,
        rtol=1e-6,
    ),
    Case(
        lax.mul_p,
        lambda x, y: lax.mul(x, y, out_dtype=jnp.float64),
        (normal(4), np.arange(4)),
        name="by an integer",
    ),
    Case(lax.div_p, lax.div, pair()),
    Case(lax.div_p, lax.div, pair((3, 1), (1, 4))),
    Case(lax.div_p, jnp.true_divide, pair((), (4,))),
    Case(lax.div_p, lax.div, (complex_normal(3), complex_normal(3, seed=5)), name="complex"),
    Case(lax.rem_p, lax.rem, pair(low=1.0, high=9.0)),
    Case(lax.rem_p, lax.rem, (normal(3, 1), normal(1, 4, seed=3)), name="signs"),
    Case(lax.pow_p, lax.pow, pair()),
    Case(lax.pow_p, lax.pow, pair((3, 1), (1, 4))),
    Case(lax.pow_p, lax.pow, (complex_normal(3), complex_normal(3, seed=5)), name="complex"),
    Case(lax.pow_p, lax.pow, (normal(2, 5), np.array([[0, 1, 2, -1, 3]])), name="integer"),
    Case(lax.integer_pow_p, integer_pow(3), (normal(3, 4),), name="3"),
    Case(lax.integer_pow_p, integer_pow(-1), (uniform(0.5, 2.0, 4),), name="-1"),
    Case(lax.integer_pow_p, integer_pow(-2), (uniform(0.5, 2.0, 4),), name="-2"),
    Case(lax.integer_pow_p, integer_pow(0), (normal(4),), name="0"),
    Case(lax.integer_pow_p, integer_pow(1), (normal(4),), name="1"),
    Case(lax.integer_pow_p, integer_pow(2), (normal(0, 4),), name="2"),
    Case(lax.integer_pow_p, integer_pow(-1), (complex_normal(3),), name="complex"),
    Case(lax.square_p, lax.square, (normal(3, 4),)),
    Case(lax.square_p, lax.square, (complex_normal(3),), name="complex"),
    Case(lax.sqrt_p, lax.sqrt, (uniform(0.5, 2.0, 3, 4),)),
    Case(lax.sqrt_p, lax.sqrt, (complex_normal(3),), name="complex"),
    Case(lax.rsqrt_p, lax.rsqrt, (uniform(0.5, 2.0, 3, 4),)),
    Case(lax.rsqrt_p, lax.rsqrt, (complex_normal(3),), name="complex"),
    Case(lax.cbrt_p, lax.cbrt, (normal(3, 4),), rtol=1e-10),
    Case(lax.abs_p, lax.abs, (normal(3, 4),)),
    Case(lax.abs_p, lax.abs, (complex_normal(3),), name="complex"),
    Case(lax.sign_p, lax.sign, (normal(3, 4),)),
    Case(lax.max_p, lax.max, (distinct(3, 4), distinct(3, 4, seed=1) + 0.05)),
    Case(lax.max_p, lax.max, (normal(3, 1), normal(1, 4, seed=1))),
    Case(lax.max_p, jnp.maximum, (normal(4), normal(seed=1))),
    Case(lax.max_p, lax.max, (normal(0, 4), normal(0, 4))),
    Case(lax.min_p, lax.min, (distinct(3, 4), distinct(3, 4, seed=1) + 0.05)),
    Case(lax.min_p, lax.min, (normal(3, 1), normal(1, 4, seed=1))),
    Case(lax.clamp_p, lax.clamp, (uniform(-1, 0, 9), normal(9), uniform(0, 1, 9))),
    Case(lax.clamp_p, lambda x: lax.clamp(-0.5, x, 0.5), (normal(3, 4),), name="scalar bounds"),
    Case(lax.select_n_p, lax.select_n, (normal(3, 4) > 0, normal(3, 4), normal(3, 4, seed=1))),
    Case(lax.select_n_p, lax.select_n, (np.True_, normal(4), normal(4, seed=1))),
    Case(
        lax.select_n_p,
        lax.select_n,
        (np.array([0, 1, 2, 1]), normal(4), normal(4, seed=1), normal(4, seed=2)),
    ),
    Case(
        lax.select_n_p,
        lax.select_n,
        (np.int32(2), normal(4), normal(4, seed=1), normal(4, seed=2)),
    ),
    Case(lax.select_n_p, lax.select_n, (np.array([0, 0]), normal(2)), name="one case"),
    Case(lax.real_p, lax.real, (complex_normal(3),)),
    Case(lax.imag_p, lax.imag, (complex_normal(3),)),
    Case(lax.complex_p, lax.complex, (normal(3), normal(3, seed=1))),
    Case(lax.complex_p, lax.complex, (normal(3, 1), normal(1, 4, seed=1))),
    Case(lax.conj_p, lax.conj, (complex_normal(3),)),
    Case(lax.conj_p, lax.conj, (normal(3),), name="real"),
    *(
        Case(
            lax.convert_element_type_p,
            lambda x, dtype=dtype: lax.convert_element_type(x, dtype),
            (normal(4),),
            name=f"to {dtype}",
            smooth=False,
            rtol=rtol,
        )
        for dtype, rtol in [("float32", 1e-5), ("bfloat16", 1e-1), ("complex128", 1e-11)]
    ),
    Case(
        lax.convert_element_type_p,
        lambda x: x + lax.convert_element_type(lax.convert_element_type(x, "int32"), "float64"),
        (normal(4) * 3,),
        name="through int32",
    ),
    Case(
        lax.reduce_precision_p,
        lambda x: lax.reduce_precision(x, exponent_bits=5, mantissa_bits=10),
        (normal(4),),
        smooth=False,
    ),
    Case(
        lax.reduce_precision_p,
        lambda x: lax.reduce_precision(x, exponent_bits=8, mantissa_bits=30),
        (normal(4),),
        name="30 bits",
        smooth=False,
    ),
    Case(lax.copy_p, lax.copy_p.bind, (normal(4),)),
    Case(_jax.to_edtype_p, in_dtype_of_its_own, (normal(4),)),
    Case(_jax.from_edtype_p, in_dtype_of_its_own, (normal(4),)),
]

# JAX 0.10 cannot differentiate nextafter, so a row has nothing to be compared with there.
TESTED_APART = (lax.nextafter_p,)

if jax_differentiates(lax.nextafter, 1.0, 2.0):
    CASES.append(Case(lax.nextafter_p, lax.nextafter, (normal(3), normal(3, seed=1))))
    CASES.append(Case(lax.sign_p, lax.sign, (complex_normal(3),), name="complex"))


def special(op, fn, *args, name="special"):
    return Case(op, fn, tuple(np.array(a) for a in args), name=name, order=1, smooth=False)


TIES = ([0.0, 1.0, -0.0, INFINITY, -INFINITY, NAN, 2.0], [0.0, 1.0, 0.0, INFINITY, 1.0, 1.0, NAN])

SPECIAL = [
    special(lax.max_p, lax.max, *TIES),
    special(lax.min_p, lax.min, *TIES),
    special(lax.abs_p, lax.abs, [0.0, -0.0, INFINITY, -INFINITY, NAN]),
    special(lax.abs_p, lax.abs, [0j, 1 + 1j], name="complex"),
    special(lax.sign_p, lax.sign, [0.0, -0.0, INFINITY, NAN]),
    special(lax.sqrt_p, lax.sqrt, [0.0, INFINITY, -1.0]),
    special(lax.rsqrt_p, lax.rsqrt, [0.0, INFINITY, -1.0]),
    special(lax.cbrt_p, lax.cbrt, [0.0, INFINITY, -8.0]),
    special(lax.div_p, lax.div, [1.0, 0.0, 1.0, INFINITY], [0.0, 0.0, INFINITY, INFINITY]),
    special(lax.rem_p, lax.rem, [5.0, -5.0, 5.0, 1.0, 0.0, 6.0], [3.0, 3.0, -3.0, 0.0, 2.0, 3.0]),
    special(
        lax.pow_p,
        lax.pow,
        [0.0, 0.0, 0.0, 0.0, -0.0, -1.0, -1.0, INFINITY, 1.0, 2.0, 2.0],
        [0.0, 1.0, 2.0, -1.0, 0.5, 2.0, 0.5, 1.0, INFINITY, 0.0, 1.0],
    ),
    special(lax.pow_p, lax.pow, [0.0, 0.0, 0.0, 0.0], [0, 1, 2, -1], name="integer"),
    special(lax.integer_pow_p, integer_pow(-1), [0.0, -0.0, INFINITY]),
    special(
        lax.clamp_p,
        lax.clamp,
        [0.0, 0.0, 1.0, 2.0, 0.0, 0.0],
        [0.0, 1.0, 0.0, 1.0, -1.0, NAN],
        [1.0, 1.0, 0.0, 1.0, 1.0, 1.0],
    ),
]


def bits_of(fn):
    """`fn` of the integer parts of `x`."""
    return lambda x: fn(x.astype(jnp.int32))


ZERO = {
    lax.stop_gradient_p: lax.stop_gradient,
    lax.floor_p: lax.floor,
    lax.ceil_p: lax.ceil,
    lax.round_p: lax.round,
    lax.is_finite_p: lax.is_finite,
    lax.eq_p: lambda x: lax.eq(x, x),
    lax.ne_p: lambda x: lax.ne(x, x),
    lax.lt_p: lambda x: lax.lt(x, 2 * x),
    lax.le_p: lambda x: lax.le(x, 2 * x),
    lax.gt_p: lambda x: lax.gt(x, 2 * x),
    lax.ge_p: lambda x: lax.ge(x, 2 * x),
    lax.eq_to_p: lambda x: lax.eq_to_p.bind(x, x),
    lax.lt_to_p: lambda x: lax.lt_to_p.bind(x, 2 * x),
    lax.le_to_p: lambda x: lax.le_to_p.bind(x, 2 * x),
    lax.and_p: bits_of(lambda n: n & 3),
    lax.or_p: bits_of(lambda n: n | 3),
    lax.xor_p: bits_of(lambda n: n ^ 3),
    lax.not_p: bits_of(lambda n: ~n),
    lax.shift_left_p: bits_of(lambda n: n << 1),
    lax.shift_right_arithmetic_p: bits_of(
        lambda n: lax.shift_right_arithmetic(n, jnp.ones_like(n))
    ),
    lax.shift_right_logical_p: bits_of(lambda n: lax.shift_right_logical(n, jnp.ones_like(n))),
    lax.population_count_p: bits_of(lax.population_count),
    lax.clz_p: bits_of(lax.clz),
    lax.mulhi_p: bits_of(lambda n: lax.mulhi(n, n)),
}


@pytest.mark.parametrize("op", ZERO, ids=str)
def test_derivative_is_zero(op):
    x = jnp.asarray(4 * normal(4), jnp.float32)
    assert str(op) in str(jax.make_jaxpr(ZERO[op])(x))

    def loss(x):
        return ZERO[op](x).astype(jnp.float32).sum() + (x * x).sum()

    assert_close(funcgrad.grad(loss)(x), 2 * x, 1e-6, "the term must add nothing")


def test_sign_of_a_complex_number_is_x_over_its_modulus():
    with jax.enable_x64(True):
        x = jnp.asarray(complex_normal(4))
        ct = random_like(x, seed=9)
        expected = jax.vjp(lambda x: x / lax.abs(x), x)[1](ct)
        assert_close(funcgrad.vjp(lax.sign, x)[1](ct), expected, 1e-11, "sign")
        (at_zero,) = funcgrad.vjp(lax.sign, jnp.zeros_like(x))[1](ct)
        np.testing.assert_array_equal(at_zero, 0)


def test_nextafter_moves_with_its_first_operand():
    ct = jnp.arange(3.0)
    ct_x, ct_y = funcgrad.vjp(lax.nextafter, jnp.ones(3), jnp.zeros(3))[1](ct)
    np.testing.assert_array_equal(ct_x, ct)
    np.testing.assert_array_equal(ct_y, 0)


def test_clamp_sums_the_cotangent_of_a_scalar_bound():
    with jax.enable_x64(True):
        args = (jnp.float64(-0.5), jnp.asarray(normal(3, 4)), jnp.float64(0.5))
        ct = random_like(args[1], seed=9)

        def with_full_bounds(low, x, high):
            return lax.clamp(jnp.full_like(x, low), x, jnp.full_like(x, high))

        expected = jax.vjp(with_full_bounds, *args)[1](ct)
        assert_close(funcgrad.vjp(lax.clamp, *args)[1](ct), expected, 1e-11, "clamp")


def test_select_n_gives_an_index_out_of_range_to_the_nearest_case():
    which = jnp.array([-1, 1, 5])
    cases = (jnp.zeros(3), jnp.zeros(3), jnp.zeros(3))
    _, pullback = funcgrad.vjp(lambda *xs: lax.select_n(which, *xs), *cases)
    cts = pullback(jnp.array([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(jnp.stack(cts), np.diag([1.0, 2.0, 3.0]))


COPIES = {
    "array": lambda x: jnp.array(x, copy=True),
    "copy": jnp.copy,
    "method": lambda x: x.copy(),
    "device_put": lambda x: jax.device_put(x, may_alias=False),
}


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_the_cotangent_through_a_copy_is_a_copy(copy):
    """Who donates the cotangent that was passed in keeps the one that came out, as with JAX."""
    ct = jnp.ones(3)
    for vjp in (jax.vjp, funcgrad.vjp):
        (ct_x,) = vjp(copy, jnp.arange(3.0))[1](ct)
        assert ct_x is not ct
        assert ct_x.unsafe_buffer_pointer() != ct.unsafe_buffer_pointer()
