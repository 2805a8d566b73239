"""The models: pure functions from parameters and images to log-probabilities."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

Params = dict[str, Any]
CLASSES = 10


class Model(NamedTuple):
    """A way to draw initial parameters, and the function that they parameterise."""

    init: Callable[[Array], Params]
    apply: Callable[[Params, Array], Array]


def init_layer(key: Array, *shape: int) -> Params:
    """Draw the weight of a linear or convolution layer, whose last axis is its output."""
    weight = jax.nn.initializers.glorot_normal()(key, shape)
    return {"weight": weight, "bias": jnp.zeros(shape[-1])}


def linear(layer: Params, x: Array) -> Array:
    return x @ layer["weight"] + layer["bias"]


def convolution(layer: Params, images: Array, stride: int = 1) -> Array:
    """Convolve images (batch, height, width, channels), padded so that stride 1 keeps their size."""
    layout = ("NHWC", "HWIO", "NHWC")
    weight = layer["weight"]
    y = lax.conv_general_dilated(images, weight, (stride, stride), "SAME", dimension_numbers=layout)
    return y + layer["bias"]


def max_pool(images: Array) -> Array:
    """Keep the largest value of each 2x2 window."""
    return lax.reduce_window(images, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def init_mlp(key: Array) -> Params:
    hidden, output = jax.random.split(key)
    return {"hidden": init_layer(hidden, 64, 128), "output": init_layer(output, 128, CLASSES)}


def mlp(params: Params, images: Array) -> Array:
    """The lecture's network: linear, sigmoid, linear, log-softmax."""
    pixels = images.reshape(len(images), -1)
    hidden = jax.nn.sigmoid(linear(params["hidden"], pixels))
    return jax.nn.log_softmax(linear(params["output"], hidden))


def init_cnn(key: Array) -> Params:
    conv, out = jax.random.split(key)
    return {
        "conv": init_layer(conv, 3, 3, 1, 16),
        "output": init_layer(out, 4 * 4 * 16, CLASSES),
    }


def cnn(params: Params, images: Array) -> Array:
    """Convolution, ReLU and max-pool in place of the hidden layer."""
    hidden = max_pool(jax.nn.relu(convolution(params["conv"], images[..., None])))
    features = hidden.reshape(len(images), -1)
    return jax.nn.log_softmax(linear(params["output"], features))


MODELS = {"mlp": Model(init_mlp, mlp), "cnn": Model(init_cnn, cnn)}


def cross_entropy(log_probabilities: Array, labels: Array) -> Array:
    """Mean negative log-probability of the right class."""
    return -jnp.take_along_axis(log_probabilities, labels[:, None], axis=1).mean()
