"""Differential equations solved by diffrax, with each of its ways to differentiate."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from tests.ecosystem.compare import check, draw, load

dfx = load("diffrax")
optx = load("optimistix")


def field(t: Any, y: Any, args: Any) -> Any:
    return jnp.tanh(args["w"] @ y) - 0.5 * y + jnp.sin(t) * args["b"]


def arguments() -> Any:
    return {"w": 0.5 * draw(0, 2, 2), "b": draw(1, 2)}


def total(tree: Any) -> Any:
    leaves = (y for y in jax.tree.leaves(tree) if jnp.issubdtype(y.dtype, jnp.floating))
    return sum(jnp.sum(jnp.sin(y) * y) for y in leaves)


def solve(y: Any, args: Any, solver: Any, **settings: Any) -> Any:
    steps = {"saveat": dfx.SaveAt(ts=jnp.array([0.1, 0.35, 0.5])), "max_steps": 16, **settings}
    return dfx.diffeqsolve(dfx.ODETerm(field), solver, 0.0, 0.5, 0.1, y, args, **steps).ys


TIGHT = dfx.PIDController(rtol=1e-4, atol=1e-5)

SOLVES = {
    "tsit5": (dfx.Tsit5(), {"stepsize_controller": TIGHT}),
    "dopri5, direct": (dfx.Dopri5(), {"adjoint": dfx.DirectAdjoint(), "max_steps": 8}),
    "heun, backsolve": (
        dfx.Heun(),
        {"adjoint": dfx.BacksolveAdjoint(), "saveat": dfx.SaveAt(t1=True)},
    ),
    "every step, few checkpoints": (
        dfx.Heun(),
        {"adjoint": dfx.RecursiveCheckpointAdjoint(3), "saveat": dfx.SaveAt(steps=True)},
    ),
    "kvaerno3": (
        dfx.Kvaerno3(),
        {"stepsize_controller": TIGHT, "saveat": dfx.SaveAt(t1=True)},
    ),
    "reversible heun": (dfx.ReversibleHeun(), {"saveat": dfx.SaveAt(t1=True)}),
}


@pytest.mark.parametrize("name", SOLVES)
def test_solve(name: str) -> None:
    solver, settings = SOLVES[name]

    def loss(y: Any, args: Any) -> Any:
        saved = solve(y, args, solver, **settings)
        return total(jnp.where(jnp.isfinite(saved), saved, 0.0))

    check(loss, draw(2, 2), arguments(), argnums=(0, 1))


def test_dense_output_and_times() -> None:
    def loss(args: Any, t1: Any) -> Any:
        solution = dfx.diffeqsolve(
            dfx.ODETerm(field), dfx.Euler(), 0.0, t1, 0.1, draw(2, 2), args,
            saveat=dfx.SaveAt(dense=True), max_steps=8,
        )  # fmt: skip
        return total(solution.evaluate(0.23)) + total(solution.derivative(t1 / 2))

    check(loss, arguments(), 0.5, argnums=(0, 1))


def test_event() -> None:
    def loss(args: Any) -> Any:
        event = dfx.Event(lambda t, y, args, **_: y[0] - 0.5, optx.Newton(1e-10, 1e-10))
        solution = dfx.diffeqsolve(
            dfx.ODETerm(lambda t, y, args: -y * jnp.exp(args["b"])), dfx.Heun(),
            0.0, 5.0, 0.1, jnp.ones(2), args, event=event, max_steps=64,
        )  # fmt: skip
        return total(solution.ys) + total(solution.ts)

    check(loss, arguments())


def test_stochastic_equation() -> None:
    def loss(args: Any) -> Any:
        path = dfx.VirtualBrownianTree(0.0, 0.5, 1e-2, (2,), jax.random.key(0))
        diffusion = dfx.ControlTerm(lambda t, y, args: jnp.diag(jnp.cos(args["b"]) * y), path)
        terms = dfx.MultiTerm(dfx.ODETerm(field), diffusion)
        return total(dfx.diffeqsolve(terms, dfx.Euler(), 0.0, 0.5, 0.1, draw(2, 2), args).ys)

    check(loss, arguments())


def test_controlled_equation() -> None:
    times = jnp.linspace(0.0, 0.5, 4)

    def loss(args: Any, values: Any) -> Any:
        coefficients = dfx.backward_hermite_coefficients(times, values)
        path = dfx.CubicInterpolation(times, coefficients)
        term = dfx.ControlTerm(lambda t, y, args: jnp.outer(jnp.tanh(y), args["b"]), path)
        return total(dfx.diffeqsolve(term, dfx.Euler(), 0.0, 0.5, 0.1, draw(2, 2), args).ys)

    check(loss, arguments(), draw(3, 4, 2), argnums=(0, 1))
