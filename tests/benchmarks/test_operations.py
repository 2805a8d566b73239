"""Every differentiable op is measured, or it is said why it is not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad
from benchmarks.operations import LEFT_OUT, OPERATIONS, SIDES, weighted
from funcgrad.registry import Rule


def name_of(op):
    return str(op).split(" at ")[0]


def test_every_op_with_a_rule_has_a_line_or_a_reason():
    lines = {name.split()[0] for name in OPERATIONS}
    left_out = {name for names in LEFT_OUT.values() for name in names.split()}
    rules = {name_of(op) for op, entry in funcgrad.DEFAULT.items() if isinstance(entry, Rule)}
    assert not rules - lines - left_out
    assert not lines & left_out


def test_arguments_grow_with_the_side():
    for name, operation in OPERATIONS.items():
        small, large = (
            sum(x.size for x in jax.eval_shape(lambda o=operation, s=s: o.make_args(o.sides[s])))
            for s in ("small", "large")
        )
        assert small < large, name
        assert [*operation.sides] == [*SIDES]


def test_the_loss_weighs_each_element_and_leaves_integers_out():
    found = weighted(lambda x: (x, x.astype(np.int32)), jnp.arange(20.0))
    weights = np.arange(20) % 16 / 16 + 0.5
    np.testing.assert_allclose(found, np.sum(weights * np.arange(20.0)), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
def test_gradients_of_an_operation_are_jax_grads(name):
    operation = OPERATIONS[name]
    args = operation.make_args(operation.sides["small"])
    every = tuple(i for i, x in enumerate(args) if jnp.issubdtype(x.dtype, jnp.inexact))

    def both(*args):
        grads = (
            f(lambda *xs: weighted(operation.fun, *xs), every) for f in (funcgrad.grad, jax.grad)
        )
        return tuple(f(*args) for f in grads)

    ours, expected = jax.jit(both)(*args)
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.max(np.abs(b)))
