"""Loops: models over time or depth, solvers and simulations, and while loops of unknown length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from benchmarks.workloads import (
    Params,
    Workload,
    block,
    cross_entropy,
    dense,
    dense_params,
    layer_norm,
    normal,
    transformer_args,
)

# --- recurrent networks: 200 steps, a target for each

Cell = Callable[[Params, Array, Any], Any]


def rnn_cell(params: Params, x: Array, hidden: Array) -> Array:
    return jnp.tanh(dense(params["input"], x) + hidden @ params["recurrent"])


def gru_cell(params: Params, x: Array, hidden: Array) -> Array:
    from_input = jnp.split(dense(params["input"], x), 3, axis=-1)
    from_hidden = jnp.split(hidden @ params["recurrent"], 3, axis=-1)
    update = jax.nn.sigmoid(from_input[0] + from_hidden[0])
    reset = jax.nn.sigmoid(from_input[1] + from_hidden[1])
    new = jnp.tanh(from_input[2] + reset * from_hidden[2])
    return update * hidden + (1 - update) * new


def lstm_cell(params: Params, x: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
    hidden, cell = state
    gates = dense(params["input"], x) + hidden @ params["recurrent"]
    into, forget, out, new = jnp.split(gates, 4, axis=-1)
    cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(into) * jnp.tanh(new)
    return jax.nn.sigmoid(out) * jnp.tanh(cell), cell


def recurrent_loss(cell: Cell, params: Params, xs: Array, targets: Array) -> Array:
    """Mean squared error of the hidden states; steps are the leading axis."""
    zeros = jnp.zeros(targets.shape[1:], xs.dtype)

    def step(state: Any, x: Array) -> tuple[Any, Array]:
        state = cell(params, x, state)
        return state, state[0] if isinstance(state, tuple) else state

    _, hidden = lax.scan(step, (zeros, zeros) if cell is lstm_cell else zeros, xs)
    return jnp.mean((hidden - targets) ** 2)


def recurrent_args(gates: int, width: int, small: bool) -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    steps, batch, width = (9, 2, 8) if small else (200, 16, width)
    params = {
        "input": dense_params(rng, width, gates * width),
        "recurrent": normal(rng, width, gates * width),
    }
    return params, *(normal(rng, steps, batch, width, scale=1.0) for _ in range(2))


def recurrent(name: str, cell: Cell, gates: int) -> list[Workload]:
    """The network at three widths."""
    return [
        Workload(
            f"{name}_{width}",
            f"{name.upper()}, 200 steps, width {width}, batch 16",
            partial(recurrent_loss, cell),
            partial(recurrent_args, gates, width),
        )
        for width in (64, 128, 256)
    ]


# --- a transformer, its layers stacked


def stacked_loss(remat: bool, params: Params, tokens: Array, targets: Array) -> Array:
    """The transformer of the other group, as a scan over its layers."""
    layer = jax.checkpoint(block) if remat else block
    x = params["tokens"][tokens] + params["positions"]
    x, _ = lax.scan(lambda x, blocks: (layer(blocks, x), None), x, params["blocks"])
    return cross_entropy(dense(params["head"], layer_norm(params["norm"], x)), targets)


def stacked_args(small: bool) -> tuple[Any, ...]:
    params, *batch = transformer_args(small)
    blocks = jax.tree.map(lambda *layers: jnp.stack(layers), *params["blocks"])
    return {**params, "blocks": blocks}, *batch


# --- hidden Markov model


def hmm_loss(params: Params, observed: Array) -> Array:
    """Negative log likelihood by the forward algorithm, in logarithms; steps lead."""
    start = jax.nn.log_softmax(params["start"])
    transition = jax.nn.log_softmax(params["transition"])
    emission = jax.nn.log_softmax(params["emission"])

    def step(alpha: Array, symbols: Array) -> tuple[Array, None]:
        moved = jax.nn.logsumexp(alpha[:, :, None] + transition, axis=1)
        return moved + emission.T[symbols], None

    alpha, _ = lax.scan(step, start + emission.T[observed[0]], observed[1:])
    return -jnp.mean(jax.nn.logsumexp(alpha, axis=-1))


def hmm_args(small: bool) -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    states, symbols, steps, batch = (5, 7, 6, 2) if small else (32, 64, 200, 8)
    params = {
        "start": normal(rng, states, scale=1.0),
        "transition": normal(rng, states, states, scale=1.0),
        "emission": normal(rng, states, symbols, scale=1.0),
    }
    return params, jnp.asarray(rng.integers(symbols, size=(steps, batch)))


# --- optimal transport


def sinkhorn_loss(points: Params, weights: Array) -> Array:
    """Cost of the entropic transport between two clouds; 100 iterations, in logarithms."""
    strength = 0.1
    cost = jnp.sum((points["from"][:, None] - points["to"]) ** 2, axis=-1)
    log_weights = jax.nn.log_softmax(weights)
    uniform = -jnp.log(cost.shape[1])

    def step(potential: Array, _: None) -> tuple[Array, None]:
        rows = log_weights - jax.nn.logsumexp(potential - cost / strength, axis=1)
        return uniform - jax.nn.logsumexp(rows[:, None] - cost / strength, axis=0), None

    columns, _ = lax.scan(step, jnp.zeros(cost.shape[1], cost.dtype), length=100)
    rows = log_weights - jax.nn.logsumexp(columns - cost / strength, axis=1)
    return jnp.sum(jnp.exp(rows[:, None] + columns - cost / strength) * cost)


def sinkhorn_args(small: bool) -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    n, m = (6, 5) if small else (128, 128)
    points = {"from": normal(rng, n, 2, scale=0.5), "to": normal(rng, m, 2, scale=0.5)}
    return points, normal(rng, n, scale=1.0)


# --- neural differential equation


def field(params: Params, x: Array) -> Array:
    return dense(params["down"], jnp.tanh(dense(params["up"], x)))


def rk4_loss(params: Params, x: Array, targets: Array) -> Array:
    """Squared error after 100 steps of the classical Runge-Kutta method, from time 0 to 1."""
    h = 1 / 100

    def step(x: Array, _: None) -> tuple[Array, None]:
        k1 = field(params, x)
        k2 = field(params, x + h / 2 * k1)
        k3 = field(params, x + h / 2 * k2)
        k4 = field(params, x + h * k3)
        return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None

    end, _ = lax.scan(step, x, length=100)
    return jnp.mean((end - targets) ** 2)


def rk4_args(small: bool) -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    batch, width, hidden = (2, 3, 6) if small else (32, 32, 128)
    params = {"up": dense_params(rng, width, hidden), "down": dense_params(rng, hidden, width)}
    return params, *(normal(rng, batch, width, scale=1.0) for _ in range(2))


# --- gravity


def acceleration(masses: Array, at: Array) -> Array:
    """Of each body by all others, softened at short range."""
    apart = at - at[:, None]
    distance = jnp.sum(apart**2, axis=-1) + 0.05
    return jnp.sum(masses[:, None] * apart / (distance * jnp.sqrt(distance))[..., None], axis=1)


def nbody_loss(params: Params, targets: Array) -> Array:
    """Squared distance from targets after 200 leapfrog steps of a `fori_loop`."""
    h, masses = 0.005, jnp.exp(params["log_masses"])

    def step(_: Any, state: tuple[Array, Array]) -> tuple[Array, Array]:
        at, velocity = state
        velocity = velocity + h / 2 * acceleration(masses, at)
        at = at + h * velocity
        return at, velocity + h / 2 * acceleration(masses, at)

    at, _ = lax.fori_loop(0, 200, step, (params["at"], params["velocity"]))
    return jnp.mean((at - targets) ** 2)


def nbody_args(small: bool) -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    bodies = 4 if small else 48
    params = {
        "log_masses": normal(rng, bodies, scale=0.1) - np.log(bodies),
        "at": normal(rng, bodies, 3, scale=1.0),
        "velocity": normal(rng, bodies, 3, scale=0.3),
    }
    return params, normal(rng, bodies, 3, scale=1.0)


SCANS: tuple[Workload, ...] = (
    *recurrent("lstm", lstm_cell, 4),
    *recurrent("gru", gru_cell, 3),
    *recurrent("rnn", rnn_cell, 1),
    Workload(
        "layers",
        "12 transformer layers by scan, width 128, 4 heads, sequence 64, batch 4",
        partial(stacked_loss, False),
        stacked_args,
    ),
    Workload(
        "layers_remat",
        "the same, each layer in `jax.checkpoint`",
        partial(stacked_loss, True),
        stacked_args,
    ),
    Workload(
        "hmm", "forward algorithm, 200 steps, 32 states, 64 symbols, batch 8", hmm_loss, hmm_args
    ),
    Workload("sinkhorn", "100 iterations, 128 x 128 points", sinkhorn_loss, sinkhorn_args),
    Workload("rk4", "neural ODE 32-128-32, 100 RK4 steps, batch 32", rk4_loss, rk4_args),
    Workload("nbody", "48 bodies, 200 leapfrog steps, `fori_loop`", nbody_loss, nbody_args),
)
"""Loops whose number of steps is known, so that ``jax.grad`` can differentiate them."""


# --- loops that jax.grad refuses

Loop = Callable[[Callable[[Any], Any], Callable[[Any], Any], Any], Any]
"""``loop(test, body, init)``: ``lax.while_loop`` or one that stands in for it."""


@dataclass(frozen=True)
class WhileWorkload:
    """A loss with a loop of unknown length, and what to call it with.

    Attributes:
      name: as on the command line.
      description: for the report.
      loss: ``loss(loop, params, *batch)``, a scalar.
      make_args: ``make_args(small)`` gives the arguments but for the loop.
      slow: one call takes seconds, so that few are timed.
    """

    name: str
    description: str
    loss: Callable[..., Array]
    make_args: Callable[[bool], tuple[Any, ...]]
    slow: bool = False


def newton(loop: Loop, a: Array) -> Array:
    """Cube roots, to a tolerance that all of them must reach."""

    def test(x: Array) -> Array:
        return jnp.max(jnp.abs(x**3 - a) / a) > 1e-5

    return loop(test, lambda x: x - (x**3 - a) / (3 * x**2), jnp.ones_like(a))


def newton_loss(loop: Loop, a: Array) -> Array:
    return jnp.sum(newton(loop, a) ** 2)


def newton_args(small: bool) -> tuple[Any, ...]:
    return (jnp.linspace(1.0, 50.0, 4 if small else 4096),)


def oscillator(stiffness: Array, x: Array) -> Array:
    """Van der Pol's equation; a row each for position and velocity."""
    return jnp.stack([x[1], stiffness * (1 - x[0] ** 2) * x[1] - x[0]])


def ode_loss(loop: Loop, stiffness: Array, start: Array, end: Array) -> Array:
    """Heun's method with steps as large as Euler's distance from it allows."""

    def body(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        time, h, x = state
        k1 = oscillator(stiffness, x)
        k2 = oscillator(stiffness, x + h * k1)
        error = h / 2 * jnp.sqrt(jnp.mean((k2 - k1) ** 2)) / 1e-3
        accepted = error <= 1
        x = jnp.where(accepted, x + h / 2 * (k1 + k2), x)
        time = jnp.where(accepted, time + h, time)
        h = h * jnp.clip(0.9 / jnp.sqrt(error + 1e-6), 0.2, 5.0)
        return time, jnp.minimum(h, jnp.maximum(end - time, 1e-6)), x

    state = jnp.zeros_like(end), jnp.full_like(end, 0.01), start
    _, _, x = loop(lambda state: state[0] < end - 1e-5, body, state)
    return jnp.mean(x**2)


def ode_args(small: bool) -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    examples, end = (2, 0.5) if small else (256, 10.0)
    return jnp.linspace(0.5, 1.5, examples), normal(rng, 2, examples, scale=1.0), jnp.float32(end)


def nested_loss(loop: Loop, a: Array, xs: Array) -> Array:
    """A scan whose every step solves for roots of another number of trips."""

    def step(total: Array, x: Array) -> tuple[Array, Array]:
        root = newton(loop, a * (1 + x**2))
        return total + root, root

    total, roots = lax.scan(step, jnp.zeros_like(a), xs)
    return jnp.mean(total * roots)


def nested_args(small: bool) -> tuple[Any, ...]:
    n, steps = (3, 3) if small else (1024, 20)
    return jnp.linspace(1.0, 9.0, n), jnp.linspace(0.0, 2.0, steps)


def trips_loss(loop: Loop, weights: Array, x: Array, trips: Array) -> Array:
    """A small recurrent network, as many steps as it is told."""
    _, hidden = loop(
        lambda state: state[0] < trips,
        lambda state: (state[0] + 1, jnp.tanh(weights @ state[1] + x)),
        (jnp.zeros_like(trips), x),
    )
    return jnp.sum(hidden**2)


def trips_args(trips: int, small: bool) -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    width = 4 if small else 16
    weights, x = 0.9 * normal(rng, width, width), normal(rng, width, scale=0.5)
    return weights, x, jnp.int32(min(trips, 70) if small else trips)


WHILES: tuple[WhileWorkload, ...] = (
    WhileWorkload("newton", "Newton's method to 1e-5, 4096 cube roots", newton_loss, newton_args),
    WhileWorkload("ode", "adaptive Heun steps, 256 van der Pol oscillators", ode_loss, ode_args),
    WhileWorkload("nested", "Newton's method inside a scan of 20 steps", nested_loss, nested_args),
    *(
        WhileWorkload(
            f"trips_{trips}",
            f"a recurrent network of width 16, {trips:,} trip{'s' * (trips != 1)}",
            trips_loss,
            partial(trips_args, trips),
            trips > 10_000,
        )
        for trips in (0, 1, 100, 10_000, 1_000_000)
    ),
)
"""Loops whose number of steps is known at run time only."""
