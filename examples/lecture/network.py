"""The lecture's network: two inputs, three hidden units with a sigmoid, one output, a squared loss.

Its output is 10.1, its target 12.1, and so its loss is 4.

The weights have the lecture's names: ``w12`` leads from input ``x1`` to the hidden unit ``k2``, and
``v2`` from ``h2`` to the output. In the matrix `W` the row is where a weight leads, so ``w12`` is
``W[1, 0]``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

WEIGHTS = {
    "w11": 2 - math.log(9), "w21": -1.0,
    "w12": 1.0, "w22": -0.5,
    "w13": math.log(9) - 2, "w23": 1.0,
    "v1": 1.0, "v2": 2.0, "v3": 10.0,
}  # fmt: skip
"""Chosen so that the hidden units are 0.1, 0.5 and 0.9, and the output 10.1."""

DATA = {"x1": 1.0, "x2": 2.0, "t": 12.1}
"""The inputs and the target."""

W = np.array([[WEIGHTS[f"w{i}{j}"] for i in (1, 2)] for j in (1, 2, 3)])
V = np.array([WEIGHTS[f"v{j}"] for j in (1, 2, 3)])
X, T = np.array([DATA["x1"], DATA["x2"]]), np.array(DATA["t"])


def values(
    w11: Any, w21: Any, w12: Any, w22: Any, w13: Any, w23: Any, v1: Any, v2: Any, v3: Any,
    x1: Any, x2: Any, t: Any, *, sigmoid: Callable[[Any], Any] = jax.nn.sigmoid,
) -> dict[str, Any]:  # fmt: skip
    """The values that the network computes, by their names: k1 to k3, h1 to h3, y and loss.

    Each operation is a statement of its own, so that a drawn graph has these names. The function takes
    whatever can be added and multiplied: numbers, JAX's arrays, or the nodes of `lecture.scalar` with a
    sigmoid for them.
    """
    s11 = w11 * x1
    s21 = w21 * x2
    s12 = w12 * x1
    s22 = w22 * x2
    s13 = w13 * x1
    s23 = w23 * x2
    k1 = s11 + s21
    k2 = s12 + s22
    k3 = s13 + s23
    h1 = sigmoid(k1)
    h2 = sigmoid(k2)
    h3 = sigmoid(k3)
    m1 = v1 * h1
    m2 = v2 * h2
    m3 = v3 * h3
    y = m1 + m2 + m3
    error = y - t
    loss = error**2
    return {
        "k1": k1, "k2": k2, "k3": k3, "h1": h1, "h2": h2, "h3": h3, "y": y, "loss": loss,
    }  # fmt: skip


def named_loss(
    w11: Any, w21: Any, w12: Any, w22: Any, w13: Any, w23: Any, v1: Any, v2: Any, v3: Any,
    x1: Any, x2: Any, t: Any,
) -> Any:  # fmt: skip
    """The loss, from each weight by its name."""
    return values(w11, w21, w12, w22, w13, w23, v1, v2, v3, x1, x2, t)["loss"]


def loss(v: Any, w: Any, x: Any = X, t: Any = T) -> Any:
    """The loss, from the weights as a vector of shape (3,) and a matrix of shape (3, 2)."""
    k = w @ x
    h = jax.nn.sigmoid(k)
    y = v @ h
    return (y - t) ** 2
