"""Decompositions, triangular and tridiagonal solves, and what numpy and scipy build of them.

Cotangents are random, so those of eigenvectors and singular vectors are not gauge invariant: JAX's
choice of the free scale must be met.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import numpy as np
import pytest
from jax import lax

import funcgrad
from funcgrad import errors
from tests.rules.alone import check_alone
from tests.rules.cases import Case, complex_normal, normal

la = lax.linalg


def plus_two(x: Any) -> Any:
    """The matrices with two more on their diagonals."""
    return x + 2 * jnp.broadcast_to(np.eye(x.shape[-1], dtype=x.dtype), x.shape)


def positive(x: Any) -> Any:
    """A positive definite matrix."""
    return plus_two(x @ x.conj().mT)


def triangular(**params: bool) -> Any:
    return lambda a, b: la.triangular_solve(plus_two(a), b, **params)


def qr(full: bool = False, pivoting: bool = False) -> Any:
    return lambda x: la.qr(x, full_matrices=full, pivoting=pivoting)


def svd(x: Any) -> Any:
    return la.svd(x, full_matrices=False)


def eig(left: bool, right: bool) -> Any:
    return lambda x: la.eig(
        x,
        compute_left_eigenvectors=left,
        compute_right_eigenvectors=right,
        enable_eigvec_derivs=True,
    )


def row(op: Any, fn: Any, args: tuple[Any, ...], name: str, **kwargs: Any) -> Case:
    return Case(op, fn, args, name, **{"rtol": 1e-10, **kwargs})


def special(op: Any, fn: Any, args: tuple[Any, ...], name: str) -> Case:
    return row(op, fn, args, name, smooth=False, order=1)


CHOLESKY, TRIANGULAR, TRIDIAGONAL = la.cholesky_p, la.triangular_solve_p, la.tridiagonal_solve_p
LU, QR, EIGH, SVD, EIG = la.lu_p, la.qr_p, la.eigh_p, la.svd_p, la.eig_p
SIDES = [(left, lower) for left in (True, False) for lower in (True, False)]

SOLVES = [
    *[
        row(
            TRIANGULAR,
            triangular(left_side=left, lower=lower, transpose_a=transpose, unit_diagonal=unit),
            (normal(3, 3), normal(3, 3, seed=5)),
            f"left={left}-lower={lower}-transpose={transpose}-unit={unit}",
            order=2 if transpose and unit else 1,
            vmap=transpose and unit,
        )
        for left, lower in SIDES
        for transpose in (True, False)
        for unit in (True, False)
    ],
    row(TRIANGULAR, triangular(left_side=True), (normal(2, 3, 3), normal(2, 3, 2)), "batch"),
    row(TRIANGULAR, triangular(), (normal(3, 3), normal(2, 3)), "rectangular-right"),
    row(
        TRIANGULAR,
        triangular(left_side=True, lower=True, transpose_a=True, conjugate_a=True),
        (complex_normal(3, 3), complex_normal(3, 2)),
        "complex-adjoint",
    ),
    row(
        TRIANGULAR,
        triangular(transpose_a=True),
        (complex_normal(3, 3), complex_normal(2, 3)),
        "complex-transpose",
    ),
    row(
        TRIANGULAR,
        triangular(conjugate_a=True, unit_diagonal=True),
        (complex_normal(3, 3), complex_normal(2, 3)),
        "complex-conjugate",
    ),
    row(TRIANGULAR, triangular(left_side=True), (normal(2, 2), normal(2, 0)), "empty"),
    row(
        TRIDIAGONAL,
        lambda low, middle, up, b: la.tridiagonal_solve(low, middle + 4, up, b),
        (normal(2, 4), normal(2, 4, seed=1), normal(2, 4, seed=2), normal(2, 4, 3)),
        "batch",
    ),
    row(
        TRIDIAGONAL,
        lambda low, middle, up, b: la.tridiagonal_solve(low, middle + 4, up, b),
        (
            complex_normal(3),
            complex_normal(3, seed=2),
            complex_normal(3, seed=4),
            complex_normal(3, 1),
        ),
        "complex",
    ),
    row(
        TRIDIAGONAL,
        lambda *args: la.tridiagonal_solve(*args, perturb_singular=True),
        (normal(3), normal(3, seed=1) + 4, normal(3, seed=2), normal(3, 2)),
        "perturb-singular",
        order=1,
    ),
]

FACTORISATIONS = [
    row(CHOLESKY, lambda x: la.cholesky(positive(x)), (normal(2, 3, 3),), "batch"),
    row(CHOLESKY, lambda x: la.cholesky(positive(x)), (complex_normal(3, 3),), "complex"),
    row(
        CHOLESKY,
        lambda x: la.cholesky(positive(x), symmetrize_input=False),
        (complex_normal(3, 3),),
        "as-it-is",
        order=1,
    ),
    row(CHOLESKY, lambda x: la.cholesky(x), (normal(0, 2, 2),), "empty", order=1),
    row(LU, lambda x: la.lu(x)[0], (normal(2, 3, 3),), "batch"),
    row(LU, la.lu, (normal(4, 2),), "tall"),
    row(LU, la.lu, (normal(2, 4),), "wide"),
    row(LU, la.lu, (complex_normal(3, 2),), "complex-tall", order=1),
    row(LU, la.lu, (complex_normal(2, 3),), "complex-wide", order=1),
    row(LU, la.lu, (normal(0, 2),), "empty", order=1),
    row(QR, qr(), (normal(2, 3, 3),), "batch"),
    row(QR, qr(), (normal(4, 2),), "tall"),
    row(QR, qr(), (normal(2, 4),), "wide"),
    row(QR, qr(), (complex_normal(3, 2),), "complex-tall"),
    row(QR, qr(full=True), (complex_normal(2, 3),), "complex-wide"),
    row(QR, qr(full=True), (normal(2, 4, 2),), "full"),
    row(QR, qr(full=True), (complex_normal(3, 2),), "complex-full", order=1),
    row(QR, qr(pivoting=True), (normal(4, 3),), "pivoting"),
    row(QR, qr(pivoting=True), (normal(3, 4),), "pivoting-wide", order=1),
    row(QR, lambda x: la.qr(x)[1], (normal(3, 3),), "r-alone", order=1),
    row(QR, lambda x: la.qr(x)[0], (normal(3, 3),), "q-alone", order=1),
    row(QR, qr(), (normal(0, 2),), "empty", order=1),
]

# Eigenvectors of a complex matrix are unique up to a phase, which LAPACK fixes and the derivative, as
# JAX's, leaves out: differences say otherwise, rightly.
PHASE: Any = {"without": ("numerical", "second numerical")}

SPECTRAL = [
    row(EIGH, la.eigh, (normal(2, 3, 3),), "batch"),
    row(EIGH, la.eigh, (complex_normal(3, 3),), "complex", **PHASE),
    row(EIGH, lambda x: la.eigh(x)[1], (complex_normal(3, 3),), "values"),
    row(EIGH, lambda x: la.eigh(x)[0], (normal(3, 3),), "vectors", order=1),
    row(
        EIGH,
        lambda x: la.eigh(
            positive(x),
            lower=False,
            symmetrize_input=False,
            sort_eigenvalues=False,
            subset_by_index=(0, 3),
        ),
        (complex_normal(3, 3),),
        "as-it-is",
        order=1,
        **PHASE,
    ),
    row(EIGH, la.eigh, (normal(0, 0),), "empty", order=1),
    row(SVD, svd, (normal(2, 3, 3),), "batch"),
    row(SVD, svd, (normal(4, 2),), "tall"),
    row(SVD, svd, (normal(2, 4),), "wide"),
    row(SVD, svd, (complex_normal(3, 2),), "complex-tall", **PHASE),
    row(SVD, svd, (complex_normal(2, 3),), "complex-wide", **PHASE),
    row(SVD, lambda x: la.svd(x), (complex_normal(3, 3),), "complex-full-square", order=1, **PHASE),
    row(SVD, lambda x: svd(x)[0], (normal(3, 2),), "u-alone", order=1),
    row(SVD, lambda x: svd(x)[2], (normal(2, 3),), "v-alone", order=1),
    row(SVD, lambda x: la.svd(x, compute_uv=False), (normal(2, 4, 3),), "values"),
    row(SVD, lambda x: la.svd(x, compute_uv=False), (complex_normal(2, 3),), "complex-values"),
    row(SVD, svd, (normal(0, 2),), "empty", order=1),
    row(EIG, eig(False, False), (normal(3, 3),), "values", rtol=1e-9),
    row(EIG, eig(False, True), (complex_normal(2, 3, 3),), "complex-right", rtol=1e-9),
    row(EIG, eig(True, False), (normal(3, 3),), "left", rtol=1e-9),
    # without "outputs": the rule raises where no cotangent of the left eigenvectors arrives
    row(
        EIG,
        eig(True, True),
        (normal(3, 3),),
        "both",
        rtol=1e-9,
        order=1,
    ),
    row(EIG, lambda x: eig(True, False)(x)[0], (complex_normal(3, 3),), "values-by-left", order=1),
    row(EIG, jnp.linalg.eigvals, (normal(3, 3),), "eigvals", order=1),
]

COMPOSED = [
    row(LU, jnp.linalg.det, (normal(4, 4),), "det"),
    row(SVD, lambda x: jnp.linalg.norm(x, "nuc"), (normal(3, 2),), "nuclear-norm"),
    row(SVD, lambda x: jnp.linalg.norm(x, 2), (normal(3, 2),), "spectral-norm"),
    row(SVD, jnp.linalg.pinv, (normal(3, 2),), "pinv"),
    row(SVD, jnp.linalg.pinv, (complex_normal(2, 3),), "complex-pinv", order=1),
    row(SVD, lambda a, b: jnp.linalg.lstsq(a, b)[0], (normal(4, 2), normal(4)), "lstsq"),
    row(
        CHOLESKY,
        lambda a, b: jsl.cho_solve(jsl.cho_factor(positive(a)), b),
        (complex_normal(3, 3), complex_normal(3, 2)),
        "cho_solve",
        order=1,
    ),
    row(
        TRIANGULAR,
        lambda a, b: jsl.solve_triangular(a + 2 * jnp.eye(3), b, trans=1, lower=True),
        (normal(3, 3), normal(3)),
        "solve_triangular",
    ),
    row(LU, jsl.lu, (normal(3, 3),), "scipy-lu", order=1),
    row(
        LU,
        lambda a, b: jsl.lu_solve(jsl.lu_factor(a), b),
        (normal(3, 3), normal(3)),
        "lu_solve",
        order=1,
    ),
]

TESTED_APART = (la.symmetric_product_p,)

CASES = [*SOLVES, *FACTORISATIONS, *SPECTRAL, *COMPOSED]

SINGULAR = np.array([[1.0, 0, 0], [2, 0, 0], [3, 4, 5]])

SPECIAL = [
    special(CHOLESKY, la.cholesky, (np.array([[4.0]]),), "one"),
    special(CHOLESKY, la.cholesky, (np.zeros((0, 0)),), "size-zero"),
    special(CHOLESKY, la.cholesky, (-np.eye(2),), "not-positive"),
    special(CHOLESKY, la.cholesky, (np.zeros((2, 2)),), "zero"),
    special(
        TRIANGULAR,
        lambda a, b: la.triangular_solve(a, b, left_side=True, lower=True),
        (SINGULAR, normal(3, 2)),
        "singular",
    ),
    special(
        TRIANGULAR,
        lambda a, b: la.triangular_solve(a, b, lower=True, transpose_a=True, unit_diagonal=True),
        (SINGULAR, normal(2, 3)),
        "zero-diagonal-taken-as-one",
    ),
    special(TRIANGULAR, la.triangular_solve, (normal(1, 1), normal(0, 1)), "empty-right"),
    special(TRIANGULAR, la.triangular_solve, (normal(2, 0, 0), normal(2, 3, 0)), "size-zero"),
    special(
        TRIDIAGONAL,
        la.tridiagonal_solve,
        (normal(1), normal(1, seed=1), normal(1, seed=2), normal(1, 2)),
        "one",
    ),
    special(
        TRIDIAGONAL,
        la.tridiagonal_solve,
        (normal(2), normal(2, seed=1) + 3, normal(2, seed=2), normal(2, 1)),
        "two",
    ),
    special(LU, lambda x: la.lu(x)[0], (np.array([[2.0]]),), "one"),
    special(LU, lambda x: la.lu(x)[0], (np.ones((3, 3)),), "singular"),
    special(LU, lambda x: la.lu(x)[0], (np.array([[0.0, 1], [1, 0]]),), "zero-pivot"),
    special(LU, lambda x: la.lu(x)[0], (normal(2, 3, 1),), "one-column"),
    special(QR, qr(), (np.array([[-2.0]]),), "one"),
    special(QR, qr(), (normal(3, 1),), "one-column"),
    special(QR, qr(), (normal(1, 3),), "one-row"),
    special(QR, qr(full=True), (normal(3, 0),), "full-of-no-columns"),
    special(QR, qr(pivoting=True), (np.array([[1.0, 1], [1, -1]]),), "tied-pivots"),
    special(EIGH, la.eigh, (np.array([[3.0]]),), "one"),
    special(EIGH, lambda x: la.eigh(x)[1], (np.zeros((2, 3, 3)),), "zero-values"),
    special(EIGH, lambda x: la.eigh(x)[1], (np.diag([1.0, 2, 2]) + 0j,), "complex-equal-values"),
    special(SVD, lambda x: la.svd(x), (np.array([[2.0]]),), "full-one"),
    special(SVD, svd, (normal(3, 1),), "one-column"),
    special(SVD, lambda x: la.svd(x, compute_uv=False), (np.ones((3, 2)),), "rank-one"),
    special(SVD, lambda x: la.svd(x, compute_uv=False), (1j * np.eye(2),), "complex-equal-values"),
    special(EIG, jnp.linalg.eigvals, (np.array([[2.0]]),), "one"),
    special(EIG, jnp.linalg.eigvals, (np.array([[0.0, -1], [1, 0]]),), "imaginary-values"),
    special(EIGH, lambda x: la.eigh(x)[1], (np.eye(3),), "equal-values"),
    special(EIGH, la.eigh, (np.eye(2),), "vectors-of-equal-values"),
    special(SVD, lambda x: la.svd(x, compute_uv=False), (np.eye(3),), "equal-values"),
    special(SVD, lambda x: svd(x)[1], (np.zeros((3, 2)),), "zero-values"),
    special(SVD, svd, (np.eye(2),), "vectors-of-equal-values"),
    special(EIG, jnp.linalg.eigvals, (np.diag([1.0, 1.0, 2.0]),), "equal-values"),
]


def central_difference(fn: Any, x: Any, direction: Any, step: float = 1e-6) -> Any:
    return (fn(x + step * direction) - fn(x - step * direction)) / (2 * step)


def assert_is_gradient(fn: Any, x: Any, rtol: float = 1e-6) -> None:
    """Against central differences in a random direction."""
    with jax.enable_x64(True):
        direction = normal(*x.shape, seed=9)
        slope = jnp.sum(funcgrad.grad(fn)(jnp.asarray(x)) * direction)
        np.testing.assert_allclose(slope, central_difference(fn, x, direction), rtol=rtol)


def test_cholesky_has_a_gradient_in_the_triangle_that_it_reads() -> None:
    fn = lambda x: jnp.sum(la.cholesky(x, symmetrize_input=False) ** 3)
    x = np.asarray(positive(normal(3, 3)), np.float64)
    assert_is_gradient(fn, x)
    assert not np.any(np.triu(funcgrad.grad(fn)(jnp.asarray(x)), 1))


@pytest.mark.parametrize("shape", [(4, 2), (2, 4)], ids=str)
def test_full_svd_has_a_gradient_where_jax_has_none(shape: tuple[int, int]) -> None:
    weights = normal(4, 4, seed=3)

    def weighted_projection(x: Any) -> Any:
        u, s, vh = jnp.linalg.svd(x, full_matrices=True)
        basis = u[:, 2:] if shape[0] == 4 else vh[2:].T
        return jnp.sum(weights * (basis @ basis.T)) + jnp.sum(s**2)

    assert_is_gradient(weighted_projection, normal(*shape))
    with pytest.raises(NotImplementedError):
        jax.grad(weighted_projection)(jnp.asarray(normal(*shape)))


def test_pivoted_qr_of_wide_batches_where_jax_errs() -> None:
    def total(x: Any) -> Any:
        q, r, _ = la.qr(x, full_matrices=False, pivoting=True)
        return jnp.sum(q**3) + jnp.sum(r**2 * jnp.arange(4.0))

    x = normal(2, 3, 4)
    assert_is_gradient(total, x)
    with jax.enable_x64(True):
        one_by_one = jnp.stack([funcgrad.grad(total)(jnp.asarray(a)) for a in x])
        np.testing.assert_allclose(funcgrad.grad(total)(jnp.asarray(x)), one_by_one, rtol=1e-10)


@pytest.mark.parametrize("symmetrize", [True, False])
def test_symmetric_product_where_jax_has_no_derivative(symmetrize: bool) -> None:
    def fn(a: Any, c: Any) -> Any:
        return la.symmetric_product(a, c, alpha=2.0, beta=0.5, symmetrize_output=symmetrize)

    check_alone(la.symmetric_product_p, fn, normal(2, 3, 2), normal(2, 3, 3, seed=1))


@pytest.mark.parametrize(
    "fn",
    [
        la.hessenberg,
        la.schur,
        lambda x: la.tridiagonal(x + x.T),
        lambda x: jnp.linalg.qr(x, mode="raw"),
    ],
    ids=["hessenberg", "schur", "tridiagonal", "geqrf"],
)
def test_what_neither_differentiates_is_an_error(fn: Any) -> None:
    with pytest.raises(errors.MissingRuleError, match=r"test_linalg\.py"):
        funcgrad.grad(lambda x: sum(jnp.sum(y) for y in jax.tree.leaves(fn(x))))(jnp.eye(3))


def test_eigenvectors_of_a_general_matrix_need_consent() -> None:
    with pytest.raises(NotImplementedError, match="enable_eigvec_derivs"):
        funcgrad.grad(lambda x: jnp.real(jnp.linalg.eig(x)[1]).sum())(jnp.eye(2))


@pytest.mark.parametrize(
    "values", [partial(la.svd, compute_uv=False), jnp.linalg.eigvals, la.eigh, jnp.linalg.eigvalsh]
)
@pytest.mark.parametrize("looped", [False, True], ids=["plain", "scan"])
def test_values_and_their_gradient_take_one_decomposition(values: Any, looped: bool) -> None:
    """Where the values alone are asked for, the vectors come on the way forward, as JAX's do."""

    def loss(x: Any) -> Any:
        if looped:
            total = lambda total, x: (total + jnp.sum(jnp.abs(values(x)[0])), None)
            return lax.scan(total, 0.0, x)[0]
        return jnp.sum(jnp.abs(values(x[0])[0]))

    x = jnp.asarray(normal(2, 3, 3), jnp.float32)
    compiled = jax.jit(funcgrad.value_and_grad(loss)).lower(x).compile().as_text()
    assert len(re.findall(r"lapack_\w*(gesdd|geev|syevd)", compiled)) == 1


def eigenvalues(x: Any) -> Any:
    """Those for which JAX has second derivatives."""
    return la.eig(x, enable_eigvec_derivs=True)[0]


@pytest.mark.parametrize(
    ("values", "by_jax"),
    [(partial(la.svd, compute_uv=False),) * 2, (jnp.linalg.eigvals, eigenvalues)],
)
def test_a_rule_without_the_vectors_decomposes_again(values: Any, by_jax: Any) -> None:
    """As where a gradient is differentiated, and the operation itself must be seen."""

    def slope(grad: Any, values: Any) -> Any:
        return lambda x: jnp.sum(grad(lambda x: jnp.abs(values(x)).sum())(x) ** 2)

    x = jnp.asarray(normal(3, 3), jnp.float32)
    expected = jax.grad(slope(jax.grad, by_jax))(x)
    for outer in (jax.grad, funcgrad.grad):
        found = outer(slope(funcgrad.grad, values))(x)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_precision_is_kept(dtype: Any) -> None:
    def total(x: Any) -> Any:
        factors = la.cholesky(positive(x)), la.lu(x)[0], la.qr(x), la.eigh(x), la.svd(x)
        spectrum = la.eig(x, enable_eigvec_derivs=True)
        leaves = jax.tree.leaves((factors, spectrum, la.triangular_solve(x, x)))
        return sum(jnp.sum(jnp.abs(y) ** 4) for y in leaves)

    with jax.enable_x64(True):
        x = jnp.asarray(normal(3, 3) + 2 * np.eye(3), dtype)
        ours, expected = jax.jit(funcgrad.grad(total))(x), jax.jit(jax.grad(total))(x)
        assert ours.dtype == dtype
        np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
