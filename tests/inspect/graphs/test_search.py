"""Selectors of `funcgrad.at` in a graph."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

import funcgrad
from funcgrad import at, errors
from funcgrad.inspect import graph
from tests.inspect.graphs.models import X


def layer(x):
    return jnp.tanh(x) * 2.0


def model(x):
    with jax.named_scope("encoder"):
        x = checkpoint_name(layer(x), "code")
    with jax.named_scope("decoder"):
        x = jax.jit(layer)(x)
    return jnp.sin(x).sum()


@pytest.mark.parametrize(
    ("selector", "ops", "values"),
    [
        (at(op="sin"), ["sin"], ["sin"]),
        (at("encoder"), ["tanh", "mul", "name"], ["name"]),
        (at("decoder"), ["jit", "tanh", "mul"], ["jit"]),
        (at(name="code"), ["name"], ["name"]),
        (at(function=layer), ["tanh", "mul", "jit", "tanh", "mul"], ["mul", "jit"]),
        (at(op="tanh") & at("encoder"), ["tanh"], ["tanh"]),
        (at(op="tanh") | at(op="sin"), ["tanh", "tanh", "sin"], ["tanh", "tanh", "sin"]),
        (at(op="tanh")[1], ["tanh"], ["tanh"]),
        (at(where=lambda place: place.op.name == "reduce_sum"), ["reduce_sum"], ["reduce_sum"]),
    ],
    ids=str,
)
def test_selectors(selector, ops, values):
    found = graph(model, X).find(selector)
    assert [node.op.name for node in found] == ops
    assert [value.maker.op.name for value in found.values] == values


def test_values_are_those_that_a_tap_gives():
    selector = at("encoder")
    _, tapped = funcgrad.grad(model, taps={"x": selector})(X)
    value = graph(model, X).find(selector).value
    np.testing.assert_allclose(value.value, tapped["x"].value, rtol=1e-6)
    np.testing.assert_allclose(value.gradient, tapped["x"].cotangent, rtol=1e-6)


def test_inside_a_carried_graph():
    found = graph(model, X)
    (call,) = found.find(at(op="jit")).nodes
    assert len(call.graphs[0].find(at(op="tanh"))) == 1


def test_near_misses():
    with pytest.raises(
        errors.SelectorError, match=r"A search of `model.*\n- scopes there: encoder"
    ):
        graph(model, X).find(at("encodr"))


def test_no_selector():
    with pytest.raises(errors.SelectorError, match=r"graph\.find was given 'encoder', a str"):
        graph(model, X).find("encoder")


def test_one_is_asked_for_and_there_are_more():
    with pytest.raises(errors.SelectorError, match="means 2"):
        _ = graph(model, X).find(at(op="tanh")).node
