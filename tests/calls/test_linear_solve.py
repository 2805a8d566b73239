"""custom_linear_solve, and what NumPy's linear algebra builds on it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import funcgrad
from funcgrad import errors
from tests.programs import check_program, normal


def matrix(x):
    return x @ x.T + jnp.eye(3)


def iterative(a, b):
    """A symmetric solve whose matrix is never formed, closing over what it is made of."""

    def solve(matvec, b):
        return lax.fori_loop(0, 60, lambda _, x: x - 0.05 * (matvec(x) - b), jnp.zeros_like(b))

    return lax.custom_linear_solve(lambda v: a @ (a.T @ v) + v, b, solve, symmetric=True)


PROGRAMS = {
    "solve": (
        lambda x, b: jnp.sum(jnp.linalg.solve(matrix(x), b) ** 2),
        normal(3, 3),
        normal(3, 2),
    ),
    "inv": (lambda x: jnp.sum(jnp.sin(jnp.linalg.inv(matrix(x)))), normal(3, 3)),
    "slogdet": (lambda x: jnp.linalg.slogdet(matrix(x))[1], normal(3, 3)),
    "expm": (lambda x: jnp.sum(jax.scipy.linalg.expm(0.1 * x)), normal(3, 3)),
    "right-hand side only": (
        lambda b: jnp.sum(jnp.linalg.solve(jnp.eye(3) * 2, b) ** 2),
        normal(3),
    ),
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_gradient(program):
    check_program(*program)


def test_gradient_of_a_matrix_free_solve():
    with jax.enable_x64(True):
        a, b = 0.5 * jnp.asarray(normal(3, 3)), jnp.asarray(normal(3, seed=1))
        ours = funcgrad.grad(lambda a, b: jnp.sum(iterative(a, b) ** 2), (0, 1))(a, b)
        theirs = jax.grad(lambda a, b: jnp.sum(iterative(a, b) ** 2), (0, 1))(a, b)
        for x, y in zip(ours, theirs, strict=True):
            assert jnp.allclose(x, y, rtol=1e-12, atol=1e-12)


def test_without_a_transposed_solve_it_says_so():
    def fun(b):
        return jnp.sum(lax.custom_linear_solve(lambda v: 2 * v, b, lambda matvec, b: b / 2))

    with pytest.raises(errors.TransposeSolveError, match=r"test_linear_solve.py.*transpose_solve"):
        funcgrad.grad(fun)(jnp.ones(3))
