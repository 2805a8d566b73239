"""funcgrad in the place of jax.grad, for a block."""

from __future__ import annotations

import threading

import jax
import jax.numpy as jnp
import pytest

import funcgrad
from funcgrad.drop_in import SWAPPED

BEFORE = {name: getattr(jax, name) for name in SWAPPED}


def restored() -> bool:
    return all(getattr(jax, name) is original for name, original in BEFORE.items())


@jax.jit
def run_time_loop(x):
    """jax.grad refuses this, so an answer shows whose gradient it is."""
    return jax.lax.fori_loop(0, jnp.int32(x), lambda i, y: y * x, x)


def test_all_four_are_ours_in_the_block():
    with funcgrad.as_jax_grad():
        assert jax.grad(run_time_loop)(3.0) == 108.0
        assert jax.value_and_grad(run_time_loop)(3.0) == (81.0, 108.0)
        value, pullback = jax.vjp(run_time_loop, 3.0)
        assert (value, *pullback(1.0)) == (81.0, 108.0)
        assert jax.jacrev(run_time_loop)(3.0) == 108.0
    assert restored()
    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work"):
        jax.grad(run_time_loop)(3.0)


def test_an_error_restores_them():
    with pytest.raises(ZeroDivisionError), funcgrad.as_jax_grad():
        raise ZeroDivisionError
    assert restored()


def test_blocks_nest():
    doubled = funcgrad.DEFAULT.override({jax.lax.sin_p: lambda ct, x, **_: 2 * ct * jnp.cos(x)})
    with funcgrad.as_jax_grad():
        with funcgrad.as_jax_grad(rules=doubled):
            assert jax.grad(jnp.sin)(0.0) == 2.0
        assert jax.grad(jnp.sin)(0.0) == 1.0
    assert restored()


def test_existing_training_code_runs_unedited():
    def step(params, x):
        loss = lambda params: jnp.mean((x @ params["w"]) ** 2)
        value, gradient = jax.value_and_grad(loss)(params)
        return value, jax.tree.map(lambda p, ct: p - 0.1 * ct, params, gradient)

    args = {"w": jnp.ones((3, 2))}, jnp.arange(12.0).reshape(4, 3)
    expected = jax.jit(step)(*args)
    with funcgrad.as_jax_grad():
        found = jax.jit(lambda *args: step(*args))(*args)
    assert jax.tree.all(jax.tree.map(jnp.allclose, found, expected))


TWICE = funcgrad.DEFAULT.override({jax.lax.sin_p: lambda ct, x, **_: 2 * ct * jnp.cos(x)})
THRICE = funcgrad.DEFAULT.override({jax.lax.sin_p: lambda ct, x, **_: 3 * ct * jnp.cos(x)})


def jitted_slope():
    """A jitted function, of its own at each call, that differentiates by jax.grad."""
    return jax.jit(lambda x: jax.grad(jnp.sin)(x))


def test_a_function_that_was_compiled_outside_is_differentiated_anew_inside():
    slope = jitted_slope()
    assert slope(0.0) == 1.0
    with funcgrad.as_jax_grad(rules=TWICE):
        assert slope(0.0) == 2.0
        with funcgrad.as_jax_grad(rules=THRICE):
            assert slope(0.0) == 3.0
        assert slope(0.0) == 2.0
    assert slope(0.0) == 1.0


def test_a_function_that_was_compiled_inside_is_differentiated_anew_outside():
    slope = jitted_slope()
    with funcgrad.as_jax_grad(rules=TWICE):
        assert slope(0.0) == 2.0
    assert slope(0.0) == 1.0


def test_an_error_restores_the_setting_too():
    slope = jitted_slope()
    with pytest.raises(ZeroDivisionError), funcgrad.as_jax_grad(rules=TWICE):
        raise ZeroDivisionError
    assert slope(0.0) == 1.0


def test_what_jax_traces_within_a_program_is_kept_apart_too():
    inner = jitted_slope()
    cond = lambda x: jax.lax.cond(x < 1, inner, lambda x: x, x)
    outside = jax.make_jaxpr(cond)(0.0)
    with funcgrad.as_jax_grad(rules=TWICE):
        assert str(jax.make_jaxpr(cond)(0.0)) != str(outside)
    assert str(jax.make_jaxpr(cond)(0.0)) == str(outside)


def test_strict_is_part_of_the_key():
    counted = []
    slope = jax.jit(lambda x: (counted.append(1), jax.grad(jnp.sin)(x))[1])
    for strict in (False, True, False):
        with funcgrad.as_jax_grad(strict=strict):
            slope(0.0)
    assert len(counted) == 2


def test_another_thread_is_unaffected():
    slope, found = jitted_slope(), []
    with funcgrad.as_jax_grad(rules=TWICE):
        assert slope(0.0) == 2.0
        other = threading.Thread(target=lambda: found.extend([slope(0.0), jax.grad(jnp.sin)(0.0)]))
        other.start()
        other.join()
    assert found == [1.0, 1.0]


def test_a_name_taken_inside_the_block_is_jax_s_after_it():
    with funcgrad.as_jax_grad(rules=TWICE):
        kept = jax.grad
        assert kept(jnp.sin)(0.0) == 2.0
    assert kept(jnp.sin)(0.0) == 1.0
