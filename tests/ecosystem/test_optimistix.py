"""Roots, least squares, minima and fixed points of optimistix, differentiated both its ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from tests.ecosystem.compare import check, draw, load

optx = load("optimistix")

START = jnp.zeros(3)


def contraction(y: Any, w: Any) -> Any:
    return 0.5 * jnp.tanh(w @ y) + 0.1 * w[0]


def residual(y: Any, w: Any) -> Any:
    return y - contraction(y, w)


def bowl(y: Any, w: Any) -> Any:
    return jnp.sum(jnp.cosh(y - w[0])) + 0.5 * jnp.sum((w @ y) ** 2)


def fit(y: Any, w: Any) -> Any:
    return {"data": jnp.tanh(w @ y) - w[0], "size": 0.3 * y}


def root(solver: Any, **settings: Any) -> Callable[[Any], Any]:
    return lambda w: optx.root_find(residual, solver, jnp.zeros(3), args=w, **settings).value


def fixed(solver: Any, **settings: Any) -> Callable[[Any], Any]:
    return lambda w: optx.fixed_point(contraction, solver, jnp.zeros(3), args=w, **settings).value


def least(solver: Any, **settings: Any) -> Callable[[Any], Any]:
    return lambda w: optx.least_squares(fit, solver, jnp.zeros(3), args=w, **settings).value


def lowest(solver: Any, **settings: Any) -> Callable[[Any], Any]:
    return lambda w: optx.minimise(bowl, solver, jnp.zeros(3), args=w, **settings).value


def bracketed(w: Any) -> Any:
    options = {"lower": -3.0, "upper": 3.0}
    found = optx.root_find(
        lambda y, w: y**3 + y - w.sum(), optx.Bisection(1e-13, 1e-13), 0.0, w, options
    )
    return found.value


EXACT = {"rtol": 1e-13, "atol": 1e-13}
UNROLLED = {"adjoint": optx.RecursiveCheckpointAdjoint(), "max_steps": 16}

# The implicit function theorem is applied where the iteration stopped: both are given that same point.
SOLVES: dict[str, Callable[[Any], Any]] = {
    "newton": root(optx.Newton(**EXACT)),
    "newton, unrolled": root(optx.Newton(**EXACT), **UNROLLED),
    "chord": root(optx.Chord(**EXACT)),
    "dogleg": root(optx.Dogleg(**EXACT)),
    "bisection": bracketed,
    "fixed point": fixed(optx.FixedPointIteration(**EXACT)),
    "fixed point, unrolled": fixed(
        optx.FixedPointIteration(1e-6, 1e-6), **{**UNROLLED, "max_steps": 32}
    ),
    "levenberg-marquardt": least(optx.LevenbergMarquardt(**EXACT)),
    "levenberg-marquardt, unrolled": least(optx.LevenbergMarquardt(1e-6, 1e-6), **UNROLLED),
    "gauss-newton": least(optx.GaussNewton(**EXACT)),
    "bfgs": lowest(optx.BFGS(**EXACT)),
    "bfgs, unrolled": lowest(optx.BFGS(1e-6, 1e-6), **UNROLLED),
    "nonlinear conjugate gradients": lowest(optx.NonlinearCG(1e-8, 1e-8)),
    "nelder-mead": lowest(optx.NelderMead(1e-6, 1e-6), throw=False),
}


@pytest.mark.parametrize("name", SOLVES)
def test_solve(name: str) -> None:
    solve = SOLVES[name]
    check(lambda w: jnp.sum(jnp.sin(solve(w)) * jnp.arange(1.0, 4.0)), 0.5 * draw(0, 3, 3))


def test_vmap_of_solves() -> None:
    solve = jax.vmap(root(optx.Newton(**EXACT)))
    check(lambda w: jnp.sum(jnp.sin(solve(w))), 0.5 * draw(0, 2, 3, 3))
