"""Models of equinox, its filtered transforms, checkpointing and its own loops."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import funcgrad
from tests.ecosystem.compare import assert_gradients_same, check, draw, load

eqx = load("equinox")
eqxi = load("equinox.internal")

KEY = jax.random.key(0)


class Network(eqx.Module):
    """Convolution, group and layer norm, dense layers, dropout; a static activation."""

    conv: Any
    norm: Any
    dropout: Any
    mlp: Any
    name: str = eqx.field(static=True)

    def __init__(self, key: Any):
        first, second = jax.random.split(key)
        self.conv = eqx.nn.Conv2d(2, 4, 3, padding=1, key=first)
        self.norm = eqx.nn.GroupNorm(2, 4)
        self.dropout = eqx.nn.Dropout(0.3)
        self.mlp = eqx.nn.MLP(16, 2, 5, 2, activation=jax.nn.gelu, key=second)
        self.name = "network"

    def __call__(self, x: Any, key: Any) -> Any:
        x = eqx.nn.MaxPool2d(2, 2)(self.norm(self.conv(x)))
        return self.mlp(self.dropout(x.reshape(-1), key=key))


def network() -> Any:
    model, x = Network(KEY), draw(1, 3, 2, 4, 4)
    keys = jax.random.split(KEY, 3)
    return model, lambda model: jax.vmap(model)(x, keys)


def attention() -> Any:
    model = eqx.nn.MultiheadAttention(2, 4, key=KEY)
    x, mask = draw(1, 3, 4), jnp.tril(jnp.ones((3, 3), bool))
    rope = eqx.nn.RotaryPositionalEmbedding(2)

    def process_heads(q: Any, k: Any, v: Any) -> Any:
        over_heads = jax.vmap(rope, in_axes=1, out_axes=1)
        return over_heads(q), over_heads(k), v

    return model, lambda model: model(x, x, x, mask=mask, process_heads=process_heads)


def gru() -> Any:
    model, x = eqx.nn.GRUCell(2, 3, key=KEY), draw(1, 4, 2)

    def run(model: Any) -> Any:
        return lax.scan(lambda h, x_t: (model(x_t, h), h), jnp.zeros(3), x)

    return model, run


def lstm() -> Any:
    model, x = eqx.nn.LSTMCell(2, 3, key=KEY), draw(1, 4, 2)

    def run(model: Any) -> Any:
        step = eqx.filter_checkpoint(lambda state, x_t: (model(x_t, state), None))
        return lax.scan(step, (jnp.zeros(3), jnp.zeros(3)), x)[0]

    return model, run


def embedding() -> Any:
    model = eqx.nn.Sequential(
        [eqx.nn.Embedding(5, 3, key=KEY), eqx.nn.RMSNorm(3), eqx.nn.Linear(3, 2, key=KEY)]
    )
    return model, lambda model: jax.vmap(model)(jnp.array([1, 4, 1]))


MODELS = {f.__name__: f for f in (network, attention, gru, lstm, embedding)}


def total(tree: Any) -> Any:
    return sum(jnp.sum(jnp.sin(y) * y) for y in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", MODELS)
def test_model(name: str) -> None:
    model, run = MODELS[name]()
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss(params: Any) -> Any:
        return total(run(eqx.combine(params, static)))

    check(loss, params, eager=name == "embedding")


def test_batch_norm_with_state() -> None:
    model, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, axis_name="batch", mode="batch")
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss(params: Any, state: Any, x: Any) -> Any:
        model = eqx.combine(params, static)
        y, state = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(
            x, state
        )
        return total(y), state

    check(loss, params, state, draw(1, 4, 3), has_aux=True)
    check(loss, params, state, draw(1, 4, 3), has_aux=True, argnums=2)


def test_filter_jit_over_our_gradient_of_a_module_of_arrays() -> None:
    model, run = network()
    params, static = eqx.partition(model, eqx.is_inexact_array)

    @eqx.filter_jit
    def gradient(params: Any, static: Any, differentiate: Any) -> Any:
        return differentiate(lambda p: total(run(eqx.combine(p, static))))(params)

    ours, theirs = (gradient(params, static, d) for d in (funcgrad.grad, jax.grad))
    assert_gradients_same(ours, theirs)


def test_filter_jit_under_our_gradient() -> None:
    model, run = network()
    params, static = eqx.partition(model, eqx.is_inexact_array)
    jitted = eqx.filter_jit(run)
    check(lambda p: total(jitted(eqx.combine(p, static))), params)


def test_filter_custom_vjp() -> None:
    @eqx.filter_custom_vjp
    def scaled(arrays: Any, factor: Any) -> Any:
        return total(arrays) * factor

    @scaled.def_fwd
    def scaled_fwd(perturbed: Any, arrays: Any, factor: Any) -> Any:
        return total(arrays) * factor, None

    @scaled.def_bwd
    def scaled_bwd(residuals: Any, ct: Any, perturbed: Any, arrays: Any, factor: Any) -> Any:
        return jax.tree.map(lambda x: 7 * ct * x, arrays)

    arrays = {"a": draw(0, 3), "b": draw(1, 2)}
    check(lambda arrays: jnp.sin(scaled(arrays, 2.0)), arrays, eager=True)


def test_filter_custom_jvp() -> None:
    @eqx.filter_custom_jvp
    def scaled(x: Any, *, power: int) -> Any:
        return x**power

    @scaled.def_jvp
    def scaled_jvp(primals: Any, tangents: Any, *, power: int) -> Any:
        (x,), (t_x,) = primals, tangents
        return x**power, 5 * t_x * jnp.cos(x)

    check(lambda x: total(scaled(x, power=3)), draw(0, 3), eager=True)


def test_filter_closure_convert_and_error_if() -> None:
    weights = draw(0, 3)

    def loss(weights: Any, x: Any) -> Any:
        closed = eqx.filter_closure_convert(lambda x: jnp.sin(weights * x), x)
        y = eqx.error_if(closed(x), jnp.any(jnp.isnan(x)), "not a number")
        return total(y)

    check(loss, weights, draw(1, 3))


def cell(carry: Any) -> Any:
    step, x, y = carry
    return step + 1, jnp.sin(x) + 0.1 * y, y * 0.9


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("bounded", {"base": 4}), ("checkpointed", {"checkpoints": 3}), ("checkpointed", {})],
)
def test_while_loop(kind: str, settings: Any) -> None:
    def loss(x: Any, y: Any, stop: Any) -> Any:
        carry = eqxi.while_loop(
            lambda carry: carry[0] < stop, cell, (0, x, y), max_steps=16, kind=kind, **settings
        )
        return total(carry[1:])

    check(loss, draw(0, 3), draw(1, 3), 7, argnums=(0, 1))


def test_while_loop_that_only_we_run_backward() -> None:
    """JAX refuses kind "lax"; the bounded loop computes the same."""

    def loss(x: Any, kind: str, bound: int | None) -> Any:
        carry = (0, x, x**2)
        return total(
            eqxi.while_loop(lambda c: c[0] < 5, cell, carry, max_steps=bound, kind=kind)[1:]
        )

    ours = jax.jit(funcgrad.grad(lambda x: loss(x, "lax", None)))(draw(0, 3))
    assert_gradients_same(ours, jax.jit(jax.grad(lambda x: loss(x, "bounded", 8)))(draw(0, 3)))


@pytest.mark.parametrize("kind", ["bounded", "checkpointed"])
def test_while_loop_that_writes_a_buffer(kind: str) -> None:
    def body(carry: Any) -> Any:
        step, x, buffer = carry
        return step + 1, jnp.sin(x), buffer.at[step].set(x)

    def loss(x: Any, stop: Any) -> Any:
        start = (0, x, jnp.zeros((8, 3)))
        settings = {"max_steps": 8, "buffers": lambda carry: carry[2], "kind": kind}
        return total(eqxi.while_loop(lambda c: c[0] < stop, body, start, **settings)[1:])

    check(loss, draw(0, 3), 5)


def test_vmap_of_gradients_of_loops_of_different_lengths() -> None:
    def loss(x: Any, stop: Any) -> Any:
        settings = {"max_steps": 8, "kind": "checkpointed"}
        return total(eqxi.while_loop(lambda c: c[0] < stop, cell, (0, x, x), **settings)[1:])

    x, stops = draw(0, 2, 3), jnp.array([3, 6])
    ours, theirs = (jax.jit(jax.vmap(m.grad(loss)))(x, stops) for m in (funcgrad, jax))
    assert_gradients_same(ours, theirs)


def test_call_that_is_not_inlined() -> None:
    def square(x: Any) -> Any:
        return jnp.sin(x) * x

    check(lambda x: total(eqxi.noinline(square)(x)), draw(0, 3), eager=True)


@pytest.mark.parametrize("kind", ["lax", "checkpointed"])
def test_scan(kind: str) -> None:
    def loss(x: Any, xs: Any) -> Any:
        def step(carry: Any, x_t: Any) -> Any:
            carry = jnp.tanh(carry * x_t)
            return carry, carry**2

        settings = {"checkpoints": 3} if kind == "checkpointed" else {}
        return total(eqxi.scan(step, x, xs, kind=kind, **settings))

    check(loss, draw(0, 3), draw(1, 5, 3), argnums=(0, 1))


def test_gradient_of_a_gradient_through_a_filtered_jit() -> None:
    model, run = embedding()
    params, static = eqx.partition(model, eqx.is_inexact_array)
    jitted = eqx.filter_jit(run)

    def loss(params: Any, differentiate: Any) -> Any:
        return total(differentiate(lambda p: total(jitted(eqx.combine(p, static))))(params))

    ours = jax.jit(functools.partial(funcgrad.grad(loss), differentiate=funcgrad.grad))(params)
    theirs = jax.jit(functools.partial(jax.grad(loss), differentiate=jax.grad))(params)
    assert_gradients_same(ours, theirs)
