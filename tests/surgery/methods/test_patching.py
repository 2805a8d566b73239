"""Activation patching and attribution patching against the same written into the model."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from funcgrad import at, errors
from funcgrad.surgery.methods.patching import activations, attribution_patching, patched

W = np.random.default_rng(3).normal(size=(2, 4, 4)).astype(np.float32)
X = np.float32([0.5, -1.0, 2.0, 0.1])
OTHER = np.float32([1.5, 0.3, -0.2, 0.4])


def model(x):
    with jax.named_scope("h"):
        h = jnp.tanh(W[0] @ x)
    return jnp.sum(jnp.tanh(W[1] @ h + 0.1 * x) ** 2)


def rest(h, x):
    """The model from h on, in NumPy."""
    return np.sum(np.tanh(W[1] @ h + 0.1 * x) ** 2)


H, H_OTHER = np.tanh(W[0] @ X), np.tanh(W[0] @ OTHER)


@pytest.mark.parametrize("around", [lambda f: f, jax.jit], ids=["plain", "jit"])
def test_one_element_after_the_other_is_patched(around):
    values = activations(model, at("h"))(OTHER).values
    np.testing.assert_allclose(values[0], H_OTHER, rtol=1e-6)
    run = around(lambda mask: patched(around(model), at("h"))(X, values, [mask]))
    ours = jax.vmap(run)(np.eye(4, dtype=bool))
    expected = [rest(np.where(np.arange(4) == i, H_OTHER, H), X) for i in range(4)]
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


@pytest.mark.parametrize("around", [lambda f: f, jax.jit], ids=["plain", "jit"])
def test_attribution_is_the_first_order_of_patching(around):
    (ours,) = around(attribution_patching(around(model), at("h")))(X, OTHER)
    eps = 1e-6
    steps = eps * np.eye(4)
    slopes = [(rest(H + d, X) - rest(H - d, X)) / (2 * eps) for d in steps]
    np.testing.assert_allclose(ours, (H_OTHER - H) * slopes, rtol=1e-3, atol=1e-5)


def test_the_steps_of_a_scan_are_patched_apart():
    def looped(x):
        def step(h, w):
            with jax.named_scope("h"):
                h = jnp.tanh(w @ h)
            return h, None

        return jnp.sum(lax.scan(step, x, W)[0])

    values = activations(looped, at("h"))(OTHER).values
    mask = np.array([[True], [False]])
    ours = patched(looped, at("h"))(X, values, [mask])
    np.testing.assert_allclose(ours, np.sum(np.tanh(W[1] @ H_OTHER)), rtol=1e-5)
    (effects,) = attribution_patching(looped, at("h"))(X, OTHER)
    assert effects.shape == (2, 4)


def test_no_place_is_an_error():
    with pytest.raises(errors.SelectorError, match="means no place"):
        attribution_patching(model, at("g"))(X, OTHER)
