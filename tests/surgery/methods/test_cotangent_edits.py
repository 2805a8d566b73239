"""Reversed and clipped cotangents equal their papers' definitions, written out as a custom_vjp."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad
from funcgrad.surgery.methods import clipped_at, norm_clipped_at, reversed_at
from tests.surgery.methods.models import MODELS, X, matrices, plain

HIDDEN = funcgrad.at(op="tanh")

DEFINITIONS = {
    "reversed": (reversed_at(HIDDEN, 0.3), lambda ct: -0.3 * ct),
    "clipped": (clipped_at(HIDDEN, 0.5), lambda ct: np.minimum(np.maximum(ct, -0.5), 0.5)),
    "norm": (
        norm_clipped_at(HIDDEN, 0.5),
        lambda ct: ct * np.minimum(1, 0.5 / np.linalg.norm(ct)),
    ),
    "norm of each example": (
        norm_clipped_at(HIDDEN, 0.8, axis=-1),
        lambda ct: ct * np.minimum(1, 0.8 / np.linalg.norm(ct, axis=-1, keepdims=True)),
    ),
}


def by_hand(change):
    """The gradient of ``sum(z**2)`` by both matrices, where the hidden layer's cotangent is changed."""
    params, _ = plain()
    w, v = (np.asarray(params[name], np.float64) for name in ("hidden", "out"))
    x = np.asarray(X, np.float64)
    h = np.tanh(x @ w)
    ct_z = 2 * h @ v
    ct_h = ct_z @ v.T
    changed = change(ct_h)
    assert not np.allclose(changed, ct_h)
    return [x.T @ (changed * (1 - h**2)), h.T @ ct_z]


@pytest.mark.parametrize("jit", [True, False], ids=["jit", "eager"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", DEFINITIONS)
def test_equals_the_definition(name, model, jit):
    edit, change = DEFINITIONS[name]
    if (name, model) == ("norm of each example", "equinox"):
        edit = norm_clipped_at(HIDDEN, 0.8, axis=0)  # vmap puts the examples last
    params, apply = MODELS[model]()
    gradient = funcgrad.grad(lambda params, x: jnp.sum(apply(params, x) ** 2), edit=edit)
    found = (jax.jit(gradient) if jit else gradient)(params, X)
    wanted = by_hand(change)
    for got, want in zip(matrices(found), wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_each_step_of_a_scan(name):
    edit, change = DEFINITIONS[name]
    w = jnp.array([[0.5, -2.0, 1.0], [2.0, 0.3, 1.0], [1.0, 0.7, -1.5]])

    def loss(x):
        return jnp.sum(jax.lax.scan(lambda h, _: (jnp.tanh(h @ w), None), x, length=3)[0] ** 3)

    x = X[:, :3]
    states = [np.asarray(x, np.float64)]
    for _ in range(3):
        states.append(np.tanh(states[-1] @ np.asarray(w)))
    ct = 3 * states[-1] ** 2
    for h in states[:0:-1]:
        ct = (change(ct) * (1 - h**2)) @ np.asarray(w).T
    found = jax.jit(funcgrad.grad(loss, edit=edit))(x)
    np.testing.assert_allclose(found, ct, rtol=1e-4, atol=1e-6)


def test_a_cotangent_of_zeros_has_no_norm_to_divide_by():
    edit = norm_clipped_at(funcgrad.at(op="sin"), 1.0)
    np.testing.assert_array_equal(funcgrad.grad(lambda x: 0 * jnp.sin(x), edit=edit)(1.0), 0)
