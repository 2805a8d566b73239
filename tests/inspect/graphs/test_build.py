"""The graph of a function: its values and operations, at any depth."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

import funcgrad
from funcgrad.inspect import graph


def rnn(params, x):
    """A loop with a scope, a call and several results."""

    def step(carry, w):
        return jnp.tanh(w @ carry), carry.sum()

    with jax.named_scope("layers"):
        carry, sums = lax.scan(step, x, params["w"])
    return carry.sum() + sums.sum()


ARGS = {"w": jnp.ones((5, 3, 3))}, jnp.ones(3)


def test_values_know_who_makes_and_who_reads_them():
    found = graph(lambda x: jnp.sin(x) * x, 2.0)
    (x,) = found.inputs
    assert [(node.op.name, operand) for node, operand in x.readers] == [("sin", 0), ("mul", 1)]
    assert found.results[0].maker is found.nodes[-1]
    assert all(
        node in [reader for reader, _ in t.readers] for node in found.nodes for t in node.inputs
    )


def test_an_op_is_one_object_for_all_its_nodes():
    found = graph(lambda x: jnp.sin(jnp.sin(x)), 2.0)
    one, other = (node.op for node in found.nodes)
    assert one is other
    assert one.backward is funcgrad.DEFAULT[lax.sin_p]
    assert "lax.cos(x" in one.formula


def test_a_loop_holds_the_graph_of_its_body():
    found = graph(rnn, *ARGS)
    (loop,) = [node for node in found.nodes if node.op.name == "scan"]
    (body,) = loop.graphs
    assert loop.scope == "layers"
    assert sorted(node.op.name for node in body.nodes) == ["dot_general", "reduce_sum", "tanh"]
    assert {outer.name: inner.shape for outer, inner in body.entering()} == {
        "x": (3,),
        "params['w']": (3, 3),
    }


def test_names_and_types_of_arguments():
    found = graph(rnn, *ARGS)
    assert [(t.name, t.shape, str(t.dtype)) for t in found.inputs] == [
        ("params['w']", (5, 3, 3), "float32"),
        ("x", (3,), "float32"),
    ]


def test_a_while_loop_holds_its_body_and_its_condition():
    def loop(x, most, step):
        return lax.while_loop(lambda y: jnp.sin(y) < most, lambda y: y + step, x)

    found = graph(loop, 0.0, 0.9, 0.25)
    body, test = found.nodes[0].graphs
    assert [node.op.name for node in body.nodes] == ["add"]
    assert [node.op.name for node in test.nodes] == ["sin", "lt"]
    assert [outer.name for outer, _ in body.entering()] == ["step", "x"]
    assert [outer.name for outer, _ in test.entering()] == ["most", "x"]
    assert not test.leaving()
    assert not test.carried()
    assert not any(tensor.is_active or tensor.value is not None for tensor in test.tensors)
    numbers = [node.index for node in found.walk()]
    assert numbers == [*range(4)]
    svg = found.to_svg(view=1)
    assert svg.count('class="op"') == 3
