"""Find where a NaN begins in a transformer that somebody else wrote, and in a running training step.

    python examples/find_the_nan.py

A row of the attention mask is empty, so that its softmax is 0/0; and the loss takes the square root of a
distance that is 0 for one example. Neither is where the NaN is seen.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

import funcgrad

Params = dict[str, Array]


def attention(x: Array, layer: Params, mask: Array) -> Array:
    with jax.named_scope("attention"):
        q, k, v = (x @ layer[name] for name in ("q", "k", "v"))
        scores = jnp.where(mask, q @ k.T / 4.0, -jnp.inf)
        return jax.nn.softmax(scores) @ v  # the first NaN


def model(params: Params, x: Array, mask: Array) -> Array:
    """Six layers by a scan, each computed again on the way back."""

    @jax.checkpoint
    def layer(x: Array, layer: Params) -> tuple[Array, None]:
        return x + attention(x, layer, mask), None

    return lax.scan(layer, x, params)[0]


def loss(params: Params, x: Array, target: Array, mask: Array) -> Array:
    distance = jnp.sum((model(params, x, mask) - target) ** 2, axis=-1)
    return jnp.mean(jnp.where(distance > 0, jnp.sqrt(distance), 0.0))  # the second


def inputs(size: int = 16, length: int = 8, layers: int = 6) -> tuple[Any, ...]:
    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v = (jax.random.normal(key, (layers, size, size)) / 16 for key in keys[:3])
    params, x = {"q": q, "k": k, "v": v}, jax.random.normal(keys[3], (length, size))
    return params, x, jnp.ones((length, size)), jnp.tril(jnp.ones((length, length), bool))


def main() -> None:
    params, x, target, mask = inputs()
    print("--- all is well:", funcgrad.inspect.nonfinite(loss, params, x, target, mask))

    print("\n--- row 3 of the mask is empty")
    print(funcgrad.inspect.nonfinite(loss, params, x, target, mask.at[3].set(False)))

    @jax.jit
    def step(params: Params, x: Array, target: Array, mask: Array) -> Params:
        gradient = funcgrad.grad(loss, debug_nans=True)(params, x, target, mask)
        return jax.tree.map(lambda p, ct: p - 0.1 * ct, params, gradient)

    print("\n--- a training step, in which example 5 is exactly right")
    right = target.at[5].set(jax.jit(model)(params, x, mask)[5])
    try:
        jax.block_until_ready(step(params, x, right, mask))
    except jax.errors.JaxRuntimeError as error:
        print(str(error).partition("NotFiniteError: ")[2])


if __name__ == "__main__":
    main()
