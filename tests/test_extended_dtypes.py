"""Dtypes of one's own (JAX says *extended*), whose cotangents add up by a rule of the dtype.

Expected values come from jax.grad and by hand.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax._src import dtypes

import funcgrad

BFLOAT16, FLOAT32 = jnp.bfloat16, jnp.float32


class Largest:
    """The rules of `LARGEST`: the sum of two cotangents is the larger, and zero is minus infinity."""

    allow_conversion = True

    @staticmethod
    def physical_element_aval(dtype: Any) -> Any:
        return jax.core.ShapedArray((), np.dtype(FLOAT32))

    @staticmethod
    def tangent_dtype(dtype: Any) -> Any:
        return dtype

    @staticmethod
    def add(dtype: Any, x: Any, y: Any) -> Any:
        return lax.convert_element_type(lax.max(plain(x), plain(y)), dtype)

    @staticmethod
    def zero(dtype: Any) -> Any:
        return lax.convert_element_type(np.float32(-np.inf), dtype)


class Without:
    """The same rules without one of them."""

    def __init__(self, missing: str):
        self.missing = missing

    def __getattr__(self, name: str) -> Any:
        if name == self.missing:
            raise AttributeError(name)
        return getattr(Largest, name)


class Ours(dtypes.extended):
    """What dtypes of ours are, to JAX."""


def dtype_with(rules: Any) -> Any:
    members = {"name": "largest", "_rules": rules, "type": Ours}
    return type("Dtype", (dtypes.ExtendedDType,), members)()


LARGEST = dtype_with(Largest)
QUANTISED = dtypes.primal_tangent_dtype(jnp.int8, BFLOAT16)


def plain(x: Any) -> Any:
    return lax.convert_element_type(x, FLOAT32)


def to_largest(x: Any) -> Any:
    return lax.convert_element_type(x, LARGEST)


@jax.custom_vjp
def scaled(x: Any, s: Any) -> Any:
    """The sum of x; the cotangent of `s`, in its own dtype, is ct * (1, 2, ...)."""
    return x.sum()


def scaled_bwd(residuals: Any, ct: Any) -> Any:
    x, s = residuals
    ct_s = ct * (1 + jnp.arange(s.size, dtype=FLOAT32).reshape(s.shape))
    return jnp.broadcast_to(ct, x.shape), lax.convert_element_type(ct_s, s.dtype)


scaled.defvjp(lambda x, s: (scaled(x, s), (x, s)), scaled_bwd)


def in_scan(x: Any, s: Any) -> Any:
    step = lambda h, _: (2 * h + scaled(h, s) + 5 * scaled(h, s), None)
    return lax.scan(step, x, None, length=2)[0].sum()


def in_carry(x: Any, s: Any) -> Any:
    step = lambda h, _: ((2 * h[0] + scaled(h[0], h[1]), h[1]), h[1])
    (h, _), stack = lax.scan(step, (x, s), None, length=2)
    return h.sum() + scaled(x, stack)


def in_while(x: Any, s: Any) -> Any:
    step = lambda h: (h[0] + 1, 2 * h[1] + scaled(h[1], s))
    return lax.while_loop(lambda h: h[0] < 2, step, (0, x))[1].sum()


def in_branches(x: Any, s: Any) -> Any:
    twice = lambda s: 4 * scaled(x, s[::-1]) + scaled(x, s)
    return lax.switch(x.size - 1, [lambda s: x.sum(), twice], s)


def in_checkpoint(x: Any, s: Any) -> Any:
    part = jax.checkpoint(lambda x, s: scaled(jnp.sin(x), s) + 2 * scaled(x, s))
    return part(x, s) + part(2 * x, s)


OF_LARGEST: dict[str, tuple[Any, list[float]]] = {
    "two uses": (lambda x, s: scaled(x, s) + 3 * scaled(2 * x, s), [3, 6, 9]),
    "negative": (lambda x, s: -scaled(x, s) - 3 * scaled(x, s), [-1, -2, -3]),
    "reversed": (lambda x, s: scaled(x, s[::-1]) + 2 * scaled(x, s), [3, 4, 6]),
    "concatenated": (lambda x, s: scaled(x, jnp.concatenate([s, s])), [4, 5, 6]),
    "jit": (lambda x, s: jax.jit(scaled)(x, s) + jax.jit(scaled)(x, s), [1, 2, 3]),
    # the cotangents of h that come to the two steps have the sums 2 and 2 * (2 + 2 * 6)
    "scan": (in_scan, [140, 280, 420]),
    "carry": (in_carry, [8, 16, 24]),
    "while": (in_while, [8, 16, 24]),
    "branches": (in_branches, [12, 8, 4]),
    "checkpoint": (in_checkpoint, [2, 4, 6]),
}
"""Functions of x and an `s` of dtype LARGEST, and the cotangent of `s` by hand at two elements of x."""

WITHOUT_JAX = {"while": "jax.grad has no derivative of a while_loop"}


@pytest.mark.parametrize("name", OF_LARGEST)
def test_cotangents_add_up_by_the_rule_of_their_dtype(name: str) -> None:
    fn, expected = OF_LARGEST[name]
    loss = lambda x, s: fn(x, to_largest(s))
    args = jnp.array([0.5, 2.0]), jnp.array([3.0, 1.0, 2.0])
    ct_x, ct_s = jax.jit(funcgrad.grad(loss, (0, 1)))(*args)
    np.testing.assert_allclose(ct_s, expected, rtol=1e-6)
    if name not in WITHOUT_JAX:
        theirs = jax.jit(jax.grad(loss, (0, 1)))(*args)
        np.testing.assert_allclose(ct_x, theirs[0], rtol=1e-6)
        np.testing.assert_allclose(ct_s, theirs[1], rtol=1e-6)


def test_a_cotangent_that_does_not_arrive_is_the_zero_of_its_dtype() -> None:
    branches = [lambda x, s: x.sum(), lambda x, s: scaled(x, s)]
    loss = lambda i, x, s: lax.switch(i, branches, x, to_largest(s))
    args = 0, jnp.array([0.5, 2.0]), jnp.array([3.0, 1.0])
    ct_s = jax.jit(funcgrad.grad(loss, 2))(*args)
    np.testing.assert_array_equal(ct_s, [-np.inf, -np.inf])
    np.testing.assert_array_equal(ct_s, jax.jit(jax.grad(loss, 2))(*args))


@jax.custom_vjp
def enter(x: Any) -> Any:
    """The identity; its cotangent, of dtype LARGEST, is that of the result as a plain array."""
    return x


enter.defvjp(lambda x: (x, None), lambda _, ct: (plain(ct),))


@jax.custom_vjp
def leave(x: Any) -> Any:
    """The identity, whose cotangent has dtype LARGEST though x has none of it."""
    return x


leave.defvjp(lambda x: (x, None), lambda _, ct: (to_largest(ct),))


def test_a_custom_vjp_may_return_cotangents_of_such_a_dtype() -> None:
    loss = lambda x: (lambda y: (leave(y) + 3 * leave(y)).sum())(enter(x))
    x = jnp.array([0.5, 2.0])
    np.testing.assert_array_equal(jax.jit(funcgrad.grad(loss))(x), [3, 3])
    np.testing.assert_array_equal(jax.jit(jax.grad(loss))(x), [3, 3])


@jax.custom_vjp
def times(x: Any, w: Any) -> Any:
    """x times the sum of quantised weights, which are integers with cotangents in bfloat16."""
    return x * w.astype(jnp.int8).astype(FLOAT32).sum()


times.defvjp(
    lambda x, w: (times(x, w), (x, w)),
    lambda res, ct: (
        ct * res[1].astype(jnp.int8).astype(FLOAT32).sum(),
        jnp.full(res[1].shape, res[0] * ct, BFLOAT16),
    ),
)


@jax.custom_vjp
def quantised(w: Any) -> Any:
    return w.astype(jnp.int8).astype(QUANTISED)


quantised.defvjp(lambda w: (quantised(w), None), lambda _, ct: (ct.astype(FLOAT32),))


def quantised_scan(x: Any, w: Any) -> Any:
    step = lambda h, v: (times(h, v) + times(h, w), None)
    return lax.scan(step, x, w)[0]


OF_QUANTISED: dict[str, tuple[Any, list[float]]] = {
    "two uses": (lambda x, w: times(x, w) + times(2 * x, w), [6, 6, 6]),
    "slices": (lambda x, w: times(x, w[:2]) + times(2 * x, w[1:]), [2, 6, 4]),
    "gather": (lambda x, w: times(x, w[jnp.array([0, 0, 2])]), [4, 0, 2]),
    "broadcast": (lambda x, w: times(x, jnp.broadcast_to(w, (4, 3))), [8, 8, 8]),
    # x times the steps' 9, 8 and 7: v_t, an element of w, plus 6, the sum of w
    "scan": (quantised_scan, [382 + 2 * 8 * 7, 382 + 2 * 9 * 7, 382 + 2 * 9 * 8]),
}
"""Functions of x = 2 and weights w = (3, 2, 1) of dtype QUANTISED, and the cotangent of w by hand."""


@pytest.mark.parametrize("name", OF_QUANTISED)
def test_integers_with_cotangents(name: str) -> None:
    fn, expected = OF_QUANTISED[name]
    loss = lambda x, w: fn(x, quantised(w))
    args = jnp.float32(2), jnp.array([3.0, 2.0, 1.0])
    ours = jax.jit(funcgrad.grad(loss, (0, 1)))(*args)
    theirs = jax.jit(jax.grad(loss, (0, 1)))(*args)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-6)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=2e-2)
    np.testing.assert_allclose(ours[1], expected, rtol=2e-2)


def test_a_value_of_such_a_dtype_is_differentiated_by_vjp() -> None:
    def both(vjp: Any) -> Any:
        w = jnp.array([3, 2, 1], jnp.int8).astype(QUANTISED)
        _, pullback = vjp(lambda w: times(jnp.float32(2), w) + times(jnp.float32(1), w), w)
        return pullback(jnp.float32(1))[0]

    ours, theirs = (jax.jit(functools.partial(both, vjp))() for vjp in (funcgrad.vjp, jax.vjp))
    assert ours.dtype == theirs.dtype == BFLOAT16
    np.testing.assert_array_equal(np.float32(ours), [3, 3, 3])
    np.testing.assert_array_equal(np.float32(theirs), [3, 3, 3])


def through(rules: Any) -> Any:
    """Two uses of an `s` of a dtype with these rules, one of them in a branch that is not taken."""

    def loss(x: Any) -> Any:
        s = lax.convert_element_type(x, dtype_with(rules))
        part = lax.cond(x[0] > 0, lambda s: scaled(x, s), lambda s: x.sum(), s)
        return part + scaled(x, s)

    return loss


IN_ERROR: dict[str, tuple[Any, str]] = {
    "no tangent_dtype": (through(Without("tangent_dtype")), "rules lack `tangent_dtype`"),
    "no add": (through(Without("add")), "rules lack `add`"),
    "no zero": (through(Without("zero")), "rules lack `zero`"),
    "two dtypes": (
        lambda x: (lambda y: (leave(y) + 3 * y).sum())(enter(x)),
        r"types float32\[2\] and largest\[2\], which have no sum",
    ),
    "a sum over an axis": (
        lambda x: scaled(x, jnp.broadcast_to(to_largest(x), (3, 2))),
        "rule `broadcast_in_dim_vjp`.*no arithmetic but its own rules",
    ),
    "a late sum": (lambda x: leave(enter(x[0]) + jnp.ones((3, 2))).sum(), "axes along which"),
    "a product": (lambda x: leave(2 * enter(x)).sum(), "rule `mul_vjp`.*no arithmetic"),
    "an index": (lambda x: scaled(x, to_largest(x)[:1]), "rule `slice_vjp`.*no arithmetic"),
}
"""Functions whose gradient needs what the dtype does not say, and the words of the error."""


@pytest.mark.parametrize("name", IN_ERROR)
def test_what_a_dtype_does_not_say_is_an_error(name: str) -> None:
    fn, words = IN_ERROR[name]
    with pytest.raises((TypeError, ValueError), match=words):
        jax.jit(funcgrad.grad(fn))(jnp.array([0.5, 2.0]))


def test_grad_takes_and_gives_plain_arrays() -> None:
    as_input = lambda x: jax.jit(funcgrad.grad(lambda s: scaled(x, s)))(to_largest(x))
    with pytest.raises(funcgrad.errors.InputError, match=r"funcgrad\.vjp takes it"):
        jax.jit(as_input)(jnp.ones(2))
    with pytest.raises(funcgrad.errors.OutputError, match="floating outputs"):
        jax.jit(funcgrad.grad(to_largest))(jnp.float32(1))
