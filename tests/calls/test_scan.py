"""scan, map, associative_scan and fori_loop with static bounds."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from tests.programs import check_program, normal


def rnn(**how):
    def fun(w, h, xs):
        def step(h, x):
            h = jnp.tanh(w @ h + x)
            return h, h * x

        h, ys = lax.scan(step, h, xs, **how)
        return jnp.sum(h**2) + jnp.sum(ys)

    return fun


def over(body, length, init=lambda x: x, pick=lambda out: out[0] + jnp.sum(out[1])):
    """A scan without xs whose body closes over the differentiated value."""
    return lambda x: pick(lax.scan(lambda c, _: body(c, x), init(x), None, length=length))


def with_keys(x):
    keys = jax.random.split(jax.random.key(0), 3)
    return lax.scan(lambda c, key: (c * jax.random.normal(key) + x, c), x, keys)[0]


def with_key_carry(x):
    def step(carry, _):
        key, value = carry
        key, now = jax.random.split(key)
        return (key, jnp.sin(value * x) * jax.random.normal(now)), value

    return jnp.sum(lax.scan(step, (jax.random.key(1), x), None, length=3)[1])


def nested(w):
    def outer(c, _):
        c = lax.scan(lambda d, x: (jnp.sin(d * w) + x, None), c, jnp.arange(3.0))[0]
        return c * w, c

    return jnp.sum(lax.scan(outer, w, None, length=4)[1])


RNN_ARGS = (normal(3, 3), normal(3, seed=1), normal(5, 3, seed=2))
PROGRAMS = {
    "rnn": (rnn(), *RNN_ARGS),
    "reverse": (rnn(reverse=True), *RNN_ARGS),
    "unroll": (rnn(unroll=2), *RNN_ARGS),
    "length 0": (over(lambda c, x: (c * x, c), 0), 0.7),
    "length 1": (over(lambda c, x: (c * x, c), 1), 0.7),
    "constants only": (over(lambda c, x: (c, x * c), 3, init=lambda x: 2.0), 0.7),
    "carry becomes differentiated": (
        over(
            lambda c, x: ((c[1], c[0] * x, c[2] + 1), c[0]),
            4,
            init=lambda x: (1.0, 2.0, 0),
            pick=lambda out: jnp.sum(out[1]) * out[0][1],
        ),
        0.7,
    ),
    "carry is overwritten": (over(lambda c, x: (jnp.float64(3.0), c * x), 4), 0.7),
    "carry is unused": (over(lambda c, x: (c, x**2), 4), 0.7),
    "integer ys": (
        over(lambda c, x: (c * x, (c, 1)), 3, pick=lambda out: out[0] * out[1][1][0]),
        0.7,
    ),
    "nested": (nested, 0.7),
    "fori_loop": (lambda x: lax.fori_loop(0, 4, lambda i, c: jnp.sin(c) * x + i, x), 0.7),
    "map": (lambda x: jnp.sum(lax.map(lambda y: jnp.sin(y) * y, x)), normal(4)),
    "map in batches": (
        lambda x: jnp.sum(lax.map(lambda y: jnp.sin(y) * y, x, batch_size=2)),
        normal(5),
    ),
    "associative_scan": (
        lambda x: jnp.sum(lax.associative_scan(jnp.multiply, x) ** 2),
        normal(5),
    ),
    "keys": (with_keys, 0.7),
    "key in the carry": (with_key_carry, 0.7),
    "jit in the body": (over(jax.jit(lambda c, x: (jax.nn.relu(c) * x, c)), 3), 0.7),
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_gradient(program):
    check_program(*program)


def test_override_reaches_the_body():
    rules = funcgrad.DEFAULT.override({lax.sin_p: lambda ct, x, **_: 2 * ct})
    fun = over(lambda c, x: (lax.sin(c), None), 3, pick=lambda out: out[0])
    assert float(funcgrad.grad(fun, rules=rules)(0.5)) == 8.0


def test_what_is_constant_or_there_anyway_is_not_stacked():
    """The weights are kept once; xs and ys as they are; of a tanh recurrence only h is stacked."""
    w, h, xs = (jnp.asarray(a, jnp.float32) for a in RNN_ARGS)

    def fun(w, h, xs):
        def step(h, x):
            h = jnp.tanh(w @ h + x)
            return h, h

        return lax.scan(step, h, xs)

    (_, ys), pullback = funcgrad.vjp(fun, w, h, xs)
    shapes = sorted(r.shape for r in pullback.residuals)
    assert shapes.count((3, 3)) == 1
    assert (5, 3, 3) not in shapes
    assert sum(np.prod(shape) for shape in shapes) <= 9 + 3 * 15
    assert any(
        r is ys or (r.shape == ys.shape and bool((r == ys).all())) for r in pullback.residuals
    )


def test_a_jitted_loop_is_traced_once():
    traced = []

    def step(c, x):
        traced.append(1)
        return jnp.sin(c) * x, None

    gradient = jax.jit(funcgrad.grad(lambda c, xs: lax.scan(step, c, xs)[0]))
    gradient(0.5, jnp.ones(3))
    count = len(traced)
    gradient(0.7, jnp.ones(3))
    assert len(traced) == count


@pytest.mark.parametrize("length", [0, 1, 3])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("old", [False, True])
def test_a_carry_that_is_a_ys_of_a_step_near(length, reverse, old):
    def fun(w, h):
        def step(c, _):
            new = jnp.tanh(w * c) + c**2
            return new, c if old else new

        out, ys = lax.scan(step, h, None, length=length, reverse=reverse)
        return jnp.sum(jnp.sin(out)) + jnp.sum(ys**2)

    check_program(fun, 0.5 * normal(2), 0.5 * normal(2, seed=1))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("old", [False, True])
def test_of_two_values_that_a_step_hands_to_the_next_one_is_stacked(reverse, old):
    """tanh reads its result, and w its operand: the carries after and before the step."""

    def fun(w, h):
        def step(c, _):
            new = jnp.tanh(w * c)
            return new, c if old else new

        return lax.scan(step, h, None, length=50, reverse=reverse)

    (_, ys), pullback = funcgrad.vjp(fun, jnp.full(3, 0.5), jnp.ones(3))
    stacks = [r for r in pullback.residuals if r.shape == (50, 3)]
    assert len(stacks) <= 2
    assert all(bool((r == ys).all()) for r in stacks)


UNUSED = {
    "checkpoint": lambda x: jax.checkpoint(lambda x: (jnp.std(x, axis=0), 2 * x))(x)[1],
    "cond": lambda x: lax.cond(
        x[0, 0] > 0, lambda x: (jnp.std(x, axis=0), 2 * x), lambda x: (x[0], x), x
    )[1],
    "cond, beside a scatter": lambda x: lax.cond(
        x[0, 0] > 0,
        lambda x: (jnp.std(x, axis=0), x.at[jnp.array([0])].min(0.5)),
        lambda x: (x[0], x),
        x,
    )[1],
    "scan": lambda x: lax.scan(lambda c, _: (2 * c, jnp.std(c, axis=0)), x, None, length=2)[0],
    "carry": lambda x: lax.fori_loop(
        0, 2, lambda i, c: (2 * c[0], jnp.std(c[0], axis=0)), (x, x[0])
    )[0],
}


@pytest.mark.parametrize("fun", UNUSED.values(), ids=UNUSED)
def test_the_infinite_derivative_of_an_unused_output_does_no_harm(fun):
    """std has an infinite derivative where all values are equal: zero times it would be NaN."""
    scalar = lambda x: jnp.sum(fun(x))
    x = jnp.ones((2, 3))
    expected = jax.grad(scalar)(x)
    assert np.all(np.isfinite(expected))
    np.testing.assert_array_equal(funcgrad.grad(scalar)(x), expected)
    np.testing.assert_array_equal(jax.jit(funcgrad.grad(scalar))(x), expected)


def test_and_not_in_a_loop_of_run_time_length_either():
    def fun(x, n):
        return jnp.sum(
            lax.fori_loop(0, n, lambda i, c: (2 * c[0], jnp.std(c[0], axis=0)), (x, x[0]))[0]
        )

    np.testing.assert_array_equal(jax.jit(funcgrad.grad(fun))(jnp.ones((2, 3)), 2), 4.0)
