"""Keras 3 on JAX: a convolutional and a recurrent model, without their state."""

from __future__ import annotations

import os
from typing import Any

import jax.numpy as jnp
import pytest

from tests.ecosystem.compare import as_float64, check, draw, load

os.environ.setdefault("KERAS_BACKEND", "jax")
keras = load("keras")
layers = keras.layers


def convolutional() -> Any:
    return [
        layers.Input((6, 6, 2)),
        layers.Conv2D(3, 3, activation="gelu"),
        layers.BatchNormalization(),
        layers.MaxPooling2D(2),
        layers.Flatten(),
        layers.Dropout(0.3),
        layers.Dense(2, activation="softmax"),
    ]


def recurrent() -> Any:
    return [
        layers.Input((4, 3)),
        layers.LayerNormalization(),
        layers.LSTM(3),
        layers.Dense(2, activation="softmax"),
    ]


MODELS = {"convolutional": (convolutional, (2, 6, 6, 2)), "recurrent": (recurrent, (2, 4, 3))}


@pytest.mark.parametrize("name", MODELS)
def test_model(name: str) -> None:
    make, shape = MODELS[name]
    keras.utils.set_random_seed(0)
    model = keras.Sequential(make())
    trainable = [as_float64(v.value) for v in model.trainable_variables]
    others = [v.value for v in model.non_trainable_variables]
    target = jnp.array([[1.0, 0.0], [0.3, 0.7]])

    def loss(trainable: Any, x: Any) -> Any:
        y, _ = model.stateless_call(trainable, others, x, training=True)
        return keras.losses.categorical_crossentropy(target, y).mean()

    check(loss, trainable, draw(0, *shape), argnums=(0, 1), rtol=1e-5)  # layers compute in float32


def test_operations() -> None:
    ops = keras.ops

    def loss(x: Any) -> Any:
        mapped = ops.vectorized_map(lambda y: ops.tanh(y) * ops.max(y), x)
        return ops.sum(ops.einsum("ij,kj->ik", mapped, ops.softmax(x))) + ops.logsumexp(x)

    check(loss, draw(0, 3, 4), rtol=1e-5)  # parts are computed in float32
