"""JAX's checker of random keys: a backward pass that computes again reuses no key."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.errors import KeyReuseError

import funcgrad


def noisy(x, key):
    return jnp.sin(x * jax.random.normal(key, x.shape))


def reuses(x, key):
    return noisy(noisy(x, key), key)


def over_keys(body):
    return lambda x, key: lax.scan(lambda c, k: (body(c, k), None), x, jax.random.split(key, 3))[0]


def key_in_carry(x, key):
    def body(carry, _):
        key, own = jax.random.split(carry[1])
        return (noisy(carry[0], own), key), None

    return lax.scan(body, (x, key), None, length=3)[0][0]


def key_in_while_loop(x, key):
    def body(carry):
        key, own = jax.random.split(carry[2])
        return carry[0] + 1, noisy(carry[1], own), key

    return lax.while_loop(lambda carry: carry[0] < 3, body, (0, x, key))[1]


PROGRAMS = {
    "jit": jax.jit(noisy),
    "checkpoint": jax.checkpoint(noisy),
    "checkpoint without barriers": jax.checkpoint(noisy, prevent_cse=False),
    "checkpoint by cut": funcgrad.checkpoint(noisy, policy="min-cut"),
    "scan": over_keys(noisy),
    "scan of checkpoint": over_keys(jax.checkpoint(noisy)),
    "checkpoint of scan": jax.checkpoint(over_keys(noisy)),
    "key in the carry": key_in_carry,
    "cond": lambda x, key: lax.cond(x.sum() > 0, noisy, lambda x, key: x, x, key),
}
ALL = {**PROGRAMS, "key in a while_loop": key_in_while_loop}


def gradient(program, differentiate=funcgrad.grad):
    return differentiate(lambda x, key: program(x, key).sum())


@pytest.mark.parametrize("jitted", [False, True], ids=["", "jitted"])
@pytest.mark.parametrize("program", ALL.values(), ids=ALL)
def test_no_key_is_reused(program, jitted):
    x = jnp.arange(1.0, 4.0)
    compute = jax.jit(gradient(program)) if jitted else gradient(program)
    with jax.debug_key_reuse(True):
        found = compute(x, jax.random.key(0))
    assert np.isfinite(found).all()


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_the_numbers_are_the_same(program):
    x, key = jnp.arange(1.0, 4.0), jax.random.key(0)
    expected = gradient(program, jax.grad)(x, key)
    np.testing.assert_allclose(gradient(program)(x, key), expected, rtol=1e-5)


@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint], ids=["jit", "checkpoint"])
def test_a_program_that_reuses_a_key_is_found(wrap):
    with jax.debug_key_reuse(True), pytest.raises(KeyReuseError):
        gradient(wrap(reuses))(jnp.arange(1.0, 4.0), jax.random.key(0))
