"""Linear solves of lineax: every solver, by matrix and by vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import funcgrad
from tests.ecosystem.compare import assert_gradients_same, check, draw, load

lx = load("lineax")


def square(a: Any) -> Any:
    return lx.MatrixLinearOperator(a + 4 * jnp.eye(3))


def positive(a: Any) -> Any:
    return lx.MatrixLinearOperator(a @ a.T + jnp.eye(3), lx.positive_semidefinite_tag)


def tall(a: Any) -> Any:
    return lx.MatrixLinearOperator(jnp.concatenate([a, jnp.sin(a[:1])]))


def wide(a: Any) -> Any:
    return lx.MatrixLinearOperator(a[:2])


def triangular(a: Any) -> Any:
    return lx.MatrixLinearOperator(jnp.tril(a) + 3 * jnp.eye(3), lx.lower_triangular_tag)


def diagonal(a: Any) -> Any:
    return lx.DiagonalLinearOperator(a[0] + 3)


def tridiagonal(a: Any) -> Any:
    return lx.TridiagonalLinearOperator(a[0] + 5, a[1, :2], a[2, :2])


def function(a: Any) -> Any:
    structure = jax.ShapeDtypeStruct((3,), jnp.float64)
    return lx.FunctionLinearOperator(lambda v: a @ v + 5 * v, structure)


def jacobian(a: Any) -> Any:
    return lx.JacobianLinearOperator(lambda y, args: 4 * y + args @ jnp.sin(y), a[0], args=a)


def composed(a: Any) -> Any:
    return square(a).T @ square(a) + lx.IdentityLinearOperator(
        jax.ShapeDtypeStruct((3,), jnp.float64)
    )


# operator, solver, size of the vector, tolerance: an iteration stops at the solver's own, 1e-12,
# which the conditioning of the matrix multiplies.
SOLVES: dict[str, tuple[Callable[[Any], Any], Any, int, float]] = {
    "LU": (square, lx.LU(), 3, 1e-10),
    "QR": (tall, lx.QR(), 4, 1e-10),
    "QR, wide": (wide, lx.QR(), 2, 1e-10),
    "SVD": (square, lx.SVD(), 3, 1e-10),
    "Cholesky": (positive, lx.Cholesky(), 3, 1e-10),
    "triangular": (triangular, lx.Triangular(), 3, 1e-10),
    "diagonal": (diagonal, lx.Diagonal(), 3, 1e-10),
    "tridiagonal": (tridiagonal, lx.Tridiagonal(), 3, 1e-10),
    "CG": (positive, lx.CG(1e-12, 1e-12), 3, 1e-9),
    "GMRES": (square, lx.GMRES(1e-12, 1e-12), 3, 1e-9),
    "BiCGStab": (square, lx.BiCGStab(1e-12, 1e-12), 3, 1e-9),
    "automatic": (composed, lx.AutoLinearSolver(well_posed=True), 3, 1e-10),
    "function": (function, lx.LU(), 3, 1e-10),
    "jacobian": (jacobian, lx.GMRES(1e-12, 1e-12), 3, 1e-9),
}


@pytest.mark.parametrize("name", SOLVES)
def test_solve(name: str) -> None:
    operator, solver, size, rtol = SOLVES[name]

    def loss(a: Any, b: Any) -> Any:
        x = lx.linear_solve(operator(a), b, solver).value
        return jnp.sum(jnp.sin(x) * x)

    check(loss, draw(0, 3, 3), draw(1, size), argnums=(0, 1), rtol=rtol, eager=name == "LU")


def solved(a: Any, b: Any) -> Any:
    return jnp.sum(jnp.sin(lx.linear_solve(square(a), b, lx.LU()).value))


@pytest.mark.parametrize("outer", [funcgrad, jax], ids=["ours", "jax"])
def test_gradient_of_a_gradient(outer: Any) -> None:
    def twice(outer: Any, inner: Any) -> Any:
        return jax.jit(outer.grad(lambda a, b: jnp.sum(jnp.sin(inner.grad(solved)(a, b)))))

    a, b = draw(0, 3, 3), draw(1, 3)
    assert_gradients_same(twice(outer, funcgrad)(a, b), twice(jax, jax)(a, b))


def test_pullback_that_leaves_jit() -> None:
    a, b = draw(0, 3, 3), draw(1, 3)
    _, pullback = jax.jit(lambda a, b: funcgrad.vjp(solved, a, b))(a, b)
    assert_gradients_same(pullback(1.0), jax.grad(solved, (0, 1))(a, b))


def test_complex_matrix() -> None:
    def loss(a: Any, b: Any) -> Any:
        x = lx.linear_solve(square(a + 1j * a.T), b + 0j, lx.LU()).value
        return jnp.sum(jnp.abs(x))

    check(loss, draw(0, 3, 3), draw(1, 3), argnums=(0, 1))


def test_solve_with_a_shared_factorisation() -> None:
    def loss(a: Any, b: Any) -> Any:
        solver, operator = lx.LU(), square(a)
        state = solver.init(operator, {})
        first = lx.linear_solve(operator, b, solver, state=state).value
        second = lx.linear_solve(operator, first, solver, state=state).value
        return jnp.sum(jnp.sin(second) * first)

    check(loss, draw(0, 3, 3), draw(1, 3), argnums=(0, 1))


def test_solves_under_vmap_under_the_gradient() -> None:
    def loss(a: Any, b: Any) -> Any:
        def solve(a: Any, b: Any) -> Any:
            return lx.linear_solve(square(a), b, lx.QR()).value

        return jnp.sum(jnp.sin(jax.vmap(solve)(a, b)))

    check(loss, draw(0, 2, 3, 3), draw(1, 2, 3), argnums=(0, 1))


def test_vmap_of_gradients() -> None:
    a, b = draw(0, 2, 3, 3), draw(1, 2, 3)
    ours, theirs = (jax.jit(jax.vmap(m.grad(solved, (0, 1))))(a, b) for m in (funcgrad, jax))
    assert_gradients_same(ours, theirs)
