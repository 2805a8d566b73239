"""Rounding equals ml_dtypes' casts, and backward products are those of rounded operands."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad
from funcgrad.surgery.methods import low_precision_products, rounded
from tests.surgery.methods.models import MODELS, X, matrices, plain

DTYPES = [jnp.bfloat16, jnp.float16, jnp.float8_e5m2, jnp.float8_e4m3fn]
NUMBERS = np.concatenate([
    np.random.default_rng(0).normal(size=1000) * 10.0 ** np.random.default_rng(1).integers(-4, 4, 1000),
    [0.0, 1.0, -1.0, 2.0**-9, 1.5 * 2.0**-9, 2.0**-16, 448.0],
]).astype(np.float32)  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: jnp.dtype(d).name)
def test_to_the_nearest_as_a_cast_rounds(dtype):
    in_range = NUMBERS[np.abs(NUMBERS) <= float(jnp.finfo(dtype).max)]
    cast = in_range.astype(jnp.dtype(dtype)).astype(np.float32)
    np.testing.assert_array_equal(jax.jit(rounded, static_argnums=1)(in_range, dtype), cast)
    assert np.any(cast != in_range)


@pytest.mark.parametrize("dtype", DTYPES[2:], ids=lambda d: jnp.dtype(d).name)
def test_what_is_too_large_becomes_the_largest_and_what_is_not_finite_stays(dtype):
    found = rounded(jnp.array([1e6, -1e6, jnp.inf, -jnp.inf, jnp.nan]), dtype)
    largest = float(jnp.finfo(dtype).max)
    np.testing.assert_array_equal(found, [largest, -largest, np.inf, -np.inf, np.nan])


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: jnp.dtype(d).name)
def test_stochastic_rounding_is_to_a_neighbour_and_right_on_average(dtype):
    x = jnp.array([1.03, -2.7, 0.11, 96.1])
    keys = jax.random.split(jax.random.key(0), 4000)
    found = np.asarray(jax.vmap(lambda key: rounded(x, dtype, key))(keys), np.float64)
    for column, value in zip(found.T, np.asarray(x, np.float64), strict=True):
        neighbours = np.unique(column)
        assert len(neighbours) == 2
        assert neighbours[0] < value < neighbours[1]
        np.testing.assert_array_equal(neighbours.astype(jnp.dtype(dtype)).astype(float), neighbours)
        error = (neighbours[1] - neighbours[0]) / 2 / np.sqrt(len(keys))
        assert abs(column.mean() - value) < 4 * error


def cast(x, dtype):
    return np.asarray(x, np.float32).astype(jnp.dtype(dtype)).astype(np.float64)


@pytest.mark.parametrize("jit", [True, False], ids=["jit", "eager"])
@pytest.mark.parametrize("model", MODELS)
def test_products_are_those_of_casts(model, jit):
    params, apply = MODELS[model]()
    rules = low_precision_products(jnp.float8_e5m2, jnp.float8_e4m3fn, scaled=False)
    gradient = funcgrad.grad(lambda params, x: jnp.sum(apply(params, x) ** 2), rules=rules)
    found = matrices((jax.jit(gradient) if jit else gradient)(params, X))

    w, v = (np.asarray(p, np.float64) for p in plain()[0].values())
    x = np.asarray(X, np.float64)
    h = np.tanh(x @ w)
    ct_z = cast(2 * h @ v, jnp.float8_e5m2)
    ct_h = ct_z @ cast(v, jnp.float8_e4m3fn).T
    ct_w = cast(x, jnp.float8_e4m3fn).T @ cast(ct_h * (1 - h**2), jnp.float8_e5m2)
    for got, want in zip(found, [ct_w, cast(h, jnp.float8_e4m3fn).T @ ct_z], strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_scaling_keeps_what_is_too_small_for_the_dtype():
    def loss(w, x):
        return 1e-8 * jnp.sum(x @ w)

    w = plain()[0]["hidden"]
    exact = jax.grad(loss)(w, X)
    lost = funcgrad.grad(loss, rules=low_precision_products(jnp.float8_e5m2, scaled=False))(w, X)
    kept = funcgrad.grad(loss, rules=low_precision_products(jnp.float8_e5m2))(w, X)
    assert not np.any(lost)
    np.testing.assert_allclose(kept, exact, rtol=0.25)


def test_stochastic_products_are_right_on_average():
    w, x, ct = plain()[0]["hidden"], X, 1 + jax.random.uniform(jax.random.key(3), (5, 3))
    loss = lambda w, ct: jnp.sum((x @ w) * ct)

    def mean(seed):
        rules = low_precision_products(jnp.float8_e5m2, seed=seed)
        noisy = jax.jit(jax.vmap(funcgrad.grad(loss, rules=rules), (None, 0)))
        return np.mean(noisy(w, ct * (1 + 1e-5 * jnp.arange(2000.0)[:, None, None])), axis=0)

    exact = jax.grad(loss)(w, ct * (1 + 1e-5 * 999.5))
    to_nearest = funcgrad.grad(loss, rules=low_precision_products(jnp.float8_e5m2))(w, ct)
    found = mean(0)
    assert np.max(np.abs(found - exact)) < 0.02
    assert np.max(np.abs(to_nearest - exact)) > 0.05
    assert np.any(found != mean(1))


def test_convolutions_and_scans():
    kernel = jax.random.normal(jax.random.key(3), (3, 3, 2, 2))

    def loss(kernel, x):
        layer = lambda x, _: (jax.lax.conv(x, kernel.transpose(3, 2, 0, 1), (1, 1), "SAME"), None)
        return jnp.sum(jax.lax.scan(layer, x, length=2)[0] ** 2)

    x = jax.random.normal(jax.random.key(4), (1, 2, 5, 5))
    exact = jax.grad(loss)(kernel, x)
    found = jax.jit(funcgrad.grad(loss, rules=low_precision_products(jnp.bfloat16)))(kernel, x)
    error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    assert 1e-4 < error < 1e-2  # bfloat16 has a relative error of 2^-9
