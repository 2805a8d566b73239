"""What is measured: losses as pure functions of a pytree of parameters and a batch.

Each is plain JAX as a user would write it. Sizes are read from the parameters, so that the smoke
test can run the same code on small ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

Params = dict[str, Any]


@dataclass(frozen=True)
class Workload:
    """A loss, and what to call it with.

    Attributes:
      name: as on the command line.
      description: for the report.
      loss: ``loss(params, *batch)``, a scalar.
      make_args: ``make_args(small)`` gives the arguments; small ones for the smoke test.
    """

    name: str
    description: str
    loss: Callable[..., Array]
    make_args: Callable[[bool], tuple[Any, ...]]


# --- pieces


def normal(rng: np.random.Generator, *shape: int, scale: float | None = None) -> Array:
    """Normal float32, by default with variance one over the fan-in."""
    fan_in = int(np.prod(shape[:-1]))
    values = rng.standard_normal(shape) * (fan_in**-0.5 if scale is None else scale)
    return jnp.asarray(values, jnp.float32)


def dense_params(rng: np.random.Generator, inputs: int, outputs: int) -> Params:
    return {"w": normal(rng, inputs, outputs), "b": jnp.zeros(outputs, jnp.float32)}


def dense(params: Params, x: Array) -> Array:
    return x @ params["w"] + params["b"]


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Mean negative log likelihood of integer labels."""
    log_probs = jax.nn.log_softmax(logits)
    return -jnp.mean(jnp.take_along_axis(log_probs, labels[..., None], axis=-1))


# --- MLP


def mlp_params(rng: np.random.Generator, *widths: int) -> list[Params]:
    return [dense_params(rng, n, m) for n, m in itertools.pairwise(widths)]


def mlp(layers: list[Params], x: Array, activation: Callable[[Array], Array] = jnp.tanh) -> Array:
    *hidden, last = layers
    for layer in hidden:
        x = activation(dense(layer, x))
    return dense(last, x)


def mlp_loss(params: Params, x: Array, labels: Array) -> Array:
    return cross_entropy(mlp(params["layers"], x), labels)


def mlp_args(small: bool) -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    sizes, batch = ((12, 8, 8, 4), 3) if small else ((784, 256, 256, 10), 64)
    layers = mlp_params(rng, *sizes)
    x = normal(rng, batch, sizes[0], scale=1.0)
    return {"layers": layers}, x, jnp.asarray(rng.integers(sizes[-1], size=batch))


# --- CNN


def max_pool(x: Array) -> Array:
    """2x2, stride 2, over height and width."""
    window = (1, 2, 2, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")


def conv(params: Params, x: Array) -> Array:
    layout = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(x, params["w"], (1, 1), "SAME", dimension_numbers=layout)
    return y + params["b"]


def cnn_loss(params: Params, images: Array, labels: Array) -> Array:
    x = images
    for layer in params["convs"]:
        x = max_pool(jax.nn.relu(conv(layer, x)))
    return cross_entropy(dense(params["dense"], x.reshape(x.shape[0], -1)), labels)


def cnn_args(small: bool) -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    size, channels, batch = (8, (1, 2, 3), 2) if small else (28, (1, 16, 32), 32)
    convs = [
        {"w": normal(rng, 3, 3, n, m), "b": jnp.zeros(m, jnp.float32)}
        for n, m in itertools.pairwise(channels)
    ]
    params = {"convs": convs, "dense": dense_params(rng, (size // 4) ** 2 * channels[-1], 10)}
    images = normal(rng, batch, size, size, channels[0], scale=1.0)
    return params, images, jnp.asarray(rng.integers(10, size=batch))


# --- transformer

HEADS = 4


def layer_norm(params: Params, x: Array) -> Array:
    mean = jnp.mean(x, axis=-1, keepdims=True)
    centred = x - mean
    variance = jnp.mean(centred**2, axis=-1, keepdims=True)
    return centred / jnp.sqrt(variance + 1e-5) * params["scale"] + params["shift"]


def attention(params: Params, x: Array) -> Array:
    """Causal softmax attention with HEADS heads."""
    batch, length, width = x.shape
    heads = dense(params["qkv"], x).reshape(batch, length, 3, HEADS, width // HEADS)
    q, k, v = heads[:, :, 0], heads[:, :, 1], heads[:, :, 2]
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / (width // HEADS) ** 0.5
    causal = jnp.tril(jnp.ones((length, length), bool))
    weights = jax.nn.softmax(jnp.where(causal, scores, -1e9))
    mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
    return dense(params["out"], mixed.reshape(batch, length, width))


def block(params: Params, x: Array) -> Array:
    x = x + attention(params["attention"], layer_norm(params["norm1"], x))
    hidden = jax.nn.gelu(dense(params["up"], layer_norm(params["norm2"], x)))
    return x + dense(params["down"], hidden)


def transformer_loss(params: Params, tokens: Array, targets: Array) -> Array:
    x = params["tokens"][tokens] + params["positions"]
    for layer in params["blocks"]:
        x = block(layer, x)
    return cross_entropy(dense(params["head"], layer_norm(params["norm"], x)), targets)


def transformer_args(small: bool) -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    layers, width, length, batch, vocabulary = (2, 8, 5, 2, 11) if small else (12, 128, 64, 4, 256)

    def norm() -> Params:
        return {"scale": jnp.ones(width, jnp.float32), "shift": jnp.zeros(width, jnp.float32)}

    def layer() -> Params:
        qkv, out = dense_params(rng, width, 3 * width), dense_params(rng, width, width)
        up, down = dense_params(rng, width, 4 * width), dense_params(rng, 4 * width, width)
        attention = {"qkv": qkv, "out": out}
        return {"norm1": norm(), "attention": attention, "norm2": norm(), "up": up, "down": down}

    params = {
        "tokens": normal(rng, vocabulary, width, scale=0.1),
        "positions": normal(rng, length, width, scale=0.1),
        "blocks": [layer() for _ in range(layers)],
        "norm": norm(),
        "head": dense_params(rng, width, vocabulary),
    }
    text = rng.integers(vocabulary, size=(batch, length + 1))
    return params, jnp.asarray(text[:, :-1]), jnp.asarray(text[:, 1:])


# --- LSTM


def lstm_loss(params: Params, xs: Array, labels: Array) -> Array:
    """A Python loop over time, unrolled; classification from the last state."""
    width = params["recurrent"].shape[0]
    hidden = cell = jnp.zeros((xs.shape[0], width), xs.dtype)
    for step in range(xs.shape[1]):
        gates = dense(params["input"], xs[:, step]) + hidden @ params["recurrent"]
        into, forget, out, new = jnp.split(gates, 4, axis=-1)
        cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(into) * jnp.tanh(new)
        hidden = jax.nn.sigmoid(out) * jnp.tanh(cell)
    return cross_entropy(dense(params["head"], hidden), labels)


def lstm_args(small: bool) -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    steps, features, width, batch = (3, 4, 5, 2) if small else (20, 32, 64, 16)
    params = {
        "input": dense_params(rng, features, 4 * width),
        "recurrent": normal(rng, width, 4 * width),
        "head": dense_params(rng, width, 10),
    }
    xs = normal(rng, batch, steps, features, scale=1.0)
    return params, xs, jnp.asarray(rng.integers(10, size=batch))


MODELS: tuple[Workload, ...] = (
    Workload("mlp", "3 layers 784-256-256-10, tanh, batch 64", mlp_loss, mlp_args),
    Workload(
        "cnn",
        "2 convolutions 3x3 (16, 32 channels), relu, 2x2 max-pool, dense; 28x28x1, batch 32",
        cnn_loss,
        cnn_args,
    ),
    Workload(
        "transformer",
        "12 layers unrolled, width 128, 4 heads, sequence 64, batch 4, 256 tokens",
        transformer_loss,
        transformer_args,
    ),
    Workload("lstm", "20 steps unrolled, width 64, batch 16", lstm_loss, lstm_args),
)
"""Models without loops, or with loops that Python unrolls."""
