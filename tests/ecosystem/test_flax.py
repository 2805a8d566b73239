"""Models of flax: linen and nnx."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from jax import lax

import funcgrad
from tests.ecosystem.compare import RTOL, as_float64, assert_gradients_same, check, draw, load

nn = load("flax.linen")
nnx = load("flax.nnx")

KEY = jax.random.key(0)

# --- linen ----------------------------------------------------------------------------------


class Mlp(nn.Module):
    """Dense, layer norm, gelu, weight norm."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.LayerNorm()(nn.gelu(nn.Dense(4)(x)))
        x = nn.WeightNorm(nn.Dense(4))(nn.silu(x))
        return nn.Sequential([nn.Dense(3), nn.relu, nn.RMSNorm(), nn.Dense(2)])(x)


class Cnn(nn.Module):
    """Convolutions, batch and group norm, both poolings."""

    @nn.compact
    def __call__(self, x: Any, train: bool = True) -> Any:
        x = nn.Conv(4, (3, 3))(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.ConvTranspose(2, (3, 3), strides=(2, 2))(x)
        x = nn.avg_pool(nn.GroupNorm(num_groups=2)(x), (2, 2), (2, 2))
        return nn.Dense(2)(x.reshape(x.shape[0], -1))


class Attention(nn.Module):
    """Embedding and masked self-attention with dropout."""

    @nn.compact
    def __call__(self, tokens: Any, train: bool = True) -> Any:
        x = nn.Embed(7, 4)(tokens)
        attention = nn.MultiHeadAttention(num_heads=2, dropout_rate=0.3, deterministic=not train)
        x = x + attention(nn.LayerNorm()(x), mask=nn.make_causal_mask(tokens))
        return nn.Dropout(0.3, deterministic=not train)(nn.Dense(2)(x))


class Cell(nn.Module):
    """A recurrent cell for nn.scan."""

    @nn.compact
    def __call__(self, carry: Any, x: Any) -> Any:
        carry = jnp.tanh(nn.Dense(3)(carry) + nn.Dense(3)(x))
        return carry, nn.Dropout(0.2, deterministic=False)(carry)


class Scanned(nn.Module):
    """nn.scan over time with shared weights, keys split."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        over_time = nn.scan(
            nn.remat(Cell),
            variable_broadcast="params",
            split_rngs={"params": False, "dropout": True},
            in_axes=1,
            out_axes=1,
        )
        return over_time()(jnp.zeros((x.shape[0], 3)), x)[1]


class Block(nn.Module):
    """A layer for stacks of layers."""

    @nn.compact
    def __call__(self, x: Any, _: Any = None) -> Any:
        return x + nn.Dense(x.shape[-1])(nn.swish(x)), None


class Stacked(nn.Module):
    """Layers with stacked weights: scan over rematerialised blocks, nn.vmap, nn.jit, nn.cond."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        block = nn.remat(Block, policy=jax.checkpoint_policies.dots_saveable)
        layers = nn.scan(block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        x, _ = layers()(x, None)
        x = nn.jit(nn.Dense)(x.shape[-1])(x)
        heads = nn.vmap(
            nn.Dense, in_axes=None, out_axes=0, axis_size=2,
            variable_axes={"params": 0}, split_rngs={"params": True},
        )  # fmt: skip
        return jnp.prod(heads(2)(x), 0)


class Gated(nn.Module):
    """A branch chosen at run time, and a gradient rule inside the model."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.cond(x.sum() > 0, lambda m, x: m(x), lambda m, x: -m(x), nn.Dense(3), x)

        def apply(module: Any, x: Any) -> Any:
            return module(x)

        with_signs = nn.custom_vjp(
            apply,
            forward_fn=functools.partial(nn.vjp, apply),
            backward_fn=lambda vjp_fn, ct: jax.tree.map(jnp.sign, vjp_fn(ct)),
        )
        return nn.PReLU()(x) * with_signs(nn.Dense(1), x)


def apply_loss(module: Any, rngs: Any, mutable: Any, params: Any, state: Any, *inputs: Any) -> Any:
    variables = {"params": params, **state}
    if mutable:
        y, state = module.apply(variables, *inputs, rngs=rngs, mutable=mutable)
    else:
        y = module.apply(variables, *inputs, rngs=rngs)
    return jnp.mean(jnp.sin(y) ** 2) + y.sum(), state


def rnn(cell: Any) -> Any:
    return nn.RNN(cell(2, param_dtype=jnp.float64))


TOKENS = jnp.array([[1, 2, 6], [0, 3, 3]])

LINEN = {
    "mlp": (Mlp, (2, 3), ()),
    "cnn": (Cnn, (2, 4, 4, 2), ["batch_stats"]),
    "lstm": (lambda: rnn(nn.OptimizedLSTMCell), (2, 4, 3), ()),
    "bidirectional": (
        lambda: nn.Bidirectional(rnn(nn.GRUCell), rnn(nn.SimpleCell)),
        (2, 3, 2),
        (),
    ),
    "attention": (Attention, TOKENS, ()),
    "scan over time": (Scanned, (2, 3, 2), ()),
    "scan over layers": (Stacked, (2, 3), ()),
    "cond": (Gated, (2, 3), ()),
}


@pytest.mark.parametrize("name", LINEN)
def test_linen(name: str) -> None:
    make, inputs, mutable = LINEN[name]
    x = draw(1, *inputs) if isinstance(inputs, tuple) else inputs
    rngs = {"dropout": jax.random.key(1)}
    variables = as_float64(make().init({"params": KEY, **rngs}, x))
    params = variables.pop("params")
    loss = functools.partial(apply_loss, make(), rngs, mutable)
    check(loss, params, variables, x, has_aux=True, eager=name == "scan over layers")


class Repeated(nn.Module):
    """A loop whose number of steps depends on the data: JAX refuses to run it backward."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        layer = nn.Dense(3)
        x = layer(x)

        def step(layer: Any, carry: Any) -> Any:
            return carry[0] + 1, jnp.tanh(layer(carry[1]))

        start, shared = (jnp.array(0), x), {"broadcast_variables": "params"}
        return nn.while_loop(lambda _, carry: carry[0] < 3, step, layer, start, **shared)[1]


def test_linen_while_loop_that_only_we_run_backward() -> None:
    module, x = Repeated(), draw(1, 3)
    params = as_float64(module.init(KEY, x))["params"]

    def unrolled(params: Any, x: Any) -> Any:
        kernel, bias = params["Dense_0"]["kernel"], params["Dense_0"]["bias"]
        y = x @ kernel + bias
        for _ in range(3):
            y = jnp.tanh(y @ kernel + bias)
        return y.sum()

    ours = jax.jit(funcgrad.grad(lambda p, x: module.apply({"params": p}, x).sum()))(params, x)
    assert_gradients_same(ours, jax.jit(jax.grad(unrolled))(params, x))


def test_linen_training_step_with_batch_statistics() -> None:
    module, x = Cnn(), draw(1, 2, 4, 4, 2)
    variables = as_float64(module.init(KEY, x))
    params, state = variables["params"], {"batch_stats": variables["batch_stats"]}
    loss = functools.partial(apply_loss, module, None, ["batch_stats"])
    results = []
    for differentiate in (funcgrad.value_and_grad, jax.value_and_grad):

        @jax.jit
        def step(params: Any, state: Any, x: Any, differentiate: Any = differentiate) -> Any:
            (_, state), ct = differentiate(loss, has_aux=True)(params, state, x)
            return jax.tree.map(lambda p, ct_p: p - 0.1 * ct_p, params, ct), state

        stepped = params, state
        for _ in range(3):
            stepped = step(*stepped, x)
        results.append(stepped)
    assert_gradients_same(*results)


# --- nnx ------------------------------------------------------------------------------------


class Net(nnx.Module):
    """Linear, convolution, batch norm and dropout."""

    def __init__(self, rngs: Any):
        self.conv = nnx.Conv(2, 3, (3, 3), rngs=rngs, param_dtype=jnp.float64)
        self.norm = nnx.BatchNorm(3, rngs=rngs, param_dtype=jnp.float64)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.linear = nnx.Linear(12, 2, rngs=rngs, param_dtype=jnp.float64)

    def __call__(self, x: Any) -> Any:
        x = nnx.relu(self.norm(self.conv(x)))
        x = nnx.max_pool(x, (2, 2), (2, 2))
        return self.linear(self.dropout(x.reshape(x.shape[0], -1)))


class Transformer(nnx.Module):
    """Embedding, attention, layer norm, a stack of layers made by vmap and run by scan."""

    def __init__(self, rngs: Any):
        double = {"rngs": rngs, "param_dtype": jnp.float64}
        self.embed = nnx.Embed(7, 4, **double)
        self.attention = nnx.MultiHeadAttention(2, 4, decode=False, **double)
        self.norm = nnx.LayerNorm(4, **double)

        @nnx.split_rngs(splits=3)
        @nnx.vmap
        def make(rngs: Any) -> Any:
            return nnx.Linear(4, 4, rngs=rngs, param_dtype=jnp.float64)

        self.layers = make(rngs)

    def __call__(self, tokens: Any) -> Any:
        x = self.embed(tokens)
        x = x + self.attention(self.norm(x))

        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        @nnx.remat
        def apply(x: Any, layer: Any) -> Any:
            return x + nnx.gelu(layer(x))

        return self.embed.attend(apply(x, self.layers))


def lstm(rngs: Any) -> Any:
    cell = nnx.OptimizedLSTMCell(2, 3, rngs=rngs, param_dtype=jnp.float64)
    return nnx.RNN(cell, rngs=rngs)


# jax.nn.dot_product_attention, which nnx uses, has its softmax in single precision.
NNX = {
    "convolutional": (Net, lambda: draw(1, 3, 4, 4, 2), RTOL),
    "transformer": (Transformer, lambda: TOKENS, 1e-6),
    "lstm": (lstm, lambda: draw(1, 2, 3, 2), RTOL),
}


def split_net(model: Any) -> Any:
    """Structure, parameters and the rest; batch statistics are made in single precision."""
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    return graph, params, as_float64(rest)


def split_loss(graph: Any, params: Any, rest: Any, x: Any) -> Any:
    model = nnx.merge(graph, params, rest, copy=True)
    loss = jnp.mean(jnp.sin(model(x)) ** 2)
    return loss, nnx.split(model, nnx.Param, ...)[2]


@pytest.mark.parametrize("name", NNX)
def test_nnx_state(name: str) -> None:
    make, inputs, rtol = NNX[name]
    graph, params, rest = split_net(make(nnx.Rngs(0)))
    loss = functools.partial(split_loss, graph)
    check(loss, params, rest, inputs(), has_aux=True, rtol=rtol, eager=name == "lstm")


def test_nnx_module_as_argument() -> None:
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0), param_dtype=jnp.float64)
    check(lambda model, x: jnp.mean(jnp.tanh(model(x)) ** 2), model, draw(1, 2, 3))


def test_nnx_jit_with_our_gradient_of_a_split_model() -> None:
    results = []
    for differentiate in (funcgrad.value_and_grad, jax.value_and_grad):

        @nnx.jit
        def step(model: Any, x: Any, differentiate: Any = differentiate) -> Any:
            graph, params, rest = nnx.split(model, nnx.Param, ...)
            loss = functools.partial(split_loss, graph)
            (value, rest), ct = differentiate(loss, has_aux=True)(params, rest, x)
            params = jax.tree.map(lambda p, ct_p: p - 0.1 * ct_p, params, ct)
            nnx.update(model, params, rest)
            return value

        model = nnx.merge(*split_net(Net(nnx.Rngs(0))))
        values = [step(model, draw(1, 3, 4, 4, 2)) for _ in range(2)]
        params, statistics = nnx.state(model, nnx.Param), nnx.state(model, nnx.BatchStat)
        results.append((values, params, statistics))
    assert_gradients_same(*results)


def test_nnx_optimizer() -> None:
    results = []
    for differentiate in (funcgrad.grad, jax.grad):
        model = nnx.Linear(3, 2, rngs=nnx.Rngs(0), param_dtype=jnp.float64)
        optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
        for seed in range(2):
            graph, params = nnx.split(model, nnx.Param)

            def loss(params: Any, x: Any, graph: Any = graph) -> Any:
                return jnp.mean(nnx.merge(graph, params)(x) ** 2)

            optimizer.update(model, differentiate(loss)(params, draw(seed, 2, 3)))
        results.append(nnx.state(model, nnx.Param))
    assert_gradients_same(*results)


def test_nnx_call_that_mutates_inside_jit_inside_the_gradient() -> None:
    graph, params, rest = split_net(Net(nnx.Rngs(0)))

    @nnx.jit
    def run(model: Any, x: Any) -> Any:
        return model(x)

    def loss(params: Any, rest: Any, x: Any) -> Any:
        model = nnx.merge(graph, params, rest, copy=True)
        value = jnp.mean(run(model, x) ** 2) + jnp.mean(lax.sin(run(model, x)))
        return value, nnx.split(model, nnx.Param, ...)[2]

    check(loss, params, rest, draw(1, 3, 4, 4, 2), has_aux=True)
