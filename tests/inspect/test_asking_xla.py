"""XLA compiles a gradient for its own figures only if there are few operations, or if it is asked."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

import funcgrad
from funcgrad.inspect import asking_xla

X = jnp.ones(3)


def five(x):
    return jnp.sum(jnp.sin(jnp.tanh(jnp.cos(x) * x)))


def residuals(fun, *args, **options):
    return funcgrad.inspect.residuals(fun, *args, suggest=False, **options)


@pytest.fixture
def compilations(monkeypatch):
    """The compilations that are asked of a lowered function."""
    found = []
    original = jax.stages.Lowered.compile

    def compile(lowered, *args, **options):
        found.append(lowered)
        return original(lowered, *args, **options)

    monkeypatch.setattr(jax.stages.Lowered, "compile", compile)
    return found


@pytest.mark.parametrize(
    ("look", "option", "count"), [(residuals, "compiled", 1), (funcgrad.inspect.cost, "xla", 2)]
)
def test_large_functions_are_compiled_only_if_asked(look, option, count, compilations, monkeypatch):
    assert "more than" not in str(look(five, X))
    assert len(compilations) == count
    monkeypatch.setattr(asking_xla, "MOST_COMPILED", 4)
    words = str(look(five, X))
    assert len(compilations) == count
    assert "5 operations are more than 4" in words
    assert f"Ask by {option}=True (on the command line --xla)" in words
    for asked, more in ((False, 0), (True, count)):
        assert "more than" not in str(look(five, X, **{option: asked}))
        assert len(compilations) == count + more
        count += more
