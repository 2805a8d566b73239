"""A deep sigmoid network that does not learn, why, and its repair.

    python examples/gradient_flow.py

Fifteen layers on the digits that scikit-learn ships. A name scope for each layer is all that the flow
needs; it is computed in every 100th step of training, inside jit. Writes gradient_flow.png and
gradient_flow_repaired.png.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from sklearn.datasets import load_digits

import funcgrad
from funcgrad.inspect import value_grad_and_flow

Params = list[dict[str, Array]]
Activation = Callable[[Array], Array]
SIZES = [64] * 15 + [10]


def initial() -> Params:
    """Weights of variance 1 / inputs, and no bias."""
    keys = jax.random.split(jax.random.key(0), len(SIZES) - 1)
    return [
        {"w": jax.random.normal(key, (a, b)) / a**0.5, "b": jnp.zeros(b)}
        for key, a, b in zip(keys, SIZES[:-1], SIZES[1:], strict=True)
    ]


def logits(params: Params, x: Array, activation: Activation) -> Array:
    for i, p in enumerate(params):
        with jax.named_scope(f"layer_{i:02}"):
            x = x @ p["w"] + p["b"]
            x = x if p is params[-1] else activation(x)
    return x


def train(name: str, activation: Activation, steps: int) -> None:
    digits, optimizer, params = load_digits(), optax.adam(1e-3), initial()
    x, y = jnp.asarray(digits.data, jnp.float32) / 8 - 1, jnp.asarray(digits.target)

    def loss(params: Params, x: Array, y: Array) -> Array:
        scores = logits(params, x, activation)
        return optax.softmax_cross_entropy_with_integer_labels(scores, y).mean()

    def step(params: Params, state: Any, x: Array, y: Array, watched: bool) -> Any:
        transform = value_grad_and_flow if watched else funcgrad.value_and_grad
        _, gradient, *flow = transform(loss)(params, x, y)
        updates, state = optimizer.update(gradient, state)
        flow = [found.with_updates(updates) for found in flow]
        return optax.apply_updates(params, updates), state, flow

    step, state = jax.jit(step, static_argnames="watched"), optimizer.init(params)
    for i, rows in enumerate(jax.random.randint(jax.random.key(1), (steps, 128), 0, 1500)):
        params, state, flow = step(params, state, x[rows], y[rows], watched=i % 100 == 0)
        for found in flow:
            log = found.log()  # a flat dict, for tensorboard or wandb
            print(f"step {i}: {log['flow/flags/vanishing']:.0f} layers vanish")
            if i == 0:
                print(found)
                found.to_figure(f"{name}.png")
    right = jnp.argmax(logits(params, x[1500:], activation), -1) == y[1500:]
    print(f"accuracy on digits that were not seen: {jnp.mean(right):.0%}\n")


def main(steps: int = 301) -> None:
    train("gradient_flow", jax.nn.sigmoid, steps)
    train("gradient_flow_repaired", jnp.tanh, steps)


if __name__ == "__main__":
    main()
