"""Cotangents that XLA would compute again and again: which are held, and what that saves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad
from benchmarks.measure import kernels_not_alike, work_counted
from funcgrad import _jax, backward, choices
from funcgrad.fusion import Fusion, Passed, Way, fusion_of, held
from tests.compare import assert_same

pytestmark = pytest.mark.skipif(
    not choices.choices().computed_again, reason="nothing is held on this platform"
)


def draw(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).uniform(0.5, 1.5, shape).astype(np.float32)


# --- programs that Python unrolls


def predators(steps: int) -> Callable[..., Any]:
    """Euler steps of Lotka and Volterra's equations."""

    def loss(p: Any, x: Any, y: Any) -> Any:
        for _ in range(steps):
            x, y = x + 0.01 * (p[0] * x - p[1] * x * y), y + 0.01 * (p[2] * x * y - p[3] * y)
        return jnp.sum(x**2 + y)

    return loss


def heat(steps: int) -> Callable[..., Any]:
    """Explicit steps of the heat equation."""

    def loss(rate: Any, u: Any) -> Any:
        for _ in range(steps):
            around = [jnp.roll(u, shift, axis) for axis in (0, 1) for shift in (1, -1)]
            u = u + 0.1 * rate * (sum(around) - 4 * u)
        return jnp.sum(u**2)

    return loss


def lstm(steps: int, wrapped: Callable[..., Any] = lambda cell: cell) -> Callable[..., Any]:
    """A recurrent network whose cell is `wrapped`."""

    def loss(params: Any, xs: Any) -> Any:
        @wrapped
        def cell(hidden: Any, cell: Any, x: Any) -> Any:
            gates = jnp.split(x @ params["x"] + hidden @ params["h"] + params["b"], 4, axis=-1)
            into, forget, out = map(jax.nn.sigmoid, gates[:3])
            cell = forget * cell + into * jnp.tanh(gates[3])
            return out * jnp.tanh(cell), cell

        hidden = state = jnp.zeros((xs.shape[1], params["h"].shape[0]))
        for x in xs[:steps]:
            hidden, state = cell(hidden, state, x)
        return jnp.sum(hidden**2)

    return loss


LSTM_ARGS = (
    {"x": 0.1 * draw(8, 128), "h": 0.1 * draw(32, 128, seed=1), "b": draw(128, seed=2)},
    draw(12, 8, 8, seed=3),
)
PREDATORS_ARGS = draw(4), draw(300), draw(300, seed=1)
HEAT_ARGS = draw(16, 16), draw(16, 16, seed=1)
PROGRAMS = {
    "predators": (predators(10), PREDATORS_ARGS),
    "heat": (heat(10), HEAT_ARGS),
    "lstm": (lstm(12), LSTM_ARGS),
    "lstm of jitted cells": (lstm(12, jax.jit), LSTM_ARGS),
}


def compiled(transform: Any, loss: Any, args: Any) -> Any:
    every = tuple(range(len(args)))
    return jax.jit(transform(loss, argnums=every)).lower(*args).compile()


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_cotangent_is_computed_once(name: str) -> None:
    loss, args = PROGRAMS[name]
    ours, reference = (compiled(grad, loss, args) for grad in (funcgrad.grad, jax.grad))
    assert_same(ours(*args), reference(*args), rtol=2e-4)
    kernels, kernels_before = (kernels_not_alike(c.as_text()) for c in (ours, reference))
    assert kernels < 0.9 * kernels_before
    counted, before = map(work_counted, (ours, reference))
    assert counted["operations"] < before["operations"]
    assert counted["memory"] <= before["memory"]


@pytest.mark.parametrize(("program", "args"), [(predators, PREDATORS_ARGS), (heat, HEAT_ARGS)])
def test_the_work_is_in_proportion_to_the_steps(program: Any, args: Any) -> None:
    """Of `jax.grad`'s gradient, the work of twice the steps is about four times as much."""
    growth = {}
    for grad in (funcgrad.grad, jax.grad):
        short, long = (work_counted(compiled(grad, program(n), args))["operations"] for n in (4, 8))
        growth[grad] = long / short
    assert growth[funcgrad.grad] < 2.5
    assert growth[jax.grad] > 3


def test_on_numbers_too_for_the_sake_of_compiling() -> None:
    args = (draw(4), np.float32(1), np.float32(0.8))
    ours, reference = (compiled(grad, predators(20), args) for grad in (funcgrad.grad, jax.grad))
    assert_same(ours(*args), reference(*args), rtol=2e-4)
    assert len(ours.as_text()) < 0.5 * len(reference.as_text())


def test_a_sum_of_many_products_is_added_up_in_place() -> None:
    def loss(w: Any, x: Any) -> Any:
        for _ in range(12):
            x = jnp.tanh(x @ w)
        return jnp.sum(x)

    args = 0.1 * draw(64, 64), draw(8, 64, seed=1)
    ours, reference = (compiled(grad, loss, args) for grad in (funcgrad.grad, jax.grad))
    assert_same(ours(*args), reference(*args), rtol=2e-4)
    assert work_counted(ours)["memory"] < 0.7 * work_counted(reference)["memory"]


def test_a_sum_is_held_only_if_more_is_added() -> None:
    def loss(steps: int) -> Any:
        return lambda w: jnp.sum(sum(jnp.sin(draw(3, 8, seed=i) @ w) for i in range(steps)))

    w, terms = draw(8, 8), choices.choices().written_terms
    assert count_held(loss(terms), (w,)) == 0
    assert count_held(loss(terms + 1), (w,)) == 1


# --- programs in which there is nothing to hold


def block(params: Any, x: Any) -> Any:
    """Two residual layers with a norm, as a transformer's."""
    for w, v in params:
        y = x - x.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt((y**2).mean(-1, keepdims=True) + 1e-5)
        x = x + jax.nn.gelu(y @ w) @ v
    return jnp.sum(x**2)


def gated(params: Any, x: Any) -> Any:
    """Residual steps whose parameters are summed over the rows: XLA writes each step's cotangent."""
    for _ in range(5):
        x = x + 0.1 * jax.nn.relu(x * params[0] - x * x * params[1])
    return jnp.sum(x**2)


def clenshaw(x: Any) -> Any:
    """A recurrence whose cotangents all end in that of x: one kernel computes them."""
    last = before = jnp.zeros_like(x)
    for i in range(8):
        last, before = 2 * x * last - before + 1 / (i + 1), last
    return jnp.sum(last**2)


def coupled(x: Any, y: Any, z: Any) -> Any:
    u, v, w = x * y - z, y * z - x, z * x - y
    return jnp.sum(u * u * v + v * v * w + w * w * u + u * v * w)


NOTHING_TO_HOLD = {
    "residual layers": (block, ([(draw(32, 64), draw(64, 32))] * 2, draw(16, 32))),
    "one end": (clenshaw, (draw(1000),)),
    "three ends, near": (coupled, (draw(1000), draw(1000, seed=1), draw(1000, seed=2))),
    "mlp": (lambda w, x: jnp.sum(jnp.tanh(jnp.tanh(x @ w) @ w)), (draw(32, 32), draw(16, 32))),
}


def count_held(loss: Any, args: Any) -> int:
    return str(jax.make_jaxpr(funcgrad.grad(loss))(*args)).count("held ")


@pytest.mark.parametrize("name", NOTHING_TO_HOLD)
def test_nothing_is_held_where_xla_writes_it_anyway(name: str) -> None:
    assert count_held(*NOTHING_TO_HOLD[name]) == 0


def test_a_hold_costs_no_copy_where_xla_writes_it_anyway() -> None:
    args = (draw(2, 64), draw(256, 64))
    ours, reference = (compiled(grad, gated, args) for grad in (funcgrad.grad, jax.grad))
    assert work_counted(ours)["bytes"] <= 1.03 * work_counted(reference)["bytes"]


def test_nothing_is_held_without_jit_or_on_another_platform(monkeypatch: Any) -> None:
    loss, args = PROGRAMS["predators"]
    assert count_held(loss, args)
    monkeypatch.setattr(choices, "BY_PLATFORM", {jax.default_backend(): choices.NOT_MEASURED})
    assert not count_held(loss, args)
    monkeypatch.undo()
    monkeypatch.setattr(backward, "held", None)
    funcgrad.grad(loss)(*args)


# --- under other transforms


def test_derivatives_of_a_gradient_that_holds() -> None:
    loss, (p, x, y) = predators(6), PREDATORS_ARGS
    ours, reference = funcgrad.grad(loss), jax.grad(loss)

    def along(grad: Any) -> Callable[..., Any]:
        return lambda p: jnp.vdot(grad(p, x, y), p)

    expected = jax.jit(jax.grad(along(reference)))(p)
    assert_same(jax.jit(funcgrad.grad(along(ours)))(p), expected, rtol=1e-3)
    assert_same(jax.jit(jax.grad(along(ours)))(p), expected, rtol=1e-3)
    assert_same(
        jax.jit(jax.jvp, static_argnums=0)(along(ours), (p,), (p,))[1], expected @ p, rtol=1e-3
    )
    batch = np.stack([p, 2 * p])
    over = lambda grad: jax.jit(jax.vmap(grad, in_axes=(0, None, None)))(batch, x, y)
    assert_same(over(ours), over(reference), rtol=1e-3)


def test_inside_a_checkpoint_in_a_scan() -> None:
    def loss(p: Any, x: Any, y: Any) -> Any:
        def step(carry: Any, _: Any) -> Any:
            x, y = carry
            for _ in range(4):
                x, y = x + 0.1 * (p[0] * x - p[1] * x * y), y + 0.1 * (p[2] * x * y - p[3] * y)
            return (x, y), None

        (x, y), _ = jax.lax.scan(jax.checkpoint(step), (x, y), None, length=3)
        return jnp.sum(x**2 + y)

    ours, reference = (compiled(grad, loss, PREDATORS_ARGS) for grad in (funcgrad.grad, jax.grad))
    assert_same(ours(*PREDATORS_ARGS), reference(*PREDATORS_ARGS), rtol=1e-3)
    assert count_held(loss, PREDATORS_ARGS)


# --- what XLA can fuse of a program

V, W = draw(3, 4), draw(4)
WAYS = {
    "multiplied by an array": (lambda ct: ct * V, Way(1, False)),
    "multiplied by what is broadcast": (lambda ct: ct * W, Way(1, True)),
    "multiplied by a number, and added to it": (lambda ct: 2 * ct + ct, Way(2, True)),
    "a slice": (lambda ct: ct[:, 1:3], Way(1, True)),
    "as it is": (lambda ct: ct, Way(0, True)),
    "jitted": (lambda ct: jax.jit(lambda ct: jnp.where(V > 1, ct, 0))(ct), Way(1, False)),
    "divided": (lambda ct: ct / V, None),
    "none of it": (lambda ct: jnp.ones(3), None),
    "summed": (lambda ct: (ct * V).sum(0), None),
    "summed later": (lambda ct: jnp.tanh(ct * V * V).sum(0), None),
    "a product": (lambda ct: ct @ W, None),
    "a product of a multiple": (lambda ct: (2 * ct) @ W, None),
    "a concatenation": (lambda ct: jnp.concatenate([ct, ct]), None),
}
WRITES = {"summed", "a product", "a concatenation"}


@pytest.mark.parametrize("name", WAYS)
def test_what_xla_can_fuse(name: str) -> None:
    fun, way = WAYS[name]
    with jax.disable_jit(name != "jitted"):
        jaxpr = jax.make_jaxpr(fun)(V).jaxpr
    first = len(jaxpr.invars) - 1
    assert fusion_of(jaxpr, jaxpr.invars[first:]) == Fusion((way,), name in WRITES)


def test_a_broadcast_result_will_be_summed() -> None:
    jaxpr = jax.make_jaxpr(lambda ct: (ct * 2, ct))(V).jaxpr
    expected = Fusion((Way(1, True, wide=True), Way(0, True)), True)
    assert fusion_of(jaxpr, jaxpr.invars, [(4,), (3, 4)]) == expected


def test_sizes_that_only_a_run_tells() -> None:
    shapes = jax.export.symbolic_args_specs([draw(4), draw(3), draw(3)], ["4", "n", "n"])
    exported = jax.export.export(jax.jit(funcgrad.grad(predators(4))))(*shapes)
    p, x, y = PREDATORS_ARGS
    expected = jax.jit(jax.grad(predators(4)))(p, x, y)
    assert_same(exported.call(p, x, y), expected, rtol=2e-4)


def test_a_sum_with_what_is_written_counts_from_there() -> None:
    straight, written = Passed(5, direct=True), Passed(1, crossed=True)
    assert straight.plus(written).depth == written.plus(straight).depth == 2
    assert straight.plus(Passed(1)).depth == 6
    assert Passed().after(None).plus(Passed().after(None)).written == 2


def test_what_is_no_array_of_numbers_is_left_alone() -> None:
    key = jax.random.key(0)
    assert held(key) is key
    assert str(jax.make_jaxpr(held)(1.0)).count(_jax.held_p.name) == 1
