"""Training steps on eight devices: values, types, shardings, collectives, memory, beside jax.grad's."""

from __future__ import annotations

from typing import Any

import jax
import pytest

import funcgrad
from tests.compare import assert_same
from tests.sharded_steps import LAYOUTS, collectives, make_args, step_of

QUICK = ("reduced", "tensor, fsdp")


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in LAYOUTS]
)
def test_a_step_is_that_of_jax_grad(name):
    layout = LAYOUTS[name]
    with jax.set_mesh(layout.mesh):
        args = make_args(layout)
        ours, reference = (
            jax.jit(step_of(by, layout), donate_argnums=(0, 1)).lower(*args).compile()
            for by in (funcgrad.value_and_grad, jax.value_and_grad)
        )
        found, expected = ours(*copied(args)), reference(*copied(args))
        assert_same(found, expected, rtol=1e-5)
        for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert jax.typeof(x) == jax.typeof(y)
            assert x.sharding.is_equivalent_to(y.sharding, x.ndim)
    for key, ct in found[2].items():
        assert ct.sharding.is_equivalent_to(args[0][key].sharding, ct.ndim)
    counts, of_reference = collectives(ours), collectives(reference)
    assert sum(counts.values()) > 0
    assert all(count <= of_reference.get(kind, 0) for kind, count in counts.items())
    memory = [c.memory_analysis().temp_size_in_bytes for c in (ours, reference)]
    assert memory[0] <= memory[1]


def copied(args: Any) -> Any:
    """Arguments of which the first two may be donated."""
    return *jax.tree.map(jax.numpy.copy, args[:2]), *args[2:]
