"""Models of libraries that nobody edits, each beside the same network written out in plain functions.

Each model has two layers with a rectifier. It comes in three forms: its layers one after the other, the
same with each layer checkpointed, and a scan over checkpointed layers. A tool that changes something in
the model is compared with ``jax.grad`` of the network written out, which takes the change as a hook.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from funcgrad import at
from funcgrad.places import Selector
from tests.ecosystem.compare import load

LAYERS, ROWS, WIDTH, HEADS = 2, 5, 4, 2
KEY = jax.random.key(3)
FORMS = ("unrolled", "remat", "scan")
X = np.random.default_rng(1).normal(size=(ROWS, WIDTH))
WEIGHTS = np.random.default_rng(2).normal(size=(ROWS, WIDTH))


def readout(h: Any) -> Any:
    """A scalar, linear in what leaves the last layer."""
    return jnp.sum(WEIGHTS * h)


# --- written out


@dataclass(frozen=True)
class Hooks:
    """How a network written out computes; a test replaces one of these.

    Attributes:
      product: a product of two values, as ``einsum`` computes it; `here`: in the place of the site.
      dense: a matrix product and its bias.
      value: what becomes of the value of the site in layer `i`.
      activation: that of layer `i`.
      constant: what becomes of a normalisation's factor.
      attend: the softmax.
    """

    product: Callable[..., Any] = lambda here, spec, a, b: jnp.einsum(spec, a, b)
    dense: Callable[..., Any] | None = None
    value: Callable[..., Any] = lambda i, z: z
    activation: Callable[..., Any] = lambda i, z: jnp.where(z > 0, z, 0.0)
    constant: Callable[..., Any] = lambda factor: factor
    attend: Callable[..., Any] = lambda scores: (
        jnp.exp(scores) / jnp.sum(jnp.exp(scores), axis=-1, keepdims=True)
    )

    def affine(self, here: bool, h: Any, layer: Any) -> Any:
        """``h @ w + b``."""
        w, b = layer
        if self.dense is not None:
            return self.dense(here, h, w, b)
        return self.product(here, "ti,io->to", h, w) + b


def dense_layers(layers: Any, x: Any, hooks: Hooks) -> Any:
    """The network of all libraries but the attention block."""
    for i, layer in enumerate(layers):
        x = hooks.activation(i, hooks.value(i, hooks.affine(True, x, layer)))
    return readout(x)


def attention_blocks(layers: Any, x: Any, hooks: Hooks) -> Any:
    """Blocks of attention and a network of one hidden layer, each behind a normalisation."""

    def norm(x: Any, scale: Any, shift: Any) -> Any:
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        factor = 1 / jnp.sqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-6)
        return centred * hooks.constant(factor) * scale + shift

    def attend(x: Any, p: Any) -> Any:
        q, k, v = (
            hooks.affine(True, x, p[name]).reshape(ROWS, HEADS, WIDTH // HEADS)
            for name in ("query", "key", "value")
        )
        q = q / np.sqrt(WIDTH // HEADS)
        weights = hooks.attend(hooks.product(True, "qhd,khd->hqk", q, k))
        mixed = hooks.product(True, "hqk,khd->qhd", weights, v)
        return hooks.affine(True, mixed.reshape(ROWS, WIDTH), p["out"])

    for i, p in enumerate(layers):
        x = x + hooks.value(i, attend(norm(x, *p["norm_attn"]), p))
        up = hooks.affine(False, norm(x, *p["norm_mlp"]), p["up"])
        x = x + hooks.affine(False, hooks.activation(i, up), p["down"])
    return readout(x)


# --- models


@dataclass(frozen=True)
class Model:
    """A model of a library.

    Attributes:
      loss: the model, from its parameters and an input to a scalar.
      params: its parameters, as the library has them.
      site: a selector of one value in each layer.
      layers: from the parameters, those of each layer as the network written out takes them.
      network: the network written out.
      form: how the layers follow each other.
      scope: a name that a list of places has for the site.
    """

    loss: Callable[..., Any]
    params: Any
    site: Selector
    layers: Callable[..., Any]
    network: Callable[..., Any]
    form: str
    scope: str | None

    def written(self, params: Any, x: Any, **hooks: Any) -> Any:
        """The network written out, with changes."""
        return self.network(self.layers(params), x, Hooks(**hooks))

    def values(self, params: Any) -> list[Any]:
        """The value of the site in each layer, by the network written out."""
        found: list[Any] = []
        self.written(params, X, value=lambda i, z: (found.append(z), z)[1])
        return found

    def on_x(self, params: Any) -> Any:
        """The loss of the input `X`."""
        return self.loss(params, X)

    def stacked(self, values: list[Any]) -> Any:
        """Values of the site, with a leading axis for the layers."""
        if self.form == "scan":
            (values,) = values
        return jnp.stack([*values])


def _checkpointed(form: str, layer: Callable[..., Any]) -> Callable[..., Any]:
    return layer if form == "unrolled" else jax.checkpoint(layer)


def _each(form: str, layer: Callable[..., Any], params: Any, h: Any) -> Any:
    """Layers one after the other, or in a scan over stacked parameters."""
    layer = _checkpointed(form, layer)
    if form == "scan":
        return lax.scan(lambda h, p: (layer(p, h), None), h, params)[0]
    for p in params:
        h = layer(p, h)
    return h


def _apart(stacked: Any) -> list[Any]:
    """The parameters of each layer."""
    return [jax.tree.map(lambda a, i=i: a[i], stacked) for i in range(LAYERS)]


def _arranged(form: str, stacked: Any) -> Any:
    """Stacked parameters as a form of model takes them, and drawn."""
    return _drawn(stacked if form == "scan" else _apart(stacked))


def _of_each(form: str, params: Any) -> list[Any]:
    return _apart(params) if form == "scan" else params


def _drawn(params: Any) -> Any:
    """Parameters in double precision, with which a good part of the rectifiers of each layer is open."""
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(26)
    drawn = [jnp.asarray(rng.normal(size=leaf.shape) / np.sqrt(WIDTH)) for leaf in leaves]
    return jax.tree.unflatten(tree, drawn)


def plain(form: str, activation: Any) -> Model:
    def layer(p: Any, h: Any) -> Any:
        with jax.named_scope("dense"):
            h = h @ p["w"] + p["b"]
        return activation(h)

    stacked = {"w": jnp.zeros((LAYERS, WIDTH, WIDTH)), "b": jnp.zeros((LAYERS, WIDTH))}
    params = _arranged(form, stacked)
    loss = lambda params, x: readout(_each(form, layer, params, x))
    layers = lambda params: [(p["w"], p["b"]) for p in _of_each(form, params)]
    return Model(loss, params, at("dense"), layers, dense_layers, form, "dense")


def _linen(form: str, layer: Any) -> tuple[Any, Any]:
    """A stack of modules, and a function that takes the parameters apart into those of each."""
    nn = load("flax.linen")
    body = layer if form == "unrolled" else nn.remat(layer)

    class Stack(nn.Module):
        @nn.compact
        def __call__(self, h):
            if form == "scan":
                scanned = nn.scan(
                    body, variable_axes={"params": 0}, split_rngs={"params": True}, length=LAYERS
                )
                return readout(scanned(name="layers")(h, None)[0])
            for i in range(LAYERS):
                h, _ = body(name=f"layers_{i}")(h, None)
            return readout(h)

    def parts(params: Any) -> list[Any]:
        own = params["params"]
        if form == "scan":
            return _apart(own["layers"])
        return [own[f"layers_{i}"] for i in range(LAYERS)]

    return Stack(), parts


def linen(form: str, activation: Any) -> Model:
    nn = load("flax.linen")

    class Layer(nn.Module):
        @nn.compact
        def __call__(self, h, _):
            return activation(nn.Dense(WIDTH, name="dense")(h)), None

    model, parts = _linen(form, Layer)
    params = _drawn(model.init(KEY, X))

    def layers(params: Any) -> Any:
        return [(p["dense"]["kernel"], p["dense"]["bias"]) for p in parts(params)]

    return Model(model.apply, params, at("dense"), layers, dense_layers, form, "dense")


def attention(form: str, activation: Any) -> Model:
    """A block of a transformer around flax's attention."""
    nn = load("flax.linen")

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            h = nn.LayerNorm(name="norm_attn", use_fast_variance=False)(x)
            x = x + nn.MultiHeadDotProductAttention(HEADS, name="attn")(h)
            h = nn.LayerNorm(name="norm_mlp", use_fast_variance=False)(x)
            h = activation(nn.Dense(WIDTH + 2, name="up")(h))
            return x + nn.Dense(WIDTH, name="down")(h), None

    model, parts = _linen(form, Block)
    params = _drawn(model.init(KEY, X))

    def layer(p: Any) -> Any:
        attn = p["attn"]
        found = {
            name: (attn[name]["kernel"].reshape(WIDTH, WIDTH), attn[name]["bias"].reshape(-1))
            for name in ("query", "key", "value", "out")
        }
        found |= {name: (p[name]["kernel"], p[name]["bias"]) for name in ("up", "down")}
        norms = ("norm_attn", "norm_mlp")
        return found | {name: (p[name]["scale"], p[name]["bias"]) for name in norms}

    layers = lambda params: [layer(p) for p in parts(params)]
    return Model(model.apply, params, at("attn"), layers, attention_blocks, form, "attn")


def haiku(form: str, activation: Any) -> Model:
    hk = load("haiku")

    def model(x: Any) -> Any:
        def layer(h: Any) -> Any:
            return activation(hk.Linear(WIDTH, name="dense")(h))

        if form == "scan":
            return readout(hk.experimental.layer_stack(LAYERS)(hk.remat(layer))(x))
        for _ in range(LAYERS):
            x = (layer if form == "unrolled" else hk.remat(layer))(x)
        return readout(x)

    transformed = hk.without_apply_rng(hk.transform(model))
    params = _drawn(transformed.init(KEY, X))

    def layers(params: Any) -> Any:
        found = [(p["w"], p["b"]) for _, p in sorted(params.items())]
        return [*zip(*found[0], strict=True)] if form == "scan" else found

    return Model(transformed.apply, params, at("dense*"), layers, dense_layers, form, "dense")


def equinox(form: str, activation: Any) -> Model:
    eqx = load("equinox")
    stack = eqx.filter_vmap(lambda key: eqx.nn.Linear(WIDTH, WIDTH, key=key))
    arrays, static = eqx.partition(stack(jax.random.split(KEY, LAYERS)), eqx.is_array)

    def layer(p: Any, h: Any) -> Any:
        return activation(jax.vmap(eqx.combine(p, static))(h))

    loss = lambda params, x: readout(_each(form, layer, params, x))
    layers = lambda params: [(p.weight.T, p.bias) for p in _of_each(form, params)]
    params, name = _arranged(form, arrays), "eqx.nn.Linear"
    return Model(loss, params, at(name), layers, dense_layers, form, name)


def nnx(form: str, activation: Any) -> Model:
    nnx = load("flax.nnx")

    @nnx.vmap(in_axes=(0,), out_axes=0)
    def stack(key: Any) -> Any:
        return nnx.Linear(WIDTH, WIDTH, rngs=nnx.Rngs(key))

    graph, state = nnx.split(stack(jax.random.split(KEY, LAYERS)))

    def layer(linear: Any, h: Any) -> Any:
        return activation(linear(h))

    def loss(state: Any, x: Any) -> Any:
        state = jax.tree.map(lambda w: w, state)  # flax changes no variables of an outer trace
        body = layer if form == "unrolled" else nnx.remat(layer)
        if form == "scan":
            scanned = nnx.scan(body, in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
            return readout(scanned(nnx.merge(graph, state), x))
        for own in state:
            x = body(nnx.merge(graph, own), x)
        return readout(x)

    def layers(state: Any) -> Any:
        return [(p["kernel"][...], p["bias"][...]) for p in _of_each(form, state)]

    params, site = _arranged(form, state), at(function=nnx.Linear.__call__)
    return Model(loss, params, site, layers, dense_layers, form, None)


MODELS = {f.__name__: f for f in (plain, linen, nnx, equinox, haiku, attention)}


def unrolled(library: str) -> Model:
    """The dense layers of a library, one after the other."""
    return MODELS[library]("unrolled", jax.nn.relu)
