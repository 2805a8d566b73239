"""Taps and overrides by place in models of four libraries that nobody edits."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad
from funcgrad import at
from tests.compare import assert_same
from tests.ecosystem.compare import load

X = np.linspace(-1.0, 1.0, 12, dtype=np.float32).reshape(4, 3)
JIT = pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["plain", "jit"])


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


@JIT
@pytest.mark.parametrize("library", LIBRARIES.values(), ids=LIBRARIES)
def test_taps(library, wrap):
    """Values as the library or its weights give them; cotangents by what adding to a value does."""
    loss, params, selector, values = library()
    gradient, taps = wrap(funcgrad.grad(loss, taps={"h": selector}))(params)
    assert_same(gradient, jax.grad(loss)(params), rtol=1e-5)
    assert len(taps["h"].values) == len(values)
    for value, expected in zip(taps["h"].values, values, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    for i, ct in enumerate(taps["h"].cotangents):
        step = 1e-2 * np.sign(np.asarray(ct))

        def moved(scale, i=i, step=step):
            edit = selector[i].value(lambda h: h + scale * step)
            return funcgrad.value_and_grad(loss, edit=edit)(params)[0]

        slope = (moved(0.1) - moved(-0.1)) / 0.2
        np.testing.assert_allclose(slope, np.sum(step * np.asarray(ct)), rtol=2e-2)


@JIT
@pytest.mark.parametrize("library", LIBRARIES.values(), ids=LIBRARIES)
def test_a_rule_in_the_first_layer_alone(library, wrap):
    """A product whose cotangents are doubled, in one layer: its weight's gradient is doubled."""
    loss, params, selector, _ = library()

    def doubled_vjp(ct, *operands, original, **kwargs):
        return tuple(None if c is None else 2 * c for c in original(ct, *operands, **kwargs))

    rules = funcgrad.DEFAULT.override({jax.lax.dot_general_p: doubled_vjp}, at=selector[0])
    ours = jax.tree.leaves(wrap(funcgrad.grad(loss, rules=rules))(params))
    theirs = jax.tree.leaves(jax.grad(loss)(params))
    ratios = {round(float(jnp.sum(a) / jnp.sum(b)), 3) for a, b in zip(ours, theirs, strict=True)}
    assert ratios == {1.0, 2.0}
