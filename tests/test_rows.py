"""Jacobians in parts: the same values for any number of rows at once, and less memory."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad
from funcgrad.rows import equal_parts
from tests.compare import assert_same
from tests.test_transforms import FLOAT0, X

SIZES = [1, 4, np.int64(5), 100, "1KB"]
MATRICES = jax.random.normal(jax.random.key(0), (3, 64, 64)) / 8


def layers(x):
    for matrix in MATRICES:
        x = jnp.tanh(matrix @ x)
    return x


def tree(x):
    return {
        "wide": jnp.outer(x, x**2)[:2],
        "scalar": jnp.sum(x**3),
        "half": x[:2].astype("bfloat16"),
    }


def temporary_bytes(jacobian):
    compiled = jax.jit(jacobian).lower(jnp.ones(64)).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("chunk_size", SIZES)
@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_values_do_not_depend_on_the_parts(chunk_size, jit):
    ours = funcgrad.jacrev(tree, chunk_size=chunk_size)
    expected = jax.jacrev(tree)(X())
    assert_same((jax.jit(ours) if jit else ours)(X()), expected, rtol=1e-6)


def test_hessian_in_parts():
    def fun(x, y):
        return jnp.sum(jnp.sin(x) * y), {"aux": y}

    ours = funcgrad.hessian(fun, (0, 1), has_aux=True, chunk_size=2)
    expected = jax.hessian(fun, (0, 1), has_aux=True)(X(), X() + 1)
    assert_same(jax.jit(ours)(X(), X() + 1), expected, weak=False, rtol=1e-6)


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_integers_have_rows_too(jit):
    ours = funcgrad.jacrev(lambda x, n: x * n, (0, 1), allow_int=True, chunk_size=2)
    if jit:  # float0 cannot leave a jit, in JAX's as in ours
        dx = jax.jit(lambda x, n: ours(x, n)[0])(X(), 2)
        dn = np.zeros(3, FLOAT0)
    else:
        dx, dn = ours(X(), 2)
    assert_same((dx, dn), (2 * jnp.eye(3), np.zeros(3, FLOAT0)))


@pytest.mark.parametrize("outer", [jax.jacfwd, jax.jacrev, funcgrad.jacrev])
def test_it_is_differentiated_and_vmapped(outer):
    def fun(x):
        return jnp.sin(x) * x[0]

    ours = jax.jit(outer(funcgrad.jacrev(fun, chunk_size=2)))(X())
    assert_same(ours, jax.jacrev(jax.jacrev(fun))(X()), weak=False, rtol=1e-6)
    many = jax.jit(jax.vmap(funcgrad.jacrev(fun, chunk_size=2)))(jnp.stack([X(), X() + 1]))
    assert_same(many, jax.vmap(jax.jacrev(fun))(jnp.stack([X(), X() + 1])), rtol=1e-6)


def test_memory_is_that_of_a_part():
    whole = temporary_bytes(funcgrad.jacrev(layers))
    assert temporary_bytes(funcgrad.jacrev(layers, chunk_size=8)) < whole / 3
    assert whole == temporary_bytes(funcgrad.jacrev(layers, chunk_size=64))


@pytest.mark.parametrize("budget", [3_000, 10_000])
def test_memory_is_within_the_budget(budget):
    residuals = temporary_bytes(funcgrad.jacrev(layers, chunk_size=1))
    used = temporary_bytes(funcgrad.jacrev(layers, chunk_size=f"{budget}B"))
    assert budget / 4 < used < budget + residuals


def test_a_budget_below_one_row_says_what_a_row_takes():
    with pytest.raises(
        funcgrad.errors.BudgetError, match=r"within 100 B, 100 bytes.*takes [\d,]+\."
    ):
        funcgrad.jacrev(layers, chunk_size="100 B")(jnp.ones(64))


@pytest.mark.parametrize("chunk_size", [0, -1, 2.0, True, "many", (1,)])
def test_other_chunk_sizes_are_refused(chunk_size):
    with pytest.raises(funcgrad.errors.InputError, match="chunk_size="):
        funcgrad.jacrev(layers, chunk_size=chunk_size)


@pytest.mark.parametrize(
    ("total", "most", "size"), [(512, 100, 64), (512, 64, 64), (7, 3, 3), (10, 4, 4), (10, 6, 5)]
)
def test_parts_are_equal_where_they_can_be(total, most, size):
    assert equal_parts(total, most) == size
