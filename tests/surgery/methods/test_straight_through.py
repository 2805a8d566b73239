"""Straight-through gradients equal their papers' definitions, written with jax.lax.stop_gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad
from funcgrad.surgery.methods import saturating_vjp, softmax_vjp, straight_through
from tests.surgery.methods.models import MODELS, X

ROUNDINGS = {"round": jnp.round, "floor": jnp.floor, "ceil": jnp.ceil}
POINTS = jnp.array([-2.6, -1.0, -0.4, 0.0, 0.7, 1.0, 1.3])


def assert_equal(f, defined, *args, rules, jit=True):
    gradient = funcgrad.grad(f, rules=rules)
    found = (jax.jit(gradient) if jit else gradient)(*args)
    wanted = jax.grad(defined)(*args)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(wanted))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, wanted)


def passing(f, soft):
    """`f`, with the derivative of `soft`."""
    return lambda x: jax.lax.stop_gradient(f(x) - soft(x)) + soft(x)


@pytest.mark.parametrize("jit", [True, False], ids=["jit", "eager"])
@pytest.mark.parametrize("name", ROUNDINGS)
def test_rounding(name, jit):
    rounding = ROUNDINGS[name]
    defined = passing(rounding, lambda x: x)
    assert_equal(
        lambda x: jnp.sum(rounding(3 * x) ** 2),
        lambda x: jnp.sum(defined(3 * x) ** 2),
        POINTS,
        rules=straight_through(),
        jit=jit,
    )


@pytest.mark.parametrize("jit", [True, False], ids=["jit", "eager"])
def test_sign_has_the_derivative_of_hard_tanh(jit):
    x = POINTS[jnp.abs(POINTS) != 1]  # jnp.clip's derivative at a tie is one half
    defined = passing(jnp.sign, lambda x: jnp.clip(x, -1, 1))
    assert_equal(
        lambda x: jnp.sum(jnp.exp(jnp.sign(x) + 0.1 * x)),
        lambda x: jnp.sum(jnp.exp(defined(x) + 0.1 * x)),
        x,
        rules=straight_through(),
        jit=jit,
    )


def choose(scores):
    return jax.nn.one_hot(jnp.argmax(scores, axis=-1), scores.shape[-1])


@pytest.mark.parametrize("jit", [True, False], ids=["jit", "eager"])
def test_argmax_has_the_derivative_of_softmax(jit):
    values = jnp.arange(4.0) ** 2
    defined = passing(choose, jax.nn.softmax)
    assert_equal(
        lambda x: jnp.sum((choose(x) @ values) ** 2),
        lambda x: jnp.sum((defined(x) @ values) ** 2),
        X,
        rules=funcgrad.DEFAULT.override({choose: softmax_vjp}),
        jit=jit,
    )


@pytest.mark.parametrize("model", MODELS)
def test_an_activation_of_a_model_that_is_not_edited(model):
    params, apply = MODELS[model]()
    found = funcgrad.grad(
        lambda params: jnp.sum(jnp.sign(apply(params, X)) * X[:, :2]), rules=straight_through()
    )(params)
    wanted = jax.grad(lambda params: jnp.sum(jnp.clip(apply(params, X), -1, 1) * X[:, :2]))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, wanted)


def test_layers_of_a_scan():
    w = jax.random.normal(jax.random.key(3), (3, 4, 4))

    def loss(sign):
        layer = lambda h, w: (sign(h @ w), None)
        return lambda w: jnp.sum(jax.lax.scan(layer, X, w)[0] * X)

    defined = passing(jnp.sign, lambda x: jnp.clip(x, -1, 1))
    assert_equal(loss(jnp.sign), loss(defined), w, rules=straight_through())


def test_at_one_place_alone():
    def f(x):
        with jax.named_scope("quantized"):
            y = jnp.round(x)
        return jnp.sum(y * jnp.round(3 * x))

    rules = straight_through(at=funcgrad.at("quantized"))
    np.testing.assert_array_equal(funcgrad.grad(f, rules=rules)(POINTS), np.round(3 * POINTS))
    assert not np.any(funcgrad.grad(f)(POINTS))


def test_a_function_of_a_model_may_have_either_rule():
    def binarize(x):
        return jnp.where(x > 0, 1.0, -1.0)

    rules = funcgrad.DEFAULT.override({binarize: saturating_vjp})
    found = funcgrad.grad(lambda x: jnp.sum(binarize(x)), rules=rules)(POINTS)
    np.testing.assert_array_equal(found, np.abs(POINTS) <= 1)
