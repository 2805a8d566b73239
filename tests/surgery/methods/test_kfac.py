"""K-FAC's factors equal E[a a^T] and E[d d^T] of activations and cotangents that NumPy computes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcgrad import errors
from funcgrad.surgery.methods import kronecker_factors
from tests.surgery.methods.models import MODELS, X, plain


def moments(x):
    x = np.asarray(x, np.float64)
    return x.T @ x / len(x)


@pytest.mark.parametrize("jit", [True, False], ids=["jit", "eager"])
@pytest.mark.parametrize("model", MODELS)
def test_dense_layers(model, jit):
    params, apply = MODELS[model]()
    loss = lambda params, x: jnp.sum(apply(params, x[None]) ** 2)
    factors = kronecker_factors(loss, in_axes=(None, 0))
    found = (jax.jit(factors) if jit else factors)(params, X)

    w, v = (np.asarray(p, np.float64) for p in plain()[0].values())
    x = np.asarray(X, np.float64)
    h = np.tanh(x @ w)
    d_z = 2 * h @ v
    wanted = {"hidden": (x, d_z @ v.T * (1 - h**2)), "out": (h, d_z)}
    for name, pair in wanted.items():
        (of_layer,) = (f for path, f in found.items() if name in path)
        for got, want in zip((of_layer.a, of_layer.g), map(moments, pair), strict=True):
            np.testing.assert_allclose(got[0], want, rtol=1e-4, atol=1e-6)


def test_layers_of_a_scan_are_parts():
    w = jax.random.normal(jax.random.key(3), (3, 4, 4))
    loss = lambda w, x: jnp.sum(jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, w)[0] ** 2)
    found = jax.jit(kronecker_factors(loss, in_axes=(None, 0)))(w, X)[""]

    states = [np.asarray(X, np.float64)]
    for layer in np.asarray(w, np.float64):
        states.append(np.tanh(states[-1] @ layer))
    ct, d = 2 * states[-1], []
    for layer, after in zip(np.asarray(w, np.float64)[::-1], states[:0:-1], strict=True):
        d.insert(0, ct * (1 - after**2))
        ct = d[0] @ layer.T
    np.testing.assert_allclose(found.a, [moments(a) for a in states[:-1]], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.g, [moments(one) for one in d], rtol=1e-4, atol=1e-6)


def test_the_product_is_the_fisher_matrix_where_activations_and_cotangents_are_independent():
    # each of 3 inputs meets each of 3 labels, and z = x w is not in the cotangent: d = label
    x, labels = (jax.random.normal(jax.random.key(i), (3, n)) for i, n in ((0, 4), (1, 2)))
    pairs = jnp.repeat(x, 3, axis=0), jnp.tile(labels, (3, 1))
    loss = lambda w, x, label: x @ w @ label
    found = kronecker_factors(loss, in_axes=(None, 0, 0))(jnp.ones((4, 2)), *pairs)[""]
    gradients = jax.vmap(jax.grad(loss), (None, 0, 0))(jnp.ones((4, 2)), *pairs).reshape(9, 8)
    fisher = gradients.T @ gradients / 9
    np.testing.assert_allclose(np.kron(found.a[0], found.g[0]), fisher, rtol=1e-4, atol=1e-6)


def test_a_convolution_has_the_factors_of_its_patches():
    def loss(kernel, x):
        return jnp.sum(jax.lax.conv(x[None], kernel, (1, 1), "VALID") ** 2)

    kernel, x = jax.random.normal(jax.random.key(0), (2, 1, 2, 2)), X.reshape(5, 1, 2, 2)
    x = jnp.concatenate([x, x + 1], axis=-1)  # 2 by 4, so three patches
    found = kronecker_factors(loss, in_axes=(None, 0))(kernel, x)[""]
    patches = np.stack([np.asarray(x)[:, 0, :, i : i + 2].reshape(5, 4) for i in range(3)], 1)
    d = 2 * patches @ np.asarray(kernel).reshape(2, 4).T
    np.testing.assert_allclose(found.a[0], moments(patches.reshape(15, 4)), rtol=1e-4)
    np.testing.assert_allclose(found.g[0], 3 * moments(d.reshape(15, 2)), rtol=1e-4)


def squares(w, x):
    return jnp.sum(w**2) * x


def with_positions(params, x):
    return jnp.sum(((x + params["positions"]) @ params["w"]) ** 2)


@pytest.mark.parametrize(
    ("loss", "params", "x", "path"),
    [
        (squares, X, jnp.ones(2), "''"),
        (with_positions, {"positions": X, "w": X.T}, jnp.ones((2, *X.shape)), "\\['positions'\\]"),
    ],
    ids=["large", "small"],
)
def test_a_matrix_of_which_no_factors_are_known_is_an_error(loss, params, x, path):
    with pytest.raises(errors.FactorError, match=f"leave_out=.*{path}"):
        kronecker_factors(loss, in_axes=(None, 0))(params, x)


def test_a_matrix_is_left_out_where_that_is_asked_for():
    params, x = {"positions": jnp.zeros_like(X), "w": X.T}, jnp.stack([X, 2 * X])
    found = kronecker_factors(with_positions, in_axes=(None, 0), leave_out=["['positions']"])
    of_w = found(params, x)
    assert [*of_w] == ["['w']"]
    np.testing.assert_allclose(of_w["['w']"].a[0], moments(x.reshape(-1, X.shape[1])), rtol=1e-4)


def test_leaving_out_what_is_no_parameter_is_an_error():
    with pytest.raises(errors.FactorError, match="leave_out names b, and the parameters are"):
        kronecker_factors(with_positions, in_axes=(None, 0), leave_out=["b"])(
            {"positions": X, "w": X.T}, X[None]
        )
