"""funcgrad in the place of jax.grad, for a block."""

from __future__ import annotations

import inspect
import threading
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import grad, hessian, jacobian, vjp
from jax.scipy.optimize import minimize
from jax.test_util import check_grads

import funcgrad
from funcgrad.drop_in import FUNCTIONS, in_all_threads

CODE = {function: function.__code__ for function in FUNCTIONS}


def restored() -> bool:
    return all(function.__code__ is code for function, code in CODE.items())


@jax.jit
def run_time_loop(x):
    """jax.grad refuses this, so an answer shows whose gradient it is."""
    return jax.lax.fori_loop(0, jnp.int32(x), lambda i, y: y * x, x)


def test_all_are_ours_in_the_block():
    with funcgrad.as_jax_grad():
        assert jax.jacobian(run_time_loop)(3.0) == 108.0
        assert jax.grad(run_time_loop)(3.0) == 108.0
        assert jax.value_and_grad(run_time_loop)(3.0) == (81.0, 108.0)
        value, pullback = jax.vjp(run_time_loop, 3.0)
        assert (value, *pullback(1.0)) == (81.0, 108.0)
        assert jax.jacrev(run_time_loop)(3.0) == 108.0
    assert restored()
    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work"):
        jax.grad(run_time_loop)(3.0)


def power(x):
    """x^4, by a loop that jax.grad refuses."""
    return jax.lax.while_loop(lambda c: c[1] < 4, lambda c: (c[0] * x, c[1] + 1), (x, 1))[0]


def test_names_that_were_imported_before_are_ours_too():
    with funcgrad.as_jax_grad() as gradients:
        assert grad(power)(3.0) == 108.0
        assert vjp(power, 3.0)[1](1.0) == (108.0,)
        assert jacobian(power)(3.0) == 108.0
        assert hessian(power)(3.0) == jax.hessian(power)(3.0) == 108.0
        assert partial(grad, argnums=(0,))(power)(3.0) == (108.0,)
    assert gradients.count == 6
    assert gradients.by_name["hessian"] == 2
    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work"):
        grad(power)(3.0)


def test_jax_s_own_modules_ask_us():
    shifted = lambda x: jnp.sum((x - 1) ** 2) + 0 * power(x[0])
    with funcgrad.as_jax_grad() as gradients:
        check_grads(power, (1.5,), order=2, modes=["rev"], rtol=0.01)
        found = minimize(shifted, jnp.zeros(2), method="BFGS").x
        forward, backward = jax.fwd_and_bwd(power, 0)
        assert backward(forward(3.0)[1], 1.0) == 108.0
    assert gradients.count > 3
    np.testing.assert_allclose(found, [1.0, 1.0], rtol=1e-3)


def test_what_funcgrad_asks_jax_is_jax_s():
    """Ours compared with ours would agree, right or wrong."""
    with funcgrad.as_jax_grad() as gradients:
        report = funcgrad.testing.check_grads(jnp.sin, (1.0,), order=1, modes=["jax"])
        wrong = funcgrad.DEFAULT.override({jax.lax.sin_p: lambda ct, x, **_: ct * x})
        with pytest.raises(funcgrad.testing.GradientError, match=r"by jax\.vjp"):
            funcgrad.testing.check_grads(jnp.sin, (1.0,), order=1, rules=wrong, derivative=True)
    assert [check.status for check in report["jax"]] == ["passed"]
    assert gradients.count == 0


def test_arguments_are_jax_s():
    with funcgrad.as_jax_grad() as gradients:
        assert grad(fun=power)(3.0) == 108.0
        assert jax.grad(lambda x: (x**2, "aux"), 0, True)(3.0) == (6.0, "aux")
        assert vjp(lambda x: (x**2, "aux"), 3.0, has_aux=True)[2] == "aux"
        with pytest.raises(TypeError, match="no_option"):
            grad(power, no_option=True)  # type: ignore[call-arg]
    assert gradients.count == 3
    assert inspect.signature(jax.grad).parameters["argnums"].default == 0


def test_gradients_are_counted():
    with funcgrad.as_jax_grad() as gradients:
        slope = jax.jit(lambda x: jax.grad(jnp.sin)(x))
        slope(0.0), slope(1.0)
        assert repr(gradients) == "<1 gradient by funcgrad: 1 grad>"
        with funcgrad.as_jax_grad() as inner:
            jax.value_and_grad(jnp.sin)(0.0)
        assert repr(inner) == "<1 gradient by funcgrad: 1 value_and_grad>"
        jax.value_and_grad(jnp.sin)(0.0)
        assert repr(gradients) == "<3 gradients by funcgrad: 2 value_and_grad, 1 grad>"


def test_in_all_threads_other_threads_are_ours_as_well():
    found = []
    with in_all_threads() as gradients:
        other = threading.Thread(target=lambda: found.append(grad(power)(3.0)))
        other.start()
        other.join()
        with funcgrad.as_jax_grad(rules=TWICE):
            assert grad(jnp.sin)(0.0) == 2.0
    assert found == [108.0]
    assert gradients.count == 2
    assert restored()


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
