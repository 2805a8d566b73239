"""Gradients exported with a symbolic dimension, run at two sizes, against jax.grad at these sizes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

import funcgrad

W = np.full((3, 3), 0.3, np.float32)


def steps(body: Any) -> Any:
    return lambda x: lax.scan(body, x, None, length=3)[0].sum()


def attention(x: Any) -> Any:
    q = x[None, :, None]
    return (jax.nn.dot_product_attention(q, q, q) ** 2).sum()


FUNCTIONS = {
    "sort": lambda x: (jnp.sort(x, 0) * x).sum(),
    "scan over the dimension": lambda x: lax.scan(lambda c, z: (jnp.sin(c) * z, c), x[0], x)[
        0
    ].sum(),
    "map": lambda x: lax.map(jnp.sin, x).sum(),
    "scan": steps(lambda c, _: (jnp.tanh(c @ W), c)),
    "scan, checkpoint": steps(jax.checkpoint(lambda c, _: (jnp.tanh(c @ W), c))),
    "fori_loop": lambda x: lax.fori_loop(0, 3, lambda i, c: jnp.sin(c), x).sum(),
    "cond": lambda x: lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, x).sum(),
    "checkpoint": jax.checkpoint(lambda x: jnp.sin(jnp.sin(x @ W)).sum()),
    "scatter": lambda x: (jnp.ones((3, 3)).at[jnp.zeros(x.shape[0], int)].set(x) ** 2).sum(),
    "scatter-add": lambda x: (jnp.ones((3, 3)).at[jnp.zeros(x.shape[0], int)].add(x) ** 2).sum(),
    "scatter-max": lambda x: (x.at[0].max(x[1]) ** 2).sum(),
    "scatter-mul": lambda x: x.at[0].multiply(x[1]).sum(),
    "gather": lambda x: (x[jnp.array([0, 1, 1])] ** 2).sum(),
    "slices": lambda x: (x[1:] ** 2).sum() + (x[::-1] * x).sum() + (x[::2] ** 2).sum(),
    "concatenate": lambda x: (jnp.concatenate([x, 2 * x]) ** 2).sum(),
    "pad": lambda x: (jnp.pad(x, ((1, 1), (0, 0))) ** 2).sum(),
    "max": lambda x: x.max(0).sum(),
    "cumsum": lambda x: (jnp.cumsum(x, 0) ** 2).sum(),
    "softmax": lambda x: (jax.nn.softmax(x @ W) ** 2).sum(),
    "logsumexp": lambda x: jax.nn.logsumexp(x, 0).sum(),
    "attention": attention,
    "pooling": lambda x: lax.reduce_window(x, -np.inf, lax.max, (2, 1), (1, 1), "VALID").sum(),
    "cholesky": lambda x: jnp.linalg.cholesky(jnp.eye(3) + x[:, :, None] * x[:, None]).sum(),
    "top_k": lambda x: (lax.top_k(x, 2)[0] ** 2).sum(),
    "vmap": lambda x: jax.vmap(lambda row: jnp.sin(row) @ W)(x).sum(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_exported_gradient(name):
    fun = FUNCTIONS[name]
    (rows,) = export.symbolic_shape("b", constraints=["b >= 3"])
    gradient = jax.jit(funcgrad.grad(fun))
    exported = export.export(gradient)(jax.ShapeDtypeStruct((rows, 3), np.float32))
    for size in (3, 5):
        x = np.random.default_rng(0).uniform(0.1, 0.9, (size, 3)).astype(np.float32)
        np.testing.assert_allclose(exported.call(x), jax.grad(fun)(x), rtol=1e-4, atol=1e-5)
