"""Values are called as in the source where that is certain, and never wrongly."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from funcgrad.inspect import graph
from tests.inspect.graphs import models
from tests.inspect.graphs.models import W, X


def made(fun, *args):
    """By the operation's name, the names of its first outputs, in the order of the run."""
    found: dict[str, list[str]] = {}
    for node in graph(fun, *args, values=False).walk():
        found.setdefault(node.op.name, []).append(node.outputs[0].name)
    return found


def test_a_statement_that_assigns_to_one_name():
    def fun(w, x):
        h = jnp.tanh(w @ x)
        total: jax.Array = h.sum()
        total *= 2.0
        tail = (
            h[1:] *
            h[:2]
        )  # fmt: skip
        return total + tail.sum()

    found = made(fun, W[0], X)
    assert found["tanh"] == ["h"]
    assert found["reduce_sum"][0] == "total"
    assert found["mul"] == ["total.2", "tail"]
    assert found["dot_general"] == ["a"]


def test_names_of_arguments_inside_too():
    found = graph(models.recurrent, W, X, values=False)
    (body,) = next(node.graphs for node in found.nodes if node.graphs)
    assert [tensor.name for tensor in found.inputs] == ["w", "x"]
    assert "carry" in [tensor.name for tensor in body.inputs]
    assert [n.outputs[0].name for n in body.nodes if n.op.name == "dot_general"] == ["z"]


def test_the_name_of_checkpoint_name():
    def fun(x):
        return checkpoint_name(jnp.sin(x), "sines") * 2

    assert made(fun, X)["name"] == ["sines"]


def first_of_two(x):
    """Returns what is not computed last."""
    first = jnp.sin(x)
    jnp.cos(x)
    return first


@pytest.mark.parametrize(
    ("fun", "op"),
    [
        (lambda x: first_of_two(x) * 2, "cos"),
        pytest.param(lambda x: _of_call(x), "cos", id="a call of the user's own"),
        pytest.param(lambda x: _of_tuple(x), "sin", id="a tuple"),
        pytest.param(lambda x: _of_slogdet(x), "reduce_sum", id="several results"),
        pytest.param(lambda x: _of_shape(x), "sin", id="a part of the expression"),
        pytest.param(lambda x: _of_list(x), "cos", id="a list"),
        pytest.param(lambda x: _of_scan(x), "scan", id="a loop"),
        pytest.param(lambda x: _by_exec(x), "sin", id="no source"),
    ],
)
def test_where_it_is_not_certain_a_letter(fun, op):
    names = made(fun, X)[op]
    assert all(len(name) <= 2 for name in names), names


def _of_call(x):
    wrong = first_of_two(x)
    return wrong * 2


def _of_tuple(x):
    wrong, other = jnp.sin(x), jnp.cos(x)
    return wrong * other


def _of_slogdet(x):
    wrong = jnp.linalg.slogdet(jnp.outer(x, x) + jnp.eye(3))
    return wrong.logabsdet


def _of_shape(x):
    wrong = jnp.sin(x).shape[0] * 2
    return x * wrong


def _of_list(x):
    wrong = [jnp.sin(x), jnp.cos(x)]
    return wrong[0] * wrong[1]


def _of_scan(x):
    wrong = lax.scan(lambda c, _: (jnp.sin(c), None), x, None, 2)
    return wrong[0]


def _by_exec(x):
    names: dict = {}
    exec("import jax.numpy as jnp\ndef fun(x):\n    wrong = jnp.sin(x)\n    return wrong", names)
    return names["fun"](x)


def test_a_function_that_jax_traced_for_another_call_has_no_name_of_that_call():
    def fun(x):
        here = jnp.where(x > 0, x, 0.0)
        there = jnp.where(x > 0, x, 0.0)
        return here * there

    found = graph(fun, X, values=False)
    calls = [node for node in found.nodes if node.graphs]
    assert [call.outputs[0].name for call in calls] == ["here", "there"]
    inner = [node.outputs[0].name for call in calls for node in call.graphs[0].nodes]
    assert not {"here", "there"} & {name.split(".")[0] for name in inner}


def test_names_are_unique():
    def fun(x):
        for _ in range(3):
            x = jnp.sin(x) * 2.0
        return x

    found = graph(fun, X)
    names = [tensor.name for tensor in found.all_tensors() if tensor.kind != "literal"]
    assert len(names) == len(set(names))
    assert names.count("x") == 1
    assert "x.4" in names
