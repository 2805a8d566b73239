"""Arguments with leaves that are no arrays, and arguments without values."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad
from funcgrad import errors
from funcgrad.inspect.arrays import on_arrays

X = jnp.arange(3.0)
MODEL = {"w": jnp.ones((2, 3)), "activation": jnp.tanh, "name": "dense"}


def loss(model, x):
    return jnp.sum(model["activation"](model["w"] @ x))


def test_leaves_that_are_no_arrays_are_closed_over_and_names_stay():
    found = funcgrad.inspect.graph(loss, MODEL, X)
    assert [tensor.name for tensor in found.inputs] == ["model['w']", "x"]
    alone = jax.grad(lambda w: loss({**MODEL, "w": w}, X))(MODEL["w"])
    np.testing.assert_allclose(found.inputs[0].gradient, alone, rtol=1e-6)
    ledger = funcgrad.inspect.residuals(loss, MODEL, X)
    assert sorted(entry.name for entry in ledger.of("argument")) == ["model['w']", "x"]
    (row,) = funcgrad.inspect.flow(loss, MODEL, X).rows()
    np.testing.assert_allclose(row["gradient_norm"], jnp.linalg.norm(alone), rtol=1e-6)
    assert funcgrad.inspect.cost(loss, MODEL, X, xla=False).function.transcendentals == 2
    assert not funcgrad.inspect.nonfinite(loss, MODEL, X)


def test_arrays_types_and_references_stay():
    args = X, jax.ShapeDtypeStruct((), jnp.float32), 1.0, jax.new_ref(X)
    assert on_arrays(loss, args) == (loss, args)


def test_a_value_that_is_not_finite_is_not_sought_without_values():
    with pytest.raises(errors.InputError, match=r"\[1\] of its arguments has no values.*Pass arr"):
        funcgrad.inspect.nonfinite(jnp.dot, X, jax.ShapeDtypeStruct((3,), jnp.float32))
