"""What JAX keeps is asked of JAX, and an error of JAX's is the user's to see."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from funcgrad.testing.residuals import residuals_of_jax

X = jnp.linspace(0.0, 1.0, 5)


@pytest.mark.parametrize("x", [X, jax.ShapeDtypeStruct(X.shape, X.dtype)], ids=["array", "type"])
def test_the_derivative_of_a_sine_is_kept(x):
    jaxpr = residuals_of_jax(jnp.sin, x).jaxpr
    (kept,) = jaxpr.outvars
    (eqn,) = [eqn for eqn in jaxpr.eqns if kept in eqn.outvars]
    assert "cos" in str(eqn)


def test_an_argument_that_is_kept_is_an_input():
    jaxpr = residuals_of_jax(lambda w, x, i: jnp.sum(w * x) + i, X, X + 1, 3).jaxpr
    assert set(jaxpr.outvars) == set(jaxpr.invars[:2])


def test_a_loop_of_unknown_length_is_an_error_of_jax():
    loop = lambda x: jax.lax.while_loop(lambda x: x[0] < 9.0, lambda x: 2 * x, x)
    with pytest.raises(ValueError, match="while_loop"):
        residuals_of_jax(loop, X)
