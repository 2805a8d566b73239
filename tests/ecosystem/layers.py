"""Two layers of each of four libraries: loss, parameters, a selector of the layers, their values."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcgrad import at
from tests.ecosystem.compare import load

X = np.linspace(-1.0, 1.0, 12, dtype=np.float32).reshape(4, 3)


def linen() -> tuple[Any, Any, Any, Any]:
    nn = load("flax.linen")

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            for i in range(2):
                x = nn.relu(nn.Dense(3, name=f"layers_{i}")(x))
            return jnp.sum(x**2 * (X + 2))

    model = Model()
    params = model.init(jax.random.key(0), X)
    _, state = model.apply(params, X, capture_intermediates=True)
    values = [state["intermediates"][f"layers_{i}"]["__call__"][0] for i in range(2)]
    return lambda params: model.apply(params, X), params, at("Model/layers_*"), values


def haiku() -> tuple[Any, Any, Any, Any]:
    hk = load("haiku")
    model = hk.without_apply_rng(hk.transform(lambda x: jnp.sum(hk.nets.MLP([5, 2])(x) ** 2)))
    params = model.init(jax.random.key(0), X)
    first, second = params["mlp/~/linear_0"], params["mlp/~/linear_1"]
    h = X @ first["w"] + first["b"]
    values = [h, jax.nn.relu(h) @ second["w"] + second["b"]]
    return lambda params: model.apply(params, X), params, at("linear_*"), values


def equinox() -> tuple[Any, Any, Any, Any]:
    eqx = load("equinox")
    layers = [eqx.nn.Linear(3, 3, key=jax.random.key(i)) for i in range(2)]

    def loss(layers):
        h = jax.nn.relu(jax.vmap(layers[0])(X))
        return jnp.sum(jax.vmap(layers[1])(h) ** 2)

    h = X @ layers[0].weight.T + layers[0].bias
    values = [h, jax.nn.relu(h) @ layers[1].weight.T + layers[1].bias]
    arrays, static = eqx.partition(layers, eqx.is_array)
    return lambda arrays: loss(eqx.combine(arrays, static)), arrays, at("eqx.nn.Linear"), values


def nnx() -> tuple[Any, Any, Any, Any]:
    nnx = load("flax.nnx")
    first, second = (nnx.Linear(3, 3, rngs=nnx.Rngs(i)) for i in range(2))
    graph, state = nnx.split([first, second])

    def loss(state):
        first, second = nnx.merge(graph, state)
        return jnp.sum(second(jax.nn.relu(first(X))) ** 2)

    values = [first(X), second(jax.nn.relu(first(X)))]
    return loss, state, at(function=nnx.Linear.__call__), values


LIBRARIES = {f.__name__: f for f in (linen, haiku, equinox, nnx)}
