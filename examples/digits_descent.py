"""Adam on the digits, for examples that differ in how the gradient is made."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
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
    optimizer = optax.flatten(optax.adam(rate))  # one vector of all parameters compiles faster

    @jax.jit
    def step(params: Any, state: Any, batch: Digits) -> Any:
        _, gradient = value_and_gradient(params, *batch)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state

    state, rng = jax.jit(optimizer.init)(params), np.random.default_rng(seed)
    for _ in range(epochs):
        for batch in batches(digits, 64, rng):
            params, state = step(params, state, batch)
    return params


def accuracy(apply: Callable[..., Any], params: Any, digits: Digits) -> float:
    """The fraction of images whose class is the model's most probable one."""
    return float(jnp.mean(jnp.argmax(apply(params, digits.images), axis=-1) == digits.labels))
