"""Rows for the functions that have a rule of ours."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import numpy as np
import pytest
from jax.experimental.sparse import linalg as sparse_linalg

import funcgrad
from funcgrad import errors
from funcgrad.keys import op_key
from funcgrad.rules import functions
from tests.compare import assert_same
from tests.rules.cases import Case, normal

CASES = [
    Case(jax.nn.relu, jax.nn.relu, (normal(3, 4),)),
    Case(jax.nn.relu, lambda x: jax.nn.relu(x[:, None] * x[None]), (normal(3),), "broadcast"),
    Case(jax.nn.relu, jax.nn.relu, (normal(0, 2),), "empty"),
]

SPECIAL = [
    Case(
        jax.nn.relu,
        jax.nn.relu,
        (np.array([0.0, -0.0, np.inf, -np.inf, np.nan]),),
        "special",
        order=1,
        smooth=False,
    ),
]

TESTED_APART = (
    functions.eigh_tridiagonal,
    functions.lobpcg_of_matrix,
    functions.lobpcg_of_callable,
)

D, E = normal(5), normal(4, seed=1) + 0.1
WEIGHTS = np.arange(1.0, 6.0)
MATRICES = WEIGHTS[:, None] * normal(5, 5, seed=2)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize(
    ("op", "fun"),
    [
        (functions.eigh_tridiagonal, jsl.eigh_tridiagonal),
        (functions.lobpcg_of_matrix, sparse_linalg._lobpcg_standard_matrix),
        (functions.lobpcg_of_callable, sparse_linalg._lobpcg_standard_callable),
    ],
    ids=["eigh_tridiagonal", "lobpcg of a matrix", "lobpcg of a callable"],
)
def test_the_op_is_the_function(op, fun):
    assert op == op_key(fun)


def dense(d, e):
    return jnp.diag(d) + jnp.diag(e, 1) + jnp.diag(jnp.conj(e), -1)


def gradients(ours, theirs, *args):
    every = tuple(range(len(args)))
    args = tuple(map(jnp.asarray, args))
    found = funcgrad.grad(ours, every)
    expected = jax.grad(theirs, every)(*args)
    assert_same(found(*args), expected, rtol=1e-9)
    assert_same(jax.jit(found)(*args), expected, rtol=1e-9)


@pytest.mark.parametrize(("first", "last"), [(0, 4), (1, 2), (4, 4)])
def test_eigenvalues_of_a_tridiagonal_matrix(first, last):
    chosen = {} if (first, last) == (0, 4) else {"select": "i", "select_range": (first, last)}
    weights = WEIGHTS[: last - first + 1]

    def ours(d, e):
        return jsl.eigh_tridiagonal(d, e, eigvals_only=True, **chosen) @ weights

    def theirs(d, e):
        return jnp.linalg.eigvalsh(dense(d, e))[first : last + 1] @ weights

    gradients(ours, theirs, D, E)
    phases = np.exp(1j * np.arange(4.0))
    gradients(lambda e: ours(D + 0j, e), lambda e: theirs(D, e), E * phases)


def test_eigenvectors_of_a_tridiagonal_matrix():
    total = lambda w, v: jnp.sum(v**2 * MATRICES) + w[1]
    ours = lambda d, e: total(*jsl.eigh_tridiagonal(d, e))
    gradients(ours, lambda d, e: total(*jnp.linalg.eigh(dense(d, e))), D, E)


def test_second_order_of_eigenvalues():
    ours = lambda d: jsl.eigh_tridiagonal(d, jnp.asarray(E), eigvals_only=True) @ WEIGHTS
    theirs = lambda d: jnp.linalg.eigvalsh(dense(d, jnp.asarray(E))) @ WEIGHTS
    d, expected = jnp.asarray(D), jax.hessian(theirs)(D)
    assert_same(funcgrad.hessian(ours)(d), expected, rtol=1e-8)
    assert_same(jax.jacrev(funcgrad.grad(ours))(d), expected, rtol=1e-8)
    assert_same(jax.jacrev(jax.jit(funcgrad.grad(ours)))(d), expected, rtol=1e-8)


@pytest.mark.parametrize("jit", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_forward_mode_is_an_error_where_the_operations_have_another_derivative(jit):
    """JAX's forward mode goes through the bisection, and would return another number."""
    loss = lambda d: jsl.eigh_tridiagonal(d, E, eigvals_only=True) ** 2 @ WEIGHTS
    gradient = jit(funcgrad.grad(loss))
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(gradient, (jnp.asarray(D),), (jnp.asarray(WEIGHTS),))


def test_the_largest_eigenvalues():
    root = normal(16, 16, seed=3)
    matrix, start = root @ root.T, jnp.asarray(normal(16, 2, seed=4))
    weights = normal(16, 2, seed=5)
    total = lambda w, v: w[0] + 2 * w[1] + jnp.sum(v**2 * weights)

    def ours(half):
        return total(*sparse_linalg.lobpcg_standard(half + half.T, start, 300)[:2])

    def theirs(half):
        w, v = jnp.linalg.eigh(half + half.T)
        return total(w[:-3:-1], v[:, :-3:-1])

    gradients(ours, theirs, matrix / 2)
    by_start = funcgrad.grad(lambda x: sparse_linalg.lobpcg_standard(matrix, x)[0].sum())
    assert_same(by_start(start), jnp.zeros_like(start))


@pytest.mark.parametrize(
    "fun",
    [
        lambda d: jax.vmap(lambda d: jsl.eigh_tridiagonal(d, E, eigvals_only=True))(d[None]),
        lambda d: sparse_linalg.lobpcg_standard(
            lambda x: d[0] * jnp.arange(1.0, 17.0)[:, None] * x, jnp.asarray(normal(16, 2))
        )[0],
    ],
    ids=["vmap", "callable"],
)
def test_what_has_no_rule_is_an_error(fun):
    with pytest.raises(errors.NoDerivativeError, match=r"test_functions\.py"):
        funcgrad.grad(lambda d: jnp.sum(fun(d)))(jnp.asarray(D))


def test_vmap_of_the_gradient():
    each = funcgrad.grad(lambda d: jsl.eigh_tridiagonal(d, E, eigvals_only=True)[0])
    theirs = jax.grad(lambda d: jnp.linalg.eigvalsh(dense(d, E))[0])
    ds = jnp.stack([D, D + WEIGHTS])
    assert_same(jax.vmap(each)(ds), jax.vmap(theirs)(ds), rtol=1e-9)
