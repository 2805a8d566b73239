"""In which settings rules are traced."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import funcgrad
from funcgrad import _jax


def names_of_calls(jaxpr):
    return [eqn.params["name"] for eqn in jaxpr.eqns if eqn.primitive is _jax.jit_p]


def gradient_program(f, x, **options):
    return jax.make_jaxpr(funcgrad.grad(lambda x: jnp.sum(f(x)), **options))(x).jaxpr


def test_rules_of_ours_have_no_calls_of_jax_numpy():
    found = gradient_program(lambda x: lax.max(x, lax.pow(x, x)), np.ones(3, np.float32))
    assert names_of_calls(found) == []


def test_a_users_rule_keeps_its_calls():
    @jax.jit
    def slope(x):
        return jnp.cos(x)

    def slow_sin_vjp(ct, x, *, out, **_):
        return ct * slope(x)

    rules = funcgrad.DEFAULT.override({lax.sin_p: slow_sin_vjp})
    found = gradient_program(lax.sin, np.ones(3, np.float32), rules=rules)
    assert "slope" in names_of_calls(found)


def test_the_settings_of_the_user_are_there_again():
    def f(x):
        return lax.max(x, 2 * x)

    before = jax.config.jax_disable_jit
    funcgrad.grad(lambda x: jnp.sum(f(x)))(jnp.ones(3))
    assert jax.config.jax_disable_jit == before
