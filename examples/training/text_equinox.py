"""A decoder-only transformer in equinox: its layers are one stacked module, run by a scan."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from text_size import Model, Size


class Layer(eqx.Module):
    """Causal self-attention and a perceptron, each behind a norm and beside an identity."""

    norm_attention: eqx.nn.RMSNorm
    norm_perceptron: eqx.nn.RMSNorm
    attention: eqx.nn.MultiheadAttention
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, size: Size, key: jax.Array):
        keys = jax.random.split(key, 3)
        self.norm_attention = eqx.nn.RMSNorm(size.width)
        self.norm_perceptron = eqx.nn.RMSNorm(size.width)
        self.attention = eqx.nn.MultiheadAttention(size.heads, size.width, key=keys[0])
        self.up = eqx.nn.Linear(size.width, 4 * size.width, use_bias=False, key=keys[1])
        self.down = eqx.nn.Linear(4 * size.width, size.width, use_bias=False, key=keys[2])

    def __call__(self, x: jax.Array) -> jax.Array:
        """One sequence, (length, width)."""
        h = jax.vmap(self.norm_attention)(x)
        x = x + self.attention(h, h, h, mask=jnp.tri(len(x), dtype=bool))
        h = jax.vmap(self.norm_perceptron)(x)
        return x + jax.vmap(self.down)(jax.nn.gelu(jax.vmap(self.up)(h)))


class Transformer(eqx.Module):
    """Embedded characters and places, the layers, and a linear map to logits."""

    token: eqx.nn.Embedding
    place: eqx.nn.Embedding
    layers: Layer
    norm: eqx.nn.RMSNorm
    out: eqx.nn.Linear

    def __init__(self, size: Size, key: jax.Array):
        keys = jax.random.split(key, 4)
        self.token = eqx.nn.Embedding(size.vocabulary, size.width, key=keys[0])
        self.place = eqx.nn.Embedding(size.length, size.width, key=keys[1])
        self.norm = eqx.nn.RMSNorm(size.width)
        self.out = eqx.nn.Linear(size.width, size.vocabulary, key=keys[2])
        layer_keys = jax.random.split(keys[3], size.layers)
        self.layers = eqx.filter_vmap(lambda key: Layer(size, key))(layer_keys)


def build(size: Size, around: Callable[[Any], Any] = lambda layer: layer) -> Model:
    """A transformer.

    Args:
      size: how large it is.
      around: wraps the function of one layer, such as ``funcgrad.checkpoint``.
    """
    shapes = eqx.filter_eval_shape(Transformer, size, jax.random.key(0))
    _, static = eqx.partition(shapes, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))

    def init(key: jax.Array) -> Any:
        return eqx.filter(Transformer(size, key), eqx.is_array)

    def logits(params: Any, tokens: jax.Array) -> jax.Array:
        params = jax.tree.map(lambda weight: weight.astype(size.dtype), params)
        model = eqx.combine(params, static)
        layer = around(lambda params, x: jax.vmap(eqx.combine(params, static.layers))(x))
        x = model.token.weight[tokens] + model.place.weight[: tokens.shape[1]]
        x, _ = jax.lax.scan(lambda x, params: (layer(params, x), None), x, params.layers)
        return jax.vmap(jax.vmap(lambda h: model.out(model.norm(h))))(x).astype(jnp.float32)

    return Model(size.length, init, logits)
