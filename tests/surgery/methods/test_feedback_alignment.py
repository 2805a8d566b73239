"""Feedback alignment and direct feedback alignment equal their papers' formulas in NumPy."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad
from funcgrad.surgery.methods import direct_feedback_alignment, feedback_alignment
from tests.surgery.methods.models import MODELS, X, matrices, plain

LEFT = {"plain": 1, "flax": 1, "equinox": 0}
"""Which operand of a product is the weight."""


def fixed(key, shape, terms):
    """A feedback matrix that is the same for a weight and for its transpose."""
    rows, columns = shape if shape[0] > shape[1] else shape[::-1]
    matrix = jnp.sin(1 + jnp.arange(rows * columns, dtype=jnp.float32)).reshape(rows, columns)
    return matrix if shape == matrix.shape else matrix.T


def forward(params):
    w, v = (np.asarray(p, np.float64) for p in params.values())
    x = np.asarray(X, np.float64)
    h = np.tanh(x @ w)
    return x, h, v, 2 * h @ v  # the cotangent of z = h @ v in sum(z**2)


@pytest.mark.parametrize("jit", [True, False], ids=["jit", "eager"])
@pytest.mark.parametrize("model", MODELS)
def test_feedback_alignment(model, jit):
    params, apply = MODELS[model]()
    rules = feedback_alignment(weight=LEFT[model], draw=fixed)
    gradient = funcgrad.grad(lambda params, x: jnp.sum(apply(params, x) ** 2), rules=rules)
    found = matrices((jax.jit(gradient) if jit else gradient)(params, X))

    x, h, v, e = forward(plain()[0])
    ct_h = e @ np.asarray(fixed(None, v.shape, 3), np.float64).T  # Lillicrap et al.: B e for V^T e
    for got, want in zip(found, [x.T @ (ct_h * (1 - h**2)), h.T @ e], strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_through_a_scan_over_layers():
    w = jax.random.normal(jax.random.key(3), (3, 4, 4))
    loss = lambda w: jnp.sum(jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), X, w)[0] ** 2)
    found = jax.jit(funcgrad.grad(loss, rules=feedback_alignment(draw=fixed)))(w)

    states = [np.asarray(X, np.float64)]
    for layer in np.asarray(w, np.float64):
        states.append(np.tanh(states[-1] @ layer))
    ct, wanted = 2 * states[-1], []
    for before, after in zip(states[-2::-1], states[:0:-1], strict=True):
        ct_z = ct * (1 - after**2)
        wanted.insert(0, before.T @ ct_z)
        ct = ct_z @ np.asarray(fixed(None, (4, 4), 4), np.float64).T
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_the_matrix_is_fixed_and_follows_from_the_seed():
    loss = lambda x, w: jnp.sum((x @ w) ** 3)
    w = plain()[0]["hidden"]
    gradient = lambda seed: funcgrad.grad(loss, rules=feedback_alignment(seed=seed))(X, w)
    np.testing.assert_array_equal(gradient(0), gradient(0))
    assert np.any(np.abs(gradient(0) - gradient(1)) > 1e-3)


def test_at_one_layer_alone():
    params, apply = plain()
    out = funcgrad.at(op="dot_general")[1]
    loss = lambda params: jnp.sum(apply(params, X) ** 2)
    first = funcgrad.grad(loss, rules=feedback_alignment(draw=fixed, at=~out))(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        first,
        jax.grad(loss)(params),
    )
    second = funcgrad.grad(loss, rules=feedback_alignment(draw=fixed, at=out))(params)
    assert np.any(np.abs(second["hidden"] - first["hidden"]) > 1e-2)


@pytest.mark.parametrize("jit", [True, False], ids=["jit", "eager"])
@pytest.mark.parametrize("model", MODELS)
def test_direct_feedback_alignment(model, jit):
    params, apply = MODELS[model]()
    gradient = direct_feedback_alignment(
        lambda params, x: jnp.sum(apply(params, x) ** 2),
        hidden=[funcgrad.at(op="tanh")],
        error=funcgrad.at(op="dot_general")[1],
        axis=0 if model == "equinox" else -1,
        draw=fixed,
    )
    value, found = (jax.jit(gradient) if jit else gradient)(params, X)

    x, h, v, e = forward(plain()[0])
    np.testing.assert_allclose(value, np.sum((h @ v) ** 2), rtol=1e-5)
    ct_h = e @ np.asarray(fixed(None, (2, 3), 2), np.float64)  # Nøkland: B_i e at each layer
    for got, want in zip(matrices(found), [x.T @ (ct_h * (1 - h**2)), h.T @ e], strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_the_error_reaches_each_step_of_a_scan():
    w = jax.random.normal(jax.random.key(3), (3, 4, 4))

    def loss(w):
        h, _ = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), X, w)
        with jax.named_scope("out"):
            z = 2 * h
        return jnp.sum(z**2)

    gradient = direct_feedback_alignment(
        loss, hidden=[funcgrad.at(op="tanh")], error=funcgrad.at("out"), draw=fixed
    )
    _, found = jax.jit(gradient)(w)
    states = [np.asarray(X, np.float64)]
    for layer in np.asarray(w, np.float64):
        states.append(np.tanh(states[-1] @ layer))
    ct_h = 4 * states[-1] @ np.asarray(fixed(None, (4, 4), 4), np.float64)
    wanted = [before.T @ (ct_h * (1 - after**2)) for before, after in itertools.pairwise(states)]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
