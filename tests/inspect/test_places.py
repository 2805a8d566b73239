"""The tree of places of a function."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

import funcgrad

X = jnp.ones(3)


def model(x):
    def step(h, x):
        with jax.named_scope("cell"):
            return jnp.tanh(h + x), jax.nn.relu(h)

    with jax.named_scope("encoder"):
        h, _ = lax.scan(step, x, jnp.ones((4, 3)))
    return lax.cond(h[0] > 0, jnp.sin, jnp.cos, h).sum()


def test_the_tree_has_scopes_loops_branches_and_operations():
    lines = str(funcgrad.inspect.places(model, X)).splitlines()
    heads = [line.split()[0] for line in lines]
    at = heads.index("encoder")
    assert lines[at + 2].strip() == "<scan of 4 steps>"
    assert lines[at + 3].strip() == "cell"
    assert "tanh" in heads
    assert "<branch" in heads
    assert any("f32[3]" in line and "test_places.py:" in line for line in lines)


def test_without_operations():
    shown = str(funcgrad.inspect.places(model, X, ops=False))
    assert "tanh" not in shown
    assert "cell" in shown


def test_every_scope_that_is_listed_can_be_selected():
    listed = funcgrad.inspect.places(model, X).scopes
    assert listed == ["encoder", "encoder/cell"]
    for scope in listed:
        _, taps = funcgrad.grad(model, taps={"x": funcgrad.at(scope)})(X)
        assert taps["x"].values


def test_types_stand_for_arguments():
    struct = jax.ShapeDtypeStruct((3,), jnp.float32)
    assert str(funcgrad.inspect.places(model, struct)) == str(funcgrad.inspect.places(model, X))
