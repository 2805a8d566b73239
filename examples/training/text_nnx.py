"""A decoder-only transformer in flax nnx: its layers are one stacked module, run by a scan."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from text_size import Model, Size


class Layer(nnx.Module):
    """Causal self-attention and a perceptron, each behind a norm and beside an identity."""

    def __init__(self, size: Size, rngs: nnx.Rngs):
        def linear(inputs: int, outputs: int) -> nnx.Linear:
            return nnx.Linear(inputs, outputs, use_bias=False, dtype=size.dtype, rngs=rngs)

        self.heads = size.heads
        self.norm_attention = nnx.RMSNorm(size.width, dtype=size.dtype, rngs=rngs)
        self.norm_perceptron = nnx.RMSNorm(size.width, dtype=size.dtype, rngs=rngs)
        self.query = linear(size.width, size.width)
        self.key = linear(size.width, size.width)
        self.value = linear(size.width, size.width)
        self.join = linear(size.width, size.width)
        self.up = linear(size.width, 4 * size.width)
        self.down = linear(4 * size.width, size.width)

    def __call__(self, x: jax.Array) -> jax.Array:
        with jax.named_scope("attention"):
            h = self.norm_attention(x)
            by_head = (*h.shape[:-1], self.heads, h.shape[-1] // self.heads)
            q, k, v = (f(h).reshape(by_head) for f in (self.query, self.key, self.value))
            attended = jax.nn.dot_product_attention(q, k, v, is_causal=True)
            x = x + self.join(attended.reshape(h.shape))
        with jax.named_scope("perceptron"):
            return x + self.down(jax.nn.gelu(self.up(self.norm_perceptron(x))))


class Transformer(nnx.Module):
    """Embedded characters and places, the layers, and a linear map to logits."""

    def __init__(self, size: Size, rngs: nnx.Rngs):
        self.token = nnx.Embed(size.vocabulary, size.width, dtype=size.dtype, rngs=rngs)
        self.place = nnx.Embed(size.length, size.width, dtype=size.dtype, rngs=rngs)
        self.norm = nnx.RMSNorm(size.width, dtype=size.dtype, rngs=rngs)
        self.out = nnx.Linear(size.width, size.vocabulary, dtype=size.dtype, rngs=rngs)
        stacked = nnx.vmap(lambda rngs: Layer(size, rngs), in_axes=0, out_axes=0)
        self.layers = stacked(rngs.split(size.layers))


def build(size: Size, around: Callable[[Any], Any] = lambda layer: layer) -> Model:
    """A transformer.

    Args:
      size: how large it is.
      around: wraps the function of one layer, such as ``funcgrad.checkpoint``.
    """
    shapes = nnx.eval_shape(lambda: Transformer(size, nnx.Rngs(0)))
    graph, _ = nnx.split(shapes, nnx.Param)

    def init(key: jax.Array) -> Any:
        return nnx.state(Transformer(size, nnx.Rngs(key)), nnx.Param)

    def logits(params: Any, tokens: jax.Array) -> jax.Array:
        model = nnx.merge(graph, params)
        layer_graph, stacked = nnx.split(model.layers)
        layer = around(lambda params, x: nnx.merge(layer_graph, params)(x))
        x = model.token(tokens) + model.place(jnp.arange(tokens.shape[1]))
        x, _ = jax.lax.scan(lambda x, params: (layer(params, x), None), x, stacked)
        return model.out(model.norm(x)).astype(jnp.float32)

    return Model(size.length, init, logits)
