"""The graph of a small network, drawn with its numbers: forward downwards, gradients upwards.

    python examples/draw_graph.py

Two inputs, three hidden units with a sigmoid, one output, and a squared loss, as in a first lecture on
backpropagation. The output is 10.1, it should have been 12.1, and so the loss is 4. The picture is
draw_graph.svg, and draw_graph.html is a page that goes through it step by step. With --transformer both
are of a transformer of 12 layers, without numbers, and draw_graph_layer.svg is one of the layers.
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import funcgrad

V, W = np.float32([1, 2, 10]), np.float32([[-0.197, -1], [1, -0.5], [0.197, 1]])
X, TARGET = np.float32([1, 2]), np.float32(12.1)


def loss(v: jax.Array, w: jax.Array, x: jax.Array, target: jax.Array) -> jax.Array:
    """The squared error of a network with one hidden layer."""
    k = w @ x
    h = jax.nn.sigmoid(k)
    y = v @ h
    error = (y - target) ** 2
    return error


class Layer(nn.Module):
    """A layer of a transformer."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(x))
        hidden = nn.gelu(nn.Dense(64)(nn.LayerNorm()(x)))
        return x + nn.Dense(16)(hidden)


class Transformer(nn.Module):
    """A transformer that says of each letter which one comes next."""

    layers: int = 12

    @nn.compact
    def __call__(self, letters: jax.Array) -> jax.Array:
        x = nn.Embed(26, 16)(letters)
        for i in range(self.layers):
            x = Layer(name=f"layer_{i}")(x)
        return nn.Dense(26, name="head")(nn.LayerNorm()(x))


def transformer_loss(params: Any, letters: jax.Array) -> jax.Array:
    """The mean cross entropy of each next letter."""
    logits = jax.nn.log_softmax(Transformer().apply(params, letters[:, :-1]))
    return -jnp.take_along_axis(logits, letters[:, 1:, None], axis=-1).mean()


def main() -> None:
    """Draw the network, or the transformer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--transformer", action="store_true")
    if parser.parse_args().transformer:
        letters = jax.ShapeDtypeStruct((1, 8), int)
        params = jax.eval_shape(Transformer().init, jax.random.key(0), letters)
        graph = funcgrad.inspect.graph(transformer_loss, params, letters)
        graph.to_svg("draw_graph_layer.svg", view="layer_0")
    else:
        graph = funcgrad.inspect.graph(loss, V, W, X, TARGET)
    graph.to_svg("draw_graph.svg")
    graph.to_html("draw_graph.html")
    print(graph)


if __name__ == "__main__":
    main()
