"""Guided backpropagation and the deconvnet against their definitions, and against Captum."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from funcgrad import errors
from funcgrad.surgery.methods.rectifiers import deconvnet, guided_backprop
from tests.surgery.methods import networks
from tests.surgery.methods.networks import IMAGE, TARGET, logit

METHODS = {"guided": guided_backprop, "deconvnet": deconvnet}


def by_definition(method: str) -> np.ndarray:
    """The walk back of the two papers, on the network as matrices."""
    layers = [*zip(networks.matrices(), networks.forward(IMAGE), strict=True)]
    ct = np.eye(3)[TARGET]
    for i, ((w, _), (_, z)) in enumerate(reversed(layers)):
        if i > 0:
            ct = ct * (ct > 0) * ((z > 0) if method == "guided" else 1)
        ct = w.T @ ct
    return ct.reshape(IMAGE.shape)


@pytest.mark.parametrize("around", [lambda f: f, jax.jit], ids=["plain", "jit"])
@pytest.mark.parametrize("method", METHODS)
def test_equals_the_definition(method, around):
    ours = around(METHODS[method](around(logit)))(IMAGE)
    np.testing.assert_allclose(ours, by_definition(method), rtol=2e-5, atol=1e-6)
    assert np.abs(ours - jax.grad(logit)(IMAGE)).max() > 0.01


@pytest.mark.parametrize("method", METHODS)
def test_a_maximum_with_zero_is_a_rectifier(method):
    written = lambda x: networks.network(x, lambda z: jnp.maximum(0.0, z))[TARGET]
    ours = METHODS[method](written)(IMAGE)
    np.testing.assert_allclose(ours, by_definition(method), rtol=2e-5, atol=1e-6)


def test_through_a_scan_over_layers():
    weights = np.random.default_rng(0).normal(size=(4, 5, 5)).astype(np.float32)
    x = np.linspace(-1, 1, 5, dtype=np.float32)
    looped = lambda x: jnp.sum(lax.scan(lambda h, w: (jax.nn.relu(w @ h), None), x, weights)[0])
    values = [x]
    for w in weights:
        values.append(np.maximum(w @ values[-1], 0))
    ct = np.ones(5)
    for w, y in zip(weights[::-1], values[:0:-1], strict=True):
        ct = w.T @ (ct * (ct > 0) * (y > 0))
    np.testing.assert_allclose(guided_backprop(looped)(x), ct, rtol=1e-5, atol=1e-6)


def test_flax_and_equinox_models():
    eqx, nn = pytest.importorskip("equinox"), pytest.importorskip("flax.linen")
    x = np.linspace(-1, 1, 4, dtype=np.float32)
    mlp = eqx.nn.MLP(4, 1, 8, 2, key=jax.random.key(0))
    model = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(8), nn.relu, nn.Dense(1)])
    params = model.init(jax.random.key(1), x)
    of_flax = [params["params"][f"layers_{i}"] for i in (0, 2, 4)]
    cases = [
        (lambda x: mlp(x)[0], [(layer.weight, layer.bias) for layer in mlp.layers]),
        (lambda x: model.apply(params, x)[0], [(p["kernel"].T, p["bias"]) for p in of_flax]),
    ]
    for fun, layers in cases:
        h, masks = x, []
        for w, b in layers:
            z = np.asarray(w) @ h + np.asarray(b)
            h = np.maximum(z, 0)
            masks.append(z > 0)
        ct = np.ones(1)
        for i, ((w, _), mask) in enumerate([*zip(layers, masks, strict=True)][::-1]):
            ct = np.asarray(w).T @ (ct * (ct > 0) * mask if i else ct)
        np.testing.assert_allclose(guided_backprop(fun)(x), ct, rtol=1e-5, atol=1e-6)


def test_a_function_without_rectifiers_is_an_error():
    with pytest.raises(errors.SelectorError, match="relu"):
        guided_backprop(lambda x: jnp.sum(jnp.sin(x)))(IMAGE)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("method", "name"), [("guided", "GuidedBackprop"), ("deconvnet", "Deconvolution")]
)
def test_equals_captum(method, name):
    network = networks.torch_network()
    attr = pytest.importorskip("captum.attr", reason="Captum is not installed: funcgrad[peers]")
    theirs = getattr(attr, name)(network).attribute(networks.torch_image(), target=TARGET)
    ours = METHODS[method](logit)(IMAGE)
    np.testing.assert_allclose(ours, theirs.detach()[0], rtol=2e-5, atol=1e-6)
