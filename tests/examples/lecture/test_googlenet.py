"""The small GoogLeNet of the third notebook: its blocks against SciPy, its gradient against jax.grad."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import maximum_filter
from scipy.signal import correlate2d

import funcgrad

pytest.importorskip("sklearn", reason="no scikit-learn: pip install 'funcgrad[examples]'")
sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))

from digits_models import cross_entropy
from lecture.googlenet import (
    count_of,
    googlenet,
    inception,
    init_googlenet,
    init_inception,
    largest_around,
)

IMAGES = np.random.default_rng(0).normal(size=(2, 8, 8)).astype(np.float32)


def convolved(layer, maps):
    """A layer of a block at one image (height, width, channels), window by window in numpy."""
    weight, bias = (np.asarray(layer[name]) for name in ("weight", "bias"))
    outputs = [
        sum(
            correlate2d(maps[..., i], weight[:, :, i, o], mode="same")
            for i in range(maps.shape[-1])
        )
        for o in range(weight.shape[-1])
    ]
    return np.maximum(np.stack(outputs, axis=-1) + bias, 0)


def test_a_block_stacks_its_four_branches():
    params = init_inception(np.random.default_rng(0), 3, (4, 3, 6, 1, 2, 5))
    images = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype(np.float32)
    found = jax.jit(inception)(params, images)
    assert found.shape == (2, 8, 8, 17)
    for image, maps in zip(images, np.asarray(found), strict=True):
        pooled = np.stack(
            [maximum_filter(channel, 3, mode="constant", cval=-np.inf) for channel in image.T],
            axis=0,
        ).T
        np.testing.assert_array_equal(largest_around(image[None])[0], pooled)
        every_second = largest_around(image[None], stride=2)[
            0
        ]  # padded at the far ends, for 8 pixels
        np.testing.assert_array_equal(every_second, pooled[1::2, 1::2])
        branches = [
            convolved(params["one"], image),
            convolved(params["three"], convolved(params["three_reduced"], image)),
            convolved(params["five"], convolved(params["five_reduced"], image)),
            convolved(params["pooled"], pooled),
        ]
        np.testing.assert_allclose(maps, np.concatenate(branches, axis=-1), rtol=1e-4, atol=1e-5)


def test_the_network_returns_log_probabilities():
    params = init_googlenet(0)
    out = jax.jit(googlenet)(params, IMAGES)
    assert out.shape == (2, 10)
    np.testing.assert_allclose(np.exp(out).sum(1), 1, rtol=1e-5)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert count_of({"a": jnp.ones((2, 3)), "b": [jnp.ones(4)]}) == 10


def test_its_gradient_is_that_of_jax():
    params, labels = init_googlenet(1), jnp.array([3, 7])

    def loss(params):
        return cross_entropy(googlenet(params, jnp.asarray(IMAGES)), labels)

    ours, theirs = jax.jit(lambda p: (funcgrad.grad(loss)(p), jax.grad(loss)(p)))(params)
    for ct, expected in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(ct, expected, rtol=1e-4, atol=1e-6)
