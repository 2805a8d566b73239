"""Traced values of ours, as other libraries see them."""

from __future__ import annotations

import gc

import jax
import jax.numpy as jnp
import pytest

import funcgrad
from funcgrad import _jax

PROGRAMS = {
    "plain": lambda look: look,
    "custom_jvp": lambda look: tangent_of(look),
    "scan": lambda look: lambda x: jax.lax.scan(lambda c, _: (look(c), None), x, None, 2)[0],
    "jit": lambda look: jax.jit(look),
}


def tangent_of(look):
    """A function whose jvp looks at its tangent."""
    fn = jax.custom_jvp(jnp.sin)
    fn.defjvp(lambda primals, tangents: (fn(*primals), look(tangents[0])))
    return fn


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_traced_value_is_of_a_class_of_jax(name):
    seen = []

    def look(x):
        seen.append((type(x).__module__.split(".")[0], x.__class__.__module__.split(".")[0]))
        return 2 * x

    funcgrad.grad(PROGRAMS[name](look))(1.0)
    assert seen
    assert set(seen) == {("jax", "jax")}


def test_so_are_all_classes_of_our_tracers():
    gc.collect()
    classes, found = [_jax.OwnTracer], []
    while classes:
        found.append(classes.pop())
        classes += found[-1].__subclasses__()
    assert {kind.__name__ for kind in found[1:]} >= {"TapeTracer"}
    assert all(kind.__module__.split(".")[0] == "jax" for kind in found[1:])
