"""Adam on the digits, for examples that differ in how the gradient is made."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from digits_data import Digits, batches


def descend(
    value_and_gradient: Callable[..., Any],
    params: Any,
    digits: Digits,
    epochs: int,
    rate: float = 3e-3,
    seed: int = 0,
) -> Any:
    """Return the parameters after so many epochs of Adam with batches of 64."""

    @jax.jit
    def step(state: Any, batch: Digits) -> Any:
        params, mean, square, count = state
        _, gradient = value_and_gradient(params, *batch)
        count = count + 1
        mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, gradient)
        square = jax.tree.map(lambda s, g: 0.999 * s + 0.001 * g**2, square, gradient)

        def moved(p: Any, m: Any, s: Any) -> Any:
            m, s = m / (1 - 0.9**count), s / (1 - 0.999**count)
            return p - rate * m / (jnp.sqrt(s) + 1e-8)

        return jax.tree.map(moved, params, mean, square), mean, square, count

    zeros = jax.tree.map(jnp.zeros_like, params)
    state = (params, zeros, zeros, jnp.float32(0))
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        for batch in batches(digits, 64, rng):
            state = step(state, batch)
    return state[0]


def accuracy(apply: Callable[..., Any], params: Any, digits: Digits) -> float:
    """The fraction of images whose class is the model's most probable one."""
    return float(jnp.mean(jnp.argmax(apply(params, digits.images), axis=-1) == digits.labels))
