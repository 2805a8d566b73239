"""Models of haiku, with and without state."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import funcgrad
from tests.ecosystem.compare import as_float64, assert_gradients_same, check, draw, load

hk = load("haiku")

KEY = jax.random.key(0)


def mlp(x: Any) -> Any:
    h = hk.nets.MLP([4, 3], activation=jax.nn.silu)(x, dropout_rate=0.2, rng=hk.next_rng_key())
    h = hk.LayerNorm(axis=-1, create_scale=True, create_offset=True)(h)
    return hk.Bias()(hk.Linear(2)(h) * hk.get_parameter("scale", (2,), init=jnp.ones))


def convolutional(x: Any) -> Any:
    h = hk.Conv2D(3, 3)(x)
    h = hk.BatchNorm(create_scale=True, create_offset=True, decay_rate=0.9)(h, is_training=True)
    h = hk.MaxPool((2, 2, 1), (2, 2, 1), "VALID")(jax.nn.relu(h))
    h = hk.GroupNorm(groups=2)(hk.Conv2DTranspose(4, 2, stride=2)(h))
    return hk.Linear(2)(hk.Flatten()(hk.AvgPool((2, 2, 1), (2, 2, 1), "VALID")(h)))


def lstm(x: Any) -> Any:
    core = hk.DeepRNN([hk.LSTM(3), jnp.tanh, hk.GRU(2)])
    return hk.dynamic_unroll(core, x, core.initial_state(x.shape[1]))


def scanned(x: Any) -> Any:
    layer = hk.Linear(x.shape[-1])

    def step(carry: Any, x_t: Any) -> Any:
        carry = jnp.tanh(layer(carry) + x_t * jax.random.bernoulli(hk.next_rng_key(), 0.7))
        return carry, carry

    return hk.scan(step, jnp.zeros(x.shape[1:]), x)


def stacked(x: Any) -> Any:
    def block(x: Any) -> Any:
        return x + hk.Linear(x.shape[-1])(jax.nn.gelu(x))

    return hk.experimental.layer_stack(2)(hk.remat(block))(x)


def attention(x: Any) -> Any:
    mask = jnp.tril(jnp.ones((1, 1, x.shape[1], x.shape[1])))
    initial = hk.initializers.VarianceScaling(1.0)
    return hk.MultiHeadAttention(2, 2, w_init=initial)(x, x, x, mask)


def branching(x: Any) -> Any:
    left, right = hk.Linear(3), hk.Linear(3)
    if hk.running_init():
        return left(x) + right(x)
    y = hk.cond(x.sum() > 0, left, right, x)
    return hk.switch((y.sum() > 0).astype(int), [right, lambda y: left(y) ** 2], y)


MODELS: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
    "mlp": (mlp, (2, 3)),
    "convolutional": (convolutional, (3, 4, 4, 2)),
    "lstm": (lstm, (4, 2, 3)),
    "scanned": (scanned, (4, 2)),
    "stacked": (stacked, (2, 3)),
    "attention": (attention, (2, 3, 2)),
    "branching": (branching, (2, 3)),
}


def total(tree: Any) -> Any:
    return sum(jnp.sum(jnp.sin(y) * y) for y in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", MODELS)
def test_model(name: str) -> None:
    model, shape = MODELS[name]
    transformed = hk.transform_with_state(model)
    params, state = as_float64(jax.jit(transformed.init)(KEY, draw(0, *shape)))

    def loss(params: Any, state: Any, x: Any) -> Any:
        y, state = transformed.apply(params, state, KEY, x)
        return total(y), state

    check(loss, params, state, draw(0, *shape), has_aux=True, eager=name == "scanned")


def test_gradient_of_haikus_own_gradient() -> None:
    def slope(x: Any) -> Any:
        return total(hk.grad(lambda x: jnp.sum(jnp.sin(hk.Linear(2)(x)) ** 2))(x))

    transformed = hk.without_apply_rng(hk.transform(slope))
    params = as_float64(transformed.init(KEY, draw(0, 3)))
    check(transformed.apply, params, draw(0, 3))


def test_loss_on_a_gradient_by_the_input() -> None:
    energy = hk.without_apply_rng(
        hk.transform(lambda x: jnp.sum(hk.nets.MLP([4, 1], activation=jnp.tanh)(x) ** 2))
    )
    params = as_float64(energy.init(KEY, draw(0, 2, 3)))

    def force(params: Any, x: Any, differentiate: Any) -> Any:
        return total(differentiate(energy.apply, argnums=1)(params, x))

    x = draw(0, 2, 3)
    ours = jax.jit(funcgrad.grad(functools.partial(force, differentiate=funcgrad.grad)))(params, x)
    theirs = jax.jit(jax.grad(functools.partial(force, differentiate=jax.grad)))(params, x)
    assert_gradients_same(ours, theirs)
