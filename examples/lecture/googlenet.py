"""A small GoogLeNet: pure functions from a pytree of parameters and images to log-probabilities.

An inception block looks at its images through windows of several sizes at once and stacks what the
branches find along the channels (C. Szegedy et al.: Going deeper with convolutions. CVPR 2015).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from digits_models import CLASSES, Params, convolution, linear, max_pool
from jax import Array, lax

BLOCKS = {"inception_1": (8, 6, 12, 2, 4, 4), "inception_2": (12, 8, 16, 3, 6, 6)}
"""The channels of each block: 1x1; before 3x3, 3x3; before 5x5, 5x5; after pooling."""

STEM = 12
"""The channels of the first convolution."""


def init_layer(rng: np.random.Generator, *shape: int) -> Params:
    """Draw a layer whose last axis is its output, so that rectified values keep their size (float32)."""
    weight = rng.normal(scale=np.sqrt(2 / np.prod(shape[:-1])), size=shape)
    return {"weight": weight.astype(np.float32), "bias": np.zeros(shape[-1], np.float32)}


def init_inception(rng: np.random.Generator, inputs: int, channels: tuple[int, ...]) -> Params:
    """Draw the six convolutions of a block that reads images of so many channels.

    Before a large window a 1x1 convolution reduces the channels. `channels` are as in `BLOCKS`.
    """
    one, three_reduced, three, five_reduced, five, pooled = channels
    return {
        "one": init_layer(rng, 1, 1, inputs, one),
        "three_reduced": init_layer(rng, 1, 1, inputs, three_reduced),
        "three": init_layer(rng, 3, 3, three_reduced, three),
        "five_reduced": init_layer(rng, 1, 1, inputs, five_reduced),
        "five": init_layer(rng, 5, 5, five_reduced, five),
        "pooled": init_layer(rng, 1, 1, inputs, pooled),
    }


def outputs_of(channels: tuple[int, ...]) -> int:
    """The channels of the images that a block makes: what its four branches end with."""
    one, _, three, _, five, pooled = channels
    return one + three + five + pooled


def inception(params: Params, images: Array) -> Array:
    """Four views of the images (batch, height, width, channels), stacked along the channels."""

    def layer(name: str, images: Array) -> Array:
        with jax.named_scope(name):
            return jax.nn.relu(convolution(params[name], images))

    branches = [
        layer("one", images),
        layer("three", layer("three_reduced", images)),
        layer("five", layer("five_reduced", images)),
        layer("pooled", largest_around(images)),
    ]
    return jnp.concatenate(branches, axis=-1)


def largest_around(images: Array, stride: int = 1) -> Array:
    """At each pixel, or at each second one, the largest value of the 3x3 window around it."""
    strides = (1, stride, stride, 1)
    return lax.reduce_window(images, -jnp.inf, lax.max, (1, 3, 3, 1), strides, "SAME")


def init_googlenet(seed: int) -> Params:
    """Draw all parameters, by numpy: JAX would compile a program for each shape."""
    rng = np.random.default_rng(seed)
    params: Params = {"stem": init_layer(rng, 3, 3, 1, STEM)}
    inputs = STEM
    for name, channels in BLOCKS.items():
        params[name] = init_inception(rng, inputs, channels)
        inputs = outputs_of(channels)
    return {**params, "output": init_layer(rng, inputs, CLASSES)}


def googlenet(params: Params, images: Array) -> Array:
    """A convolution, an inception block, a max-pool, another block, a mean over the image, linear."""
    with jax.named_scope("stem"):
        x = jax.nn.relu(convolution(params["stem"], images[..., None]))
    for name in BLOCKS:
        with jax.named_scope(name):
            x = inception(params[name], x)
        if name != list(BLOCKS)[-1]:
            x = max_pool(x)
    with jax.named_scope("output"):
        return jax.nn.log_softmax(linear(params["output"], x.mean((1, 2))))


def count_of(params: Any) -> int:
    """How many numbers a pytree of parameters has."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
