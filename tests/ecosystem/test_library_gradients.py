"""Training steps as users of nnx and equinox write them: the library's gradient, by funcgrad's rules."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import funcgrad
from tests.ecosystem.compare import load

nnx = load("flax.nnx")
eqx = load("equinox")

X = np.random.default_rng(0).standard_normal((8, 4))
Y = np.random.default_rng(1).standard_normal((8, 2))


def halved_relu_vjp(ct: Any, x: Any, *, out: Any, **_: Any) -> Any:
    return jnp.where(x > 0, ct / 2, 0)


HALVED = funcgrad.DEFAULT.override({jax.nn.relu: halved_relu_vjp})


class Net(nnx.Module):
    """Batch norm and dropout: state that a step changes besides the parameters."""

    def __init__(self, rngs: Any):
        self.hidden = nnx.Linear(4, 6, use_bias=False, rngs=rngs)  # the norm takes a bias away
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.out = nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.out(self.dropout(nnx.relu(self.norm(self.hidden(x)))))


def trained_by_nnx() -> Any:
    """All state of model and optimiser after three steps, and the losses."""
    model = Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)

    @nnx.jit
    def step(model: Any, optimizer: Any, x: Any, y: Any) -> Any:
        def loss(model: Any) -> Any:
            prediction = model(x)
            return jnp.mean((prediction - y) ** 2), prediction

        (value, _), ct_model = nnx.value_and_grad(loss, has_aux=True)(model)
        optimizer.update(model, ct_model)
        return value

    losses = [step(model, optimizer, X, Y) for _ in range(3)]
    state = jax.tree.map(
        lambda x: (
            jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        ),
        nnx.to_pure_dict(nnx.state((model, optimizer))),
    )
    return state, losses


def test_a_step_of_nnx_with_batch_norm_and_dropout():
    with jax.enable_x64(False):  # the running averages are float32
        expected = trained_by_nnx()
        with funcgrad.as_jax_grad() as gradients:
            found = trained_by_nnx()
        with funcgrad.as_jax_grad(rules=HALVED):
            other, _ = trained_by_nnx()
    assert "1 value_and_grad" in repr(gradients)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
    kernel, of_other = (state[0]["hidden"]["kernel"] for state in (expected[0], other))
    assert not np.allclose(kernel, of_other)


def trained_by_equinox() -> Any:
    model, state = eqx.nn.make_with_state(
        lambda key: eqx.nn.Sequential(
            [
                eqx.nn.Linear(4, 6, use_bias=False, key=key),  # the norm takes a bias away
                eqx.nn.BatchNorm(6, axis_name="batch", mode="batch"),
                eqx.nn.Lambda(jax.nn.relu),
                eqx.nn.Linear(6, 2, key=key),
            ]
        )
    )(jax.random.key(0))
    optimizer = optax.adam(1e-2)
    of_optimizer = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_value_and_grad(has_aux=True)
    def loss(model: Any, state: Any, x: Any, y: Any) -> Any:
        batched = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        prediction, state = batched(x, state)
        return jnp.mean((prediction - y) ** 2), state

    @eqx.filter_jit
    def step(model: Any, state: Any, of_optimizer: Any, x: Any, y: Any) -> Any:
        (value, state), ct_model = loss(model, state, x, y)
        updates, of_optimizer = optimizer.update(ct_model, of_optimizer, model)
        return eqx.apply_updates(model, updates), state, of_optimizer, value

    losses = []
    for _ in range(3):
        model, state, of_optimizer, value = step(model, state, of_optimizer, X, Y)
        losses.append(value)
    return eqx.filter((model, state, of_optimizer), eqx.is_array), losses


def test_a_step_of_equinox_with_batch_norm():
    with jax.enable_x64(False):  # equinox's running averages are float32
        expected = trained_by_equinox()
        with funcgrad.as_jax_grad() as gradients:
            found = trained_by_equinox()
    assert "1 value_and_grad" in repr(gradients)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
