"""Quantum circuits of pennylane, which looks at its arguments through autoray."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import pytest

from tests.ecosystem.compare import check, draw, load

qml = load("pennylane")

pytestmark = pytest.mark.filterwarnings("ignore:jax.core.is_concrete is deprecated")


def circuit(weights: Any, x: Any) -> Any:
    qml.AngleEmbedding(x, wires=range(2))
    qml.StronglyEntanglingLayers(weights, wires=range(2))
    return qml.expval(qml.PauliZ(0) @ qml.PauliX(1)), qml.probs(wires=[1])


def test_circuit() -> None:
    node = qml.QNode(circuit, qml.device("default.qubit", wires=2), diff_method="backprop")

    def loss(weights: Any, x: Any) -> Any:
        value, probabilities = node(weights, x)
        return jnp.sin(value) + jnp.sum(probabilities**2)

    check(loss, draw(0, 1, 2, 3), draw(1, 2), argnums=(0, 1))


def test_operators() -> None:
    def loss(x: Any) -> Any:
        matrix = qml.matrix(qml.RX(x[0], 0) @ qml.RZ(x[1], 1))
        return jnp.sum(jnp.abs(qml.math.expand_matrix(matrix, [0, 1], wire_order=[0, 1, 2])) ** 4)

    check(loss, draw(0, 2), eager=True)
