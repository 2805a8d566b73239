"""Each flag, on networks that are built to have the fault, and none on a network without."""

from __future__ import annotations

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcgrad.inspect import Thresholds, flow

X = jax.random.normal(jax.random.key(1), (64, 16))


def network(activation):
    def loss(weights, x):
        for i, w in enumerate(weights):
            with jax.named_scope(f"layer_{i}"):
                x = activation(x @ w)
        return jnp.mean(x**2)

    return loss


def weights(scale, layers=10):
    """With a scale of 1 a linear layer keeps the root mean square of what it is given."""
    keys = jax.random.split(jax.random.key(0), layers)
    return [scale * jax.random.normal(key, (16, 16)) / 4 for key in keys]


def flagged(found):
    """By kind, the numbers of the layers."""
    kinds: dict[str, list[int]] = {}
    for flag in found.flags():
        kinds.setdefault(flag.kind, []).append(int(re.findall(r"\d+", flag.layer)[0]))
    return kinds


def test_a_healthy_network_has_no_flag():
    """Scaled as He et al. (2015) say for ReLU, and as Glorot and Bengio (2010) for tanh."""
    assert flow(network(jax.nn.relu), weights(np.sqrt(2), 3), X).flags() == []
    assert flow(network(jnp.tanh), weights(1.0), X).flags() == []


def test_sigmoids_vanish():
    """The slope of a sigmoid is at most 1/4, and rotations keep norms: by 4 or more in each layer."""
    rotations = [*jax.random.orthogonal(jax.random.key(0), 16, (10,))]
    found = flow(network(jax.nn.sigmoid), rotations, X)
    kinds = flagged(found)
    assert [*kinds] == ["vanishing"]
    assert kinds["vanishing"] == [*range(len(kinds["vanishing"]))]
    assert {0, 1, 2} <= {*kinds["vanishing"]} < {*range(8)}
    norms = [row["cotangent_norm"] for row in found.rows()]
    assert all(before < after / 3.99 for before, after in itertools.pairwise(norms))


def test_large_weights_explode():
    kinds = flagged(flow(network(lambda x: x), weights(4.0), X))
    assert {0, 1} <= {*kinds["exploding"]}  # cotangents
    assert {8, 9} <= {*kinds["exploding"]}  # values
    assert [*kinds] == ["exploding"]


def test_one_dead_layer():
    """A bias of -100 kills each unit of layer 4, and with it each gradient before."""

    def loss(weights, x):
        for i, w in enumerate(weights):
            with jax.named_scope(f"layer_{i}"):
                x = jax.nn.relu(x @ w - (100.0 if i == 4 else 0.0)) + 0.1
        return jnp.mean(x**2)

    found = flow(loss, weights(np.sqrt(2), 7), X)
    kinds = flagged(found)
    assert 4 in kinds["dead"]
    assert found["layer_4"]["dead"] == 1.0
    assert kinds["vanishing"] == [0, 1, 2, 3]
    assert kinds["no gradient"] == [0, 1, 2, 3, 4]


def test_some_dead_units():
    """4 of 16 units; units are called dead only where enough examples are seen."""
    bias = jnp.where(jnp.arange(16) < 4, -100.0, 0.0)

    def loss(w, x):
        with jax.named_scope("layer_0"):
            h = jnp.maximum(x @ w + bias, 0)
        return jnp.mean(h**2)

    w = weights(1.0, 1)[0]
    assert flow(loss, w, X)["layer_0"]["dead"] == 0.25
    assert flagged(flow(loss, w, X)) == {"dead": [0]}
    assert flagged(flow(loss, w, X, thresholds=Thresholds(dead=0.3))) == {}
    assert "dead" not in flow(loss, w, X[:8])["layer_0"]
    assert flow(loss, w, X[:8], thresholds=Thresholds(batch=8))["layer_0"]["dead"] >= 0.25


def test_dead_channels_of_a_convolution():
    """Channels on the second axis, as equinox has them."""

    def loss(w, x):
        with jax.named_scope("layer_0"):
            h = jax.nn.relu(jax.lax.conv(x, w, (1, 1), "SAME"))
        return jnp.mean(h**2)

    w = jax.random.normal(jax.random.key(0), (4, 2, 3, 3)).at[1].set(0.0)
    x = jax.random.normal(jax.random.key(1), (2, 2, 5, 5))
    assert flow(loss, w, x, unit_axis=1)["layer_0"]["dead"] == 0.25


@pytest.mark.parametrize("activation", [jnp.tanh, jax.nn.sigmoid], ids=["tanh", "sigmoid"])
def test_saturated(activation):
    """The share of results where the slope is below 0.06 of its largest, as numpy counts them."""
    w = weights(20.0, 1)
    found = flow(network(activation), w, X)
    y = np.asarray(activation(X @ w[0]), np.float64)
    slope = 1 - y**2 if activation is jnp.tanh else 4 * y * (1 - y)
    assert found["layer_0"]["saturated"] == pytest.approx(np.mean(slope < 1 - 0.97**2), abs=2e-3)
    assert "saturated" in flagged(found)
    assert flagged(flow(network(activation), weights(0.5, 1), X)) == {}


@pytest.mark.parametrize("gated", [jax.nn.silu, jax.nn.gelu, jax.nn.softplus])
def test_a_gate_is_not_saturated(gated):
    assert "saturated" not in flow(network(gated), weights(20.0, 1), X)["layer_0"]


def test_not_finite():
    def loss(w, x):
        with jax.named_scope("layer_0"):
            h = jnp.log(x * w)
        return jnp.sum(h)

    flags = flow(loss, jnp.zeros(3), jnp.ones(3)).flags()
    assert {flag.kind for flag in flags} == {"not finite"}
    assert "layer_0: not finite: the value's norm is inf" in map(str, flags)


def test_an_activation_after_a_layer_belongs_to_it():
    """Not to the scope around both, which has layers inside."""

    def loss(weights, x):
        with jax.named_scope("model"):
            for i, w in enumerate(weights):
                with jax.named_scope(f"layer_{i}"):
                    x = x @ w
                x = jax.nn.relu(x - 100.0 * (i == 1))
            return jnp.mean(x**2) + jnp.mean(x)

    found = flow(loss, weights(1.0, 3), X)
    dead = {row["layer"]: row["dead"] for row in found.rows() if "dead" in row}
    assert [*dead] == ["model/layer_0", "model/layer_1", "model/layer_2"]
    assert [dead["model/layer_0"], dead["model/layer_1"]] == [0.0, 1.0]


def test_thresholds_can_be_changed():
    found = flow(network(jax.nn.sigmoid), weights(1.0), X, thresholds=Thresholds(vanishing=1e-9))
    assert found.flags() == []
