"""jax.scipy.optimize.minimize: no derivative by its steps, and two ways to that of the minimum."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.scipy.optimize import minimize

import funcgrad
from funcgrad import errors
from tests.compare import assert_same

BFGS, LBFGS = "BFGS", "l-bfgs-experimental-do-not-rely-on-this"
A = jnp.array([1.2, 100.0])


def rosenbrock(a):
    """Its minimum is 0, at (a0, a0**2)."""
    return lambda x: (a[0] - x[0]) ** 2 + a[1] * (x[1] - x[0] ** 2) ** 2


def quartic(a):
    """At its minimum 2 (x - a) + 0.4 x**3 = 0."""
    return lambda x: jnp.sum((x - a) ** 2 + 0.1 * x**4)


def search(fun, method=BFGS):
    return minimize(fun, jnp.zeros(2), method=method)


def by_root(fun, start=(0.0, 0.0)):
    """As the error says."""
    return lax.custom_root(
        jax.grad(fun),
        jnp.array(start),
        lambda _, x: minimize(fun, x, method="BFGS").x,
        lambda linear, y: jnp.linalg.solve(jax.jacobian(linear)(y), y),
    )


@pytest.mark.parametrize(
    ("method", "field"),
    [
        *((BFGS, field) for field in ("x", "fun", "jac", "hess_inv")),
        *((LBFGS, field) for field in ("x", "fun", "jac")),
    ],
)
def test_a_gradient_of_what_it_found_is_an_error(method, field):
    total = lambda a: jnp.sum(getattr(search(rosenbrock(a), method), field))
    words = r"minimize`, used at .*test_searches\.py.*custom_root"
    with pytest.raises(errors.NoDerivativeError, match=words):
        jax.eval_shape(funcgrad.grad(total), A)


@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint, jax.vmap, funcgrad.grad])
def test_it_is_one_in(wrap):
    if wrap is jax.vmap:
        total = lambda a: jnp.sum(jax.vmap(lambda a: search(quartic(a)).x)(a[None]))
    elif wrap is funcgrad.grad:
        total = lambda a: jnp.sum(funcgrad.grad(lambda a: jnp.sum(search(quartic(a)).x))(a))
    else:
        total = lambda a: jnp.sum(wrap(lambda a: search(quartic(a)).x)(a))
    with pytest.raises(errors.NoDerivativeError, match=r"test_searches\.py"):
        jax.eval_shape(funcgrad.grad(total), A)


def test_where_the_search_begins_has_no_gradient_either():
    total = lambda x: jnp.sum(minimize(quartic(A), x, method=BFGS).x)
    with pytest.raises(errors.NoDerivativeError, match="minimize"):
        jax.eval_shape(funcgrad.grad(total), jnp.ones(2))


@pytest.mark.slow
def test_the_derivative_of_its_steps_is_not_that_of_the_minimum():
    """Why it is refused: from the minimum on it takes no step."""
    with jax.enable_x64(True):
        a = A.astype(float)
        found = minimize(rosenbrock(a), jnp.ones(2), method=BFGS, options={"gtol": 1e-9}).x
        again = lambda a: minimize(rosenbrock(a), found, method=BFGS)
        assert again(a).success
        assert_same(jax.jacfwd(lambda a: again(a).x)(a), jnp.zeros((2, 2)), weak=False)


@pytest.mark.slow
def test_what_is_not_differentiated_may_be_used():
    def total(a):
        found = search(quartic(a))
        return jnp.sum(a**2) * (1.0 + lax.stop_gradient(found.x[0])) + found.nit + found.success

    expected = 2 * A * (1.0 + search(quartic(A)).x[0])
    assert_same(funcgrad.grad(total)(A), expected, rtol=1e-6, weak=False)


@pytest.mark.slow
def test_a_minimum_is_the_root_of_a_gradient():
    with jax.enable_x64(True):
        a = jnp.array([0.7, -0.4])
        ours = funcgrad.grad(lambda a: jnp.sum(by_root(quartic(a))))(a)
        x = by_root(quartic(a))
        assert_same(ours, 1 / (1 + 0.6 * x**2), rtol=1e-5, weak=False)
        steep = lambda a: by_root(rosenbrock(a), (1.0, 1.0))  # from (0, 0) the search fails
        of_steep = funcgrad.jacrev(steep)(A.astype(float))
        expected = jnp.array([[1.0, 0.0], [2.4, 0.0]])
        assert jnp.allclose(of_steep, expected, atol=1e-4)


@pytest.mark.slow
def test_the_value_at_a_minimum():
    """By the value's derivative at the minimum alone, since that by x is 0."""
    with jax.enable_x64(True):
        value = lambda a: quartic(a)(lax.stop_gradient(search(quartic(a)).x))
        a = jnp.array([0.7, -0.4])
        expected = 2 * (a - by_root(quartic(a)))
        assert_same(funcgrad.grad(value)(a), expected, rtol=1e-4, weak=False)
