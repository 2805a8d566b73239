"""Functions whose graphs are drawn in the tests."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import funcgrad

graph = funcgrad.inspect.graph
VECTOR = np.float32([0.5, -1.0, 2.0])


@cache
def hidden_layer():
    def loss(v, w, x, target):
        h = jax.nn.sigmoid(w @ x)
        return (v @ h - target) ** 2

    return graph(loss, VECTOR, np.ones((3, 2), np.float32), VECTOR[:2], np.float32(12.1))


@cache
def used_twice():
    return graph(lambda x: jnp.sin(x) * x + x * x, np.float32(2))


@cache
def calls():
    @jax.custom_vjp
    def own(x):
        return jnp.sin(x)

    own.defvjp(lambda x: (own(x), x), lambda x, ct: (ct * x,))

    @jax.jit
    def twice(x, unused):
        return jnp.tanh(x) + 1, x

    def fun(x, n):
        same, _ = jax.jit(lambda x, n: (x, n))(x, n)
        y, again = twice(same, x)
        y = jax.checkpoint(lambda y: jnp.exp(jnp.sin(y)))(own(y) + jax.nn.relu(again))
        return jax.lax.stop_gradient(y) * x + n, jnp.where(y > 0, y, 0.0)

    return graph(fun, VECTOR, np.arange(3))


@cache
def loops():
    def fun(params, xs):
        def step(h, x):
            h = jnp.tanh(params["w"] @ h + x)
            return h, h.sum()

        h, ys = jax.lax.scan(step, jnp.zeros(3), xs)
        n = jax.lax.while_loop(lambda n: n < 3, lambda n: n + 1, 0)
        z = jax.lax.cond(h[0] > 0, lambda h: jnp.sin(h) * 2, lambda h: h, h)
        return ys.sum() + n * z.sum()

    return graph(fun, {"w": np.eye(3, dtype=np.float32)}, np.ones((5, 3), np.float32))


@cache
def scoped():
    def fun(x, y):
        for i in range(3):
            with jax.named_scope(f"layer<{i}>"):
                x = jnp.sin(x) * y
                with jax.named_scope('"inner" & more'):
                    x = x + jnp.cos(y)
        return x

    return graph(fun, VECTOR, VECTOR)


@cache
def whole_function_jitted():
    return graph(jax.jit(lambda x: jax.jit(jnp.sin)(x)), VECTOR)


@cache
def arguments_returned():
    return graph(lambda x, y, z: (x, 2.0, y * 2), VECTOR, VECTOR, VECTOR)


def chain(length):
    def fun(x):
        for i in range(length):
            x = jnp.sin(x) * x if i % 7 else x + 1
        return x

    return graph(fun, jax.ShapeDtypeStruct((3,), np.float32))


@cache
def chain_of_300():
    return chain(300)


@cache
def many_arguments():
    def fun(xs):
        y = sum(jnp.sin(x) for x in xs)
        return y + sum(x * y for x in xs)

    return graph(fun, [jax.ShapeDtypeStruct((3,), np.float32)] * 120)


@cache
def tangled():
    def fun(xs):
        for r in range(4):
            y = xs[1:] + xs[:1]
            xs = [
                jnp.sin(a) * b + xs[(i * 7 + r) % 24]
                for i, (a, b) in enumerate(zip(xs, y, strict=True))
            ]
        return sum(xs)

    return graph(fun, [jax.ShapeDtypeStruct((), np.float32)] * 24)


@cache
def many_results():
    return graph(
        lambda x: [jnp.sin(x + i) for i in range(100)], jax.ShapeDtypeStruct((3,), np.float32)
    )


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
        return x + nn.Dense(8)(nn.gelu(nn.Dense(16)(nn.LayerNorm()(x))))


class Transformer(nn.Module):
    layers: int

    @nn.compact
    def __call__(self, letters):
        x = nn.Embed(5, 8)(letters)
        for i in range(self.layers):
            x = Layer(name=f"layer_{i}")(x)
        return nn.Dense(5, name="head")(x)


@cache
def transformer(layers=12):
    model, letters = Transformer(layers), jax.ShapeDtypeStruct((1, 4), np.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), letters)
    return graph(lambda params, x: jnp.mean(model.apply(params, x) ** 2), params, letters)


PICTURED = [
    hidden_layer, used_twice, calls, loops, scoped, whole_function_jitted, arguments_returned,
    chain_of_300, many_arguments, tangled, many_results, transformer,
]  # fmt: skip
