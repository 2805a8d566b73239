"""DeepLIFT against the rescale rule written out, and against Captum."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from funcgrad import errors
from funcgrad.surgery.methods.rescale import deep_lift
from tests.surgery.methods import networks
from tests.surgery.methods.networks import BASELINE, IMAGE, TARGET, logit

ACTIVATIONS = {
    "relu": (jax.nn.relu, lambda z: np.maximum(z, 0)),
    "max": (lambda z: jnp.maximum(0.0, z), lambda z: np.maximum(z, 0)),
    "max with an array": (lambda z: jnp.maximum(jnp.zeros(z.shape), z), lambda z: np.maximum(z, 0)),
    "tanh": (jnp.tanh, np.tanh),
    "sigmoid": (jax.nn.sigmoid, lambda z: 1 / (1 + np.exp(-z))),
    "silu": (jax.nn.silu, lambda z: z / (1 + np.exp(-z))),
}  # fmt: skip


def by_definition(activation) -> np.ndarray:
    """Multipliers from the last layer to the first: W^T and (y - y') / (z - z')."""
    x, start, slopes = IMAGE.reshape(-1).astype(float), BASELINE.reshape(-1).astype(float), []
    for w, b in networks.matrices():
        z, z0 = w @ x + b, w @ start + b
        x, start = activation(z), activation(z0)
        slopes.append((x - start) / (z - z0))
    ct = np.eye(3)[TARGET]
    for i, (w, _) in enumerate(networks.matrices()[::-1]):
        ct = w.T @ (ct * slopes[-1 - i] if i else ct)
    return (IMAGE - BASELINE) * ct.reshape(IMAGE.shape)


@pytest.mark.parametrize("around", [lambda f: f, jax.jit], ids=["plain", "jit"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_equals_the_definition(name, around):
    ours_of, theirs_of = ACTIVATIONS[name]
    model = around(lambda x: networks.network(x, ours_of)[TARGET])
    ours = around(deep_lift(model))(IMAGE, BASELINE)
    np.testing.assert_allclose(ours, by_definition(theirs_of), rtol=1e-3, atol=1e-5)


def test_where_x_is_the_baseline_there_is_the_derivative():
    model = lambda x: jnp.tanh(x[0]) * 3 + jnp.sin(x[1])
    x = jnp.float32([0.5, 1.0])
    np.testing.assert_array_equal(deep_lift(model)(x, x), 0)


def attention(x, w):
    """A block with every kind of product: gates, queries with keys, a normalisation."""
    weights = jnp.exp((x @ w) @ x.T / 3)
    gated = jax.nn.silu(x @ w) * (x @ w.T)
    h = weights @ gated + x * x
    return jnp.sum(h * lax.rsqrt(jnp.mean(h**2, -1, keepdims=True)))


def test_attributions_sum_to_the_difference():
    x, start, w = np.random.default_rng(0).normal(size=(3, 4, 4)).astype(np.float32)
    ours = deep_lift(lambda x: attention(x, w))(x, start)
    difference = float(attention(x, w) - attention(start, w))
    assert float(jnp.sum(ours)) == pytest.approx(difference, rel=1e-4)


def test_through_a_scan_over_layers_and_a_checkpoint():
    weights = np.random.default_rng(0).normal(size=(3, 4, 4)).astype(np.float32)
    looped = lambda x: jnp.sum(
        lax.scan(jax.checkpoint(lambda h, w: (jnp.tanh(w @ h), None)), x, weights)[0]
    )

    def unrolled(x):
        for w in weights:
            x = jnp.tanh(w @ x)
        return jnp.sum(x)

    x, start = np.float32([0.1, -0.5, 1.0, 0.3]), np.zeros(4, np.float32)
    ours, expected = deep_lift(looped)(x, start), deep_lift(unrolled)(x, start)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
    assert float(jnp.sum(ours)) == pytest.approx(float(looped(x)), rel=1e-4)


@pytest.mark.parametrize(
    "model",
    [jnp.max, lambda x: x[0] / x[1], lambda x: jnp.sum(jnp.where(x > 0, x, 0.0)),
              lambda x: jnp.sort(x)[0]],
)  # fmt: skip
def test_what_the_rule_does_not_know_is_an_error(model):
    with pytest.raises(errors.EditError, match="DeepLIFT was asked for"):
        deep_lift(model)(jnp.float32([0.5, 1.0]), jnp.ones(2))


@pytest.mark.filterwarnings("ignore")
def test_equals_captum():
    network = networks.torch_network()
    attr = pytest.importorskip("captum.attr", reason="Captum is not installed: funcgrad[peers]")
    image, start = networks.torch_image(), networks.torch_image(BASELINE)
    theirs = attr.DeepLift(network).attribute(image, start, target=TARGET)
    ours = deep_lift(logit)(IMAGE, BASELINE)
    np.testing.assert_allclose(ours, theirs.detach().numpy()[0], rtol=1e-3, atol=1e-5)
