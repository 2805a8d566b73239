"""Loops that Python unrolls, most of them arithmetic: what XLA fuses it may compute again."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from benchmarks.workloads import Params, Workload, dense, dense_params, normal


def heat_loss(rate: Array, u: Array, target: Array) -> Array:
    """Explicit steps of the heat equation, as many as `target` has frames; each is compared."""
    error = jnp.zeros(())
    for frame in target:
        around = [jnp.roll(u, shift, axis) for axis in (0, 1) for shift in (1, -1)]
        u = u + 0.1 * rate * (sum(around) - 4 * u)
        error = error + jnp.mean((u - frame) ** 2)
    return error


def heat_args(small: bool) -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    steps, side = (2, 4) if small else (12, 64)
    arrays = (rng.uniform(0.2, 1, (side, side)), rng.normal(size=(side, side)))
    target = rng.normal(size=(steps, side, side))
    return tuple(jnp.asarray(x, jnp.float32) for x in (*arrays, target))


def predators_loss(rates: Array, start: Array, target: Array) -> Array:
    """Euler steps of Lotka and Volterra's equations, for many islands at once."""
    x, y = start
    for _ in range(len(target)):
        a, b, c, d = rates
        x, y = x + 0.02 * (a * x - b * x * y), y + 0.02 * (d * x * y - c * y)
    return jnp.mean((x - target[-1]) ** 2) + jnp.mean(y**2)


def predators_args(small: bool) -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    steps, islands = (2, 3) if small else (20, 5000)
    arrays = (rng.uniform(0.5, 1.5, shape) for shape in ((4,), (2, islands), (steps, islands)))
    return tuple(jnp.asarray(x, jnp.float32) for x in arrays)


def attractor_loss(rates: Array, start: Array, times: Array) -> Array:
    """Euler steps of Lorenz's equations."""
    x, y, z = start
    for _ in range(len(times)):
        moves = rates[0] * (y - x), x * (rates[1] - z) - y, x * y - rates[2] * z
        x, y, z = (v + 0.01 * move for v, move in zip((x, y, z), moves, strict=True))
    return jnp.mean(x + y * z)


def attractor_args(small: bool) -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    steps, points = (2, 3) if small else (20, 5000)
    start = rng.normal(size=(3, points))
    return jnp.asarray([10.0, 28.0, 8 / 3]), jnp.asarray(start, jnp.float32), jnp.zeros(steps)


def gru_loss(params: Params, xs: Array) -> Array:
    """A gated recurrent network whose cell is a jitted function."""

    @jax.jit
    def cell(params: Params, hidden: Array, x: Array) -> Array:
        from_x = jnp.split(dense(params["x"], x), 3, axis=-1)
        from_hidden = jnp.split(hidden @ params["h"]["w"], 3, axis=-1)
        update = jax.nn.sigmoid(from_x[0] + from_hidden[0])
        reset = jax.nn.sigmoid(from_x[1] + from_hidden[1])
        new = jnp.tanh(from_x[2] + reset * from_hidden[2])
        return (1 - update) * hidden + update * new

    hidden = jnp.zeros((xs.shape[1], params["h"]["w"].shape[0]))
    for x in xs:
        hidden = cell(params, hidden, x)
    return jnp.mean(hidden**2)


def gru_args(small: bool) -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    steps, batch, features, width = (2, 2, 3, 4) if small else (20, 16, 32, 64)
    params = {
        "x": dense_params(rng, features, 3 * width),
        "h": dense_params(rng, width, 3 * width),
    }
    return params, normal(rng, steps, batch, features, scale=1.0)


def shared_loss(params: Params, x: Array, times: Array) -> Array:
    """One residual layer, applied many times."""
    for _ in range(len(times)):
        hidden = jnp.tanh(dense(params["in"], x))
        x = x + 0.1 * (hidden @ params["out"]["w"])
    return jnp.mean(x**2)


def shared_args(small: bool) -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    steps, batch, width, inner = (2, 3, 4, 5) if small else (20, 32, 64, 256)
    params = {"in": dense_params(rng, width, inner), "out": dense_params(rng, inner, width)}
    return params, normal(rng, batch, width, scale=1.0), jnp.zeros(steps)


UNROLLED: tuple[Workload, ...] = (
    Workload("heat", "12 steps of the heat equation, 64 x 64", heat_loss, heat_args),
    Workload(
        "predators",
        "20 Euler steps of Lotka's and Volterra's equations, 5,000 islands",
        predators_loss,
        predators_args,
    ),
    Workload(
        "attractor",
        "20 Euler steps of Lorenz's equations, 5,000 points",
        attractor_loss,
        attractor_args,
    ),
    Workload("gru_jitted", "20 steps of a jitted cell, width 64, batch 16", gru_loss, gru_args),
    Workload("shared", "one layer 64-256-64 applied 20 times, batch 32", shared_loss, shared_args),
)
"""Loops that Python unrolls."""
