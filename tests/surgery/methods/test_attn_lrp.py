"""AttnLRP against the rules of Achtibat et al., in relevances, on a transformer block."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy.special import erf

from funcgrad.surgery.methods.relevance import attn_lrp, lrp

T, D = 4, 6
RNG = np.random.default_rng(8)
P = {
    name: (RNG.normal(size=shape) / np.sqrt(D), 0.2 * RNG.normal(size=shape[1]))
    for name, shape in {
        "q": (D, D), "k": (D, D), "v": (D, D), "o": (D, D), "up": (D, 8), "down": (8, D), "out": (D, 3),
    }.items()
}  # fmt: skip
GAIN, SHIFT = 1 + 0.2 * RNG.normal(size=D), 0.2 * RNG.normal(size=D)
X = RNG.normal(size=(T, D))


def block(x):
    def dense(name, h):
        return h @ P[name][0].astype(np.float32) + P[name][1].astype(np.float32)

    def norm(h):
        centred = h - jnp.mean(h, -1, keepdims=True)
        variance = jnp.mean(centred**2, -1, keepdims=True)
        return centred * lax.rsqrt(variance + 1e-5) * GAIN.astype(np.float32) + SHIFT.astype(
            np.float32
        )

    h = norm(x)
    q, k, v = (dense(name, h) for name in "qkv")
    weights = jax.nn.softmax(q @ k.T / np.sqrt(D).astype(np.float32))
    x = x + dense("o", weights @ v)
    x = x + dense("down", jax.nn.gelu(dense("up", norm(x)), approximate=False))
    return dense("out", x[-1])[1]


def by_definition() -> np.ndarray:
    """The relevance of the input, operation by operation, from the last to the first."""

    def dense(name, h):
        return h @ P[name][0] + P[name][1]

    def of_dense(name, h, relevance):  # epsilon rule, with a small epsilon
        z = dense(name, h)
        return h * ((relevance / (z + 1e-6 * np.sign(z))) @ P[name][0].T)

    def norm(h):
        scale = GAIN / np.sqrt(h.var(-1, keepdims=True) + 1e-5)
        return (h - h.mean(-1, keepdims=True)) * scale + SHIFT, scale

    def of_norm(h, relevance):  # a linear map with the standard deviation as a constant
        z, scale = norm(h)
        centring = np.eye(D) - 1 / D
        return h * ((relevance / z * scale) @ centring)

    def of_product(a, b, relevance):  # each factor is given half
        share = relevance / (2 * (a @ b))
        return a * (share @ b.T), b * (a.T @ share)

    h1, _ = norm(X)
    q, k, v = (dense(name, h1) for name in "qkv")
    scores = q @ k.T / np.sqrt(D)
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    mixed = weights @ v
    attended = dense("o", mixed)
    x2 = X + attended
    h2, _ = norm(x2)
    up = dense("up", h2)
    active = up * (1 + erf(up / np.sqrt(2))) / 2
    down = dense("down", active)
    x3 = x2 + down

    relevance = np.zeros((T, D))
    seed = np.eye(3)[1] * dense("out", x3[-1])
    relevance[-1] = of_dense("out", x3[-1], seed)
    of_down, of_x2 = relevance * down / x3, relevance * x2 / x3
    of_up = of_dense("down", active, of_down)  # the activation hands it on whole
    of_x2 = of_x2 + of_norm(x2, of_dense("up", h2, of_up))
    of_attended, of_x = of_x2 * attended / x2, of_x2 * X / x2
    of_weights, of_v = of_product(weights, v, of_dense("o", mixed, of_attended))
    of_scores = scores * (of_weights - weights * of_weights.sum(-1, keepdims=True))
    of_q, of_k = of_product(q, k.T, of_scores)
    of_h1 = of_dense("q", h1, of_q) + of_dense("k", h1, of_k.T) + of_dense("v", h1, of_v)
    return of_x + of_norm(X, of_h1)


@pytest.mark.parametrize("around", [lambda f: f, jax.jit], ids=["plain", "jit"])
def test_equals_the_definition(around):
    expected = by_definition()
    ours = around(attn_lrp(around(block)))(X.astype(np.float32))
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    others = lrp(block)(X.astype(np.float32))
    assert np.abs(others - expected).max() > 0.01 * np.abs(expected).max()


def test_a_flax_block_is_the_same_as_one_written_out():
    nn = pytest.importorskip("flax.linen")
    model = nn.MultiHeadDotProductAttention(num_heads=1, qkv_features=D)
    x = X.astype(np.float32)
    params = model.init(jax.random.key(0), x)
    of_flax = params["params"].items()
    own = {name: (p["kernel"].reshape(D, D), p["bias"].reshape(D)) for name, p in of_flax}

    def written(x):
        q, k, v = (x @ own[name][0] + own[name][1] for name in ("query", "key", "value"))
        mixed = jax.nn.softmax(q @ k.T / np.float32(np.sqrt(D))) @ v
        return jnp.sum((mixed @ own["out"][0] + own["out"][1])[-1])

    ours = attn_lrp(lambda x: jnp.sum(model.apply(params, x)[-1]))(x)
    np.testing.assert_allclose(ours, attn_lrp(written)(x), rtol=1e-3, atol=1e-4)
