"""A deep sigmoid network that does not learn, why, and its repair.

    python examples/gradient_flow.py

Fifteen layers on the 1,797 digits that scikit-learn ships. The flow shows where the gradient is lost; a
name scope for each layer is all that the network needs. Writes gradient_flow.png and
gradient_flow_repaired.png. The flow is computed in every 100th training step, inside jit.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from sklearn.datasets import load_digits

import funcgrad
from funcgrad.inspect import Flow, value_grad_and_flow

Params = list[dict[str, Array]]
LAYERS, WIDTH = 15, 64


def initial(gain: float) -> Params:
    """Weights of variance gain² / inputs, and no bias."""
    sizes = [64] + [WIDTH] * (LAYERS - 1) + [10]
    keys = jax.random.split(jax.random.key(0), LAYERS)
    return [
        {"w": gain * jax.random.normal(key, (a, b)) / np.sqrt(a), "b": jnp.zeros(b)}
        for key, a, b in zip(keys, sizes, sizes[1:], strict=True)
    ]


def logits(params: Params, x: Array, activation: Callable[[Array], Array]) -> Array:
    for i, p in enumerate(params):
        with jax.named_scope(f"layer_{i:02}"):
            x = x @ p["w"] + p["b"]
            if i < LAYERS - 1:
                x = activation(x)
    return x


def train(activation: Callable[[Array], Array], gain: float, steps: int) -> tuple[float, Flow]:
    """The accuracy on digits that it was not trained on, and the flow of the first step."""
    digits = load_digits()
    x, y = jnp.asarray(digits.data, jnp.float32) / 8 - 1, jnp.asarray(digits.target)
    optimizer, params = optax.adam(1e-3), initial(gain)

    def loss(params: Params, x: Array, y: Array) -> Array:
        losses = optax.softmax_cross_entropy_with_integer_labels(logits(params, x, activation), y)
        return jnp.mean(losses)

    def step(params: Params, state: Any, x: Array, y: Array, watched: bool = False) -> Any:
        transform = value_grad_and_flow if watched else funcgrad.value_and_grad
        value, gradient, *flow = transform(loss)(params, x, y)
        updates, state = optimizer.update(gradient, state)
        flow = [found.with_updates(updates) for found in flow]
        return optax.apply_updates(params, updates), state, value, flow

    step, state, first = jax.jit(step, static_argnames="watched"), optimizer.init(params), None
    rows = jax.random.randint(jax.random.key(1), (steps, 128), 0, 1500)
    for i, batch in enumerate(rows):
        params, state, value, flow = step(params, state, x[batch], y[batch], watched=i % 100 == 0)
        for found in flow:
            log = found.log()  # for tensorboard or wandb
            print(
                f"step {i:4}  loss {value:.3f}  vanishing: {log['flow/flags/vanishing']:.0f} layers"
            )
            first = first or found
    right = jnp.argmax(logits(params, x[1500:], activation), -1) == y[1500:]
    assert first is not None
    return float(jnp.mean(right)), first


def main(steps: int = 301) -> None:
    cases = {"": (jax.nn.sigmoid, 1.0), "_repaired": (jax.nn.relu, np.sqrt(2))}
    for name, (activation, gain) in cases.items():
        accuracy, flow = train(activation, gain, steps)
        print(flow, f"\naccuracy {accuracy:.0%}\n")
        flow.figure(f"gradient_flow{name}.png")


if __name__ == "__main__":
    main()
