"""Integrated gradients of the input and of a layer against the integral, and against Captum."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from funcgrad import at, errors
from funcgrad.surgery.methods.integrated import integrated_gradients
from tests.surgery.methods import networks
from tests.surgery.methods.networks import BASELINE, IMAGE, TARGET, logit

X = IMAGE.reshape(-1).astype(float)
START = BASELINE.reshape(-1).astype(float)


def smooth(image):
    return networks.network(image, jnp.tanh)[TARGET]


def gradient(h: np.ndarray, first: int) -> np.ndarray:
    """The derivative of the smooth network's logit by the input h of a layer, in NumPy."""
    layers, outs = networks.matrices()[first:], []
    for w, b in layers:
        z = w @ h + b
        h = np.tanh(z)
        outs.append(h)
    ct = np.eye(3)[TARGET]
    for i, (w, _) in enumerate(layers[::-1]):
        ct = w.T @ (ct * (1 - outs[-1 - i] ** 2) if i else ct)
    return ct


def by_definition(end: np.ndarray, start: np.ndarray, first: int) -> np.ndarray:
    """The integral by 400 midpoints."""
    points = (np.arange(400) + 0.5) / 400
    return (end - start) * np.mean([gradient(start + a * (end - start), first) for a in points], 0)


@pytest.mark.parametrize("around", [lambda f: f, jax.jit], ids=["plain", "jit"])
def test_of_the_input(around):
    ours = around(integrated_gradients(around(smooth)))(IMAGE, BASELINE)
    expected = by_definition(X, START, 0)
    np.testing.assert_allclose(ours.reshape(-1), expected, rtol=1e-3, atol=1e-5)
    assert jnp.sum(ours) == pytest.approx(float(smooth(IMAGE) - smooth(BASELINE)), abs=1e-4)


@pytest.mark.parametrize("around", [lambda f: f, jax.jit], ids=["plain", "jit"])
def test_of_a_layer(around):
    (ours,) = around(integrated_gradients(around(smooth), at("conv1")))(IMAGE, BASELINE)

    def inner(x):
        for w, b in networks.matrices()[:2]:
            x = np.tanh(w @ x + b)
        return x

    expected = by_definition(inner(X), inner(START), 2)
    np.testing.assert_allclose(ours.reshape(-1), expected, rtol=1e-3, atol=1e-5)


def test_of_two_values_at_once():
    def model(x):
        with jax.named_scope("a"):
            a = jnp.sin(x)
        with jax.named_scope("b"):
            b = jnp.cos(x)
        return jnp.sum(a * b**2)

    x, start = np.float32([0.3, 1.2]), np.float32([0.1, -0.4])
    ours = integrated_gradients(model, at("a") | at("b"))(x, start)
    (a, b), (a0, b0) = (np.sin(x), np.cos(x)), (np.sin(start), np.cos(start))
    points = ((np.arange(2000) + 0.5) / 2000)[:, None]
    path_a, path_b = a0 + points * (a - a0), b0 + points * (b - b0)
    expected = [(a - a0) * (path_b**2).mean(0), (b - b0) * (2 * path_a * path_b).mean(0)]
    np.testing.assert_allclose(ours, expected, rtol=1e-4)


def test_of_the_steps_of_a_scan():
    def model(x):
        def step(h, w):
            with jax.named_scope("h"):
                h = jnp.tanh(w * h)
            return h, h

        return jnp.sum(lax.scan(step, x, jnp.float32([0.5, 2.0]))[1][-1] ** 2)

    x, start = jnp.float32([0.5, 1.0]), jnp.zeros(2)
    (ours,) = integrated_gradients(model, at("h"))(x, start)
    assert ours.shape == (2, 2)
    np.testing.assert_allclose(ours[0], 0, atol=1e-7)  # the second step is set, whatever the first
    np.testing.assert_allclose(ours[1], np.tanh(2 * np.tanh(0.5 * x)) ** 2, rtol=1e-5)


def test_no_place_is_an_error():
    with pytest.raises(errors.SelectorError):
        integrated_gradients(smooth, at("conv9"))(IMAGE, BASELINE)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layer", [None, 3])
def test_equals_captum(layer):
    network = networks.torch_network()
    attr = pytest.importorskip("captum.attr", reason="Captum is not installed: funcgrad[peers]")
    if layer is None:
        explain = attr.IntegratedGradients(network)
        ours = integrated_gradients(logit)(IMAGE, BASELINE)[None]
    else:
        explain = attr.LayerIntegratedGradients(network, network[layer])
        (ours,) = integrated_gradients(logit, at("conv1"))(IMAGE, BASELINE)
    image, start = networks.torch_image(), networks.torch_image(BASELINE)
    theirs = explain.attribute(image, start, target=TARGET, n_steps=32)
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-3, atol=1e-5)
