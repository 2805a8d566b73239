"""Backpropagation on single numbers: what is known of each operation is its local derivative.

    x = Node(3.0, "x")
    f = x**2 + x
    backward(f)
    x.ct  # 7.0: the derivative of x² + x, 2x + 1

An operation computes its output and, by its formula, the derivatives of its output by its inputs: the
symbolic half. `backward` multiplies these numbers and adds up the products: the numeric half.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


class Node:
    """A number, the nodes it was computed from, and the derivative of the result by it.

    `local` has the derivative of this node by each of its `inputs`. `ct`, the cotangent, is the
    derivative of the result by this node; `backward` fills it in.
    """

    def __init__(
        self,
        value: float,
        name: str = "",
        inputs: Sequence[Node] = (),
        local: Sequence[float] = (),
    ) -> None:
        self.value, self.name = value, name
        self.inputs, self.local = inputs, local
        self.ct = 0.0

    def __add__(self, other: Node) -> Node:
        return Node(self.value + other.value, "+", (self, other), (1.0, 1.0))

    def __sub__(self, other: Node) -> Node:
        return Node(self.value - other.value, "-", (self, other), (1.0, -1.0))

    def __mul__(self, other: Node) -> Node:
        return Node(self.value * other.value, "*", (self, other), (other.value, self.value))

    def __neg__(self) -> Node:
        return Node(-self.value, "-", (self,), (-1.0,))

    def __pow__(self, n: int) -> Node:
        return Node(self.value**n, f"**{n}", (self,), (n * self.value ** (n - 1),))

    def named(self, name: str) -> Node:
        """This node, with a name of its own."""
        self.name = name
        return self

    def __repr__(self) -> str:
        return f"{self.name}: value {self.value:.6g}, ct {self.ct:.6g}"


def exp(x: Node) -> Node:
    """y = exp(x); dy/dx = y."""
    y = math.exp(x.value)
    return Node(y, "exp", (x,), (y,))


def sin_of_degrees(x: Node) -> Node:
    """y = sin(π x / 180); dy/dx = π / 180 cos(π x / 180)."""
    radians = math.radians(x.value)
    return Node(math.sin(radians), "sin", (x,), (math.pi / 180 * math.cos(radians),))


def reciprocal(x: Node) -> Node:
    """y = 1 / x; dy/dx = -1 / x²."""
    return Node(1 / x.value, "1/", (x,), (-1 / x.value**2,))


def sigmoid(x: Node) -> Node:
    """y = 1 / (1 + exp(-x)); dy/dx = y (1 - y)."""
    y = 1 / (1 + math.exp(-x.value))
    return Node(y, "sigmoid", (x,), (y * (1 - y),))


def tanh(x: Node) -> Node:
    """y = tanh(x); dy/dx = 1 - y²."""
    y = math.tanh(x.value)
    return Node(y, "tanh", (x,), (1 - y**2,))


def nodes_behind(result: Node) -> list[Node]:
    """The nodes that a result depends on and the result itself, each after its inputs."""
    order: list[Node] = []
    seen: set[Node] = set()
    waiting = [(result, False)]
    while waiting:
        node, inputs_are_listed = waiting.pop()
        if inputs_are_listed:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            waiting.append((node, True))
            waiting += [(source, False) for source in reversed(node.inputs)]
    return order


def backward(result: Node) -> list[Node]:
    """Fill in `ct` of every node that the result depends on, from the result back.

    A node that was used several times gets the sum of what comes back along each use. Returns the nodes,
    the inputs first.
    """
    order = nodes_behind(result)
    for node in order:
        node.ct = 0.0
    result.ct = 1.0
    for node in reversed(order):
        for source, slope in zip(node.inputs, node.local, strict=True):
            source.ct += node.ct * slope
    return order


def central_difference(function: Callable[[Any], Any], x: Any, step: float = 1e-6) -> np.ndarray:
    """The derivatives of a function of numbers, by moving one number of `x` at a time, in float64.

    Of each entry of `x` (a number or an array) it is (f(x + step) - f(x - step)) / (2 step), which knows
    no rules. Its error is of the order of step² and of 1e-16 / step.
    """
    x = np.asarray(x, np.float64)
    derivative = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        moved = np.zeros_like(x)
        moved[index] = step
        derivative[index] = (float(function(x + moved)) - float(function(x - moved))) / (2 * step)
    return derivative
