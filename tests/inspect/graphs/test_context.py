"""What a rule reads on the way back: only the operands and outputs that its formula has."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from funcgrad.inspect import graph
from tests.inspect.graphs import models
from tests.inspect.graphs.models import W, X


def reads(fun, *args):
    """What the last operation's rule reads, by its own words."""
    found = graph(fun, *args, values=False)
    return [what for _, what in found.nodes[-1].context]


@pytest.mark.parametrize(
    ("fun", "args", "expected"),
    [
        (jnp.sin, (X,), ["operand 0"]),
        (jnp.tanh, (X,), ["output 0"]),
        (jnp.exp, (X,), ["output 0"]),
        (lambda x: -x, (X,), []),
        (lambda x, y: x + y, (X, X), []),
        (lambda x, y: x * y, (X, X), ["operand 0", "operand 1"]),
        (lambda x, y: x @ y, (W[0], X), ["operand 0", "operand 1"]),
        (lambda n, y: n.astype(float) * y, (jnp.arange(3), X), ["operand 0"]),
        (lambda x: x * jnp.ones(3), (X,), ["operand 1"]),
    ],
)
def test_what_rules_read(fun, args, expected):
    assert reads(fun, *args) == expected


def test_where_no_cotangent_arrives_nothing_is_read():
    assert reads(lambda x: jnp.sin(lax.stop_gradient(x)), X) == []


def test_the_values_are_those_of_the_graph():
    found = graph(models.lecture, 0.5, 2.0)
    tanh = found.nodes[1]
    assert tanh.context == [(tanh.outputs[0], "output 0")]


def test_calls_read_values_inside():
    found = graph(models.recurrent, W, X)
    loop = next(node for node in found.nodes if node.op.name == "scan")
    assert loop.residuals_inside
    assert loop.context == []
    assert not any(node.residuals_inside for node in loop.graphs[0].nodes)


def test_a_function_with_a_rule_reads_by_that_rule():
    found = graph(lambda x: jax.nn.relu(x).sum(), X)
    relu = found.nodes[0]
    assert (relu.op.name, relu.context) == ("relu", [(relu.outputs[0], "output 0")])
