"""Rules of matrix decompositions and of triangular and tridiagonal solves.

Cotangents pair without conjugation, dL = Re(sum ct dx): a textbook's adjoint bar(X) is conj(ct_X).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from funcgrad import _jax, errors
from funcgrad.registry import defvjp, zero
from funcgrad.rules._common import adjoint, conjugate, or_zeros

Array = Any

exact = jax.default_matmul_precision("highest")
"""Products of full precision on every platform."""


# --- solves -----------------------------------------------------------------------------------


@defvjp(lax.linalg.triangular_solve_p)
@exact
def triangular_solve_vjp(
    ct: Array,
    a: Array,
    b: Array,
    *,
    out: Array,
    left_side: bool,
    lower: bool,
    transpose_a: bool,
    conjugate_a: bool,
    unit_diagonal: bool,
    **_: Any,
) -> Any:
    # left: B = op(A) X; ct_B = op(A)^-T ct; ct_op(A) = -ct_B X^T;  right: B = X op(A)
    ct_b = lax.linalg.triangular_solve(
        a,
        ct,
        left_side=left_side,
        lower=lower,
        transpose_a=not transpose_a,
        conjugate_a=conjugate_a,
        unit_diagonal=unit_diagonal,
    )
    ct_a = ct_b @ out.mT if left_side else out.mT @ ct_b
    if transpose_a:
        ct_a = ct_a.mT
    if conjugate_a:
        ct_a = conjugate(ct_a)
    if lower:
        return -jnp.tril(ct_a, -1 if unit_diagonal else 0), ct_b
    return -jnp.triu(ct_a, 1 if unit_diagonal else 0), ct_b


@defvjp(lax.linalg.tridiagonal_solve_p)
def tridiagonal_solve_vjp(
    ct: Array, low: Array, middle: Array, up: Array, b: Array, *, out: Array, **params: Any
) -> Any:
    # B = T X, T[i,i-1] = low[i], T[i,i+1] = up[i]; ct_B = T^-T ct; ct_T = -ct_B X^T on the three
    # diagonals
    transposed = _moved(up, 1, -1), middle, _moved(low, -1, -1)
    ct_b = lax.linalg.tridiagonal_solve(*transposed, ct, **params)
    ct_low = -jnp.sum(ct_b * _moved(out, 1, -2), -1)
    ct_middle = -jnp.sum(ct_b * out, -1)
    ct_up = -jnp.sum(ct_b * _moved(out, -1, -2), -1)
    return ct_low, ct_middle, ct_up, ct_b


# --- triangular factorisations ----------------------------------------------------------------


@defvjp(lax.linalg.cholesky_p)
@exact
def cholesky_vjp(ct: Array, x: Array, *, out: Array, **_: Any) -> Any:
    # A = L L^H, of which the lower triangle is read; ct_A = half(M + M^H),
    # M = L^-T half(L^T ct) conj(L)^-1 (Murray 2016, Differentiation of the Cholesky decomposition)
    inner = _half(jnp.tril(out).mT @ ct)
    inner = lax.linalg.triangular_solve(out, inner, left_side=True, lower=True, transpose_a=True)
    inner = lax.linalg.triangular_solve(out, inner, lower=True, conjugate_a=True)
    return _half(inner + adjoint(inner))


def _half(x: Array) -> Array:
    """The lower triangle with half of the diagonal."""
    return (jnp.tril(x) + jnp.tril(x, -1)) / 2


@defvjp(lax.linalg.lu_p)
@exact
def lu_vjp(ct: Any, x: Array, *, out: Any, **_: Any) -> Any:
    # P A = L U; ct_PA = L^-T (tril(L^T ct, -1) + triu(ct U^T)) U^-T (de Hoog et al. 2011), here in
    # blocks: L = [L1; L2] if A is tall, U = [U1 U2] if it is wide
    lu, _, permutation = out
    ct_lu = ct[0]
    if 0 in x.shape or ct_lu is None:
        return None
    k = min(x.shape[-2:])
    square, below, right = lu[..., :k, :k], lu[..., k:, :], lu[..., :, k:]
    ct_square, ct_below, ct_right = ct_lu[..., :k, :k], ct_lu[..., k:, :], ct_lu[..., :, k:]
    strict = ct_square + jnp.tril(square, -1).mT @ ct_square
    upper = ct_square @ jnp.triu(square).mT
    if right.shape[-1]:
        strict = strict - ct_right @ right.mT
    if below.shape[-2]:
        upper = upper - below.mT @ ct_below
    ct_x = jnp.tril(strict, -1) + jnp.triu(upper)
    solve_l = {"left_side": True, "lower": True, "transpose_a": True, "unit_diagonal": True}
    if right.shape[-1]:
        ct_x = lax.linalg.triangular_solve(square, ct_x, transpose_a=True)
        ct_x = lax.linalg.triangular_solve(square, _beside(ct_x, ct_right), **solve_l)
    else:
        ct_x = lax.linalg.triangular_solve(square, ct_x, **solve_l)
        ct_x = jnp.concatenate([ct_x, ct_below], -2)
        ct_x = lax.linalg.triangular_solve(square, ct_x, transpose_a=True)
    return _unpermuted(ct_x, permutation[..., :, None], -2)


INTEGERS = zero(lax.linalg.lu_pivots_to_permutation_p)


@defvjp(lax.linalg.qr_p)
@exact
def qr_vjp(ct: Any, x: Array, *, out: Any, pivoting: bool, full_matrices: bool, **_: Any) -> Any:
    # X = Q R; ct_X = (ct_Q + conj(Q) sym(ct_R R^T - Q^T ct_Q)) R^-T (Walter & Lehmann 2010; Seeger
    # et al. 2017); wide: R = [R1 R2] and R2 = Q^H X2; full: see _thin_cotangent
    if 0 in x.shape:
        return None
    m, n = x.shape[-2:]
    q, r = out[:2]
    ct_q, ct_r = (or_zeros(c, y) for c, y in zip(ct[:2], (q, r), strict=True))
    ct_right = None
    if m < n:
        ct_right = conjugate(q) @ ct_r[..., m:]
        ct_q = ct_q + conjugate(q @ r[..., m:]) @ adjoint(ct_r[..., m:])
        r, ct_r = r[..., :m], ct_r[..., :m]
    elif full_matrices and m > n:
        ct_q = _thin_cotangent(ct_q, q, n)
        q, r, ct_r = q[..., :n], r[..., :n, :], ct_r[..., :n, :]
    inner = jnp.triu(ct_r @ r.mT - q.mT @ ct_q)
    diagonal = _matrix_diagonal(jnp.real(jnp.diagonal(inner, axis1=-2, axis2=-1)))
    strict = jnp.triu(inner, 1)
    ct_x = ct_q + conjugate(q) @ (strict + adjoint(strict) + diagonal)
    ct_x = lax.linalg.triangular_solve(r, ct_x, transpose_a=True)
    if ct_right is not None:
        ct_x = _beside(ct_x, ct_right)
    return _unpermuted(ct_x, out[2][..., None, :], -1) if pivoting else ct_x


def _thin_cotangent(ct_q: Array, q: Array, n: int) -> Array:
    """The cotangent of the first `n` columns of a full Q, its other columns depending on them.

    With Q = [Q1 Q2], Q1 = [Q11; Q21] and Z = Q21 (Q11 - I)^-1, JAX's choice of the free rotation is
    dQ2 = dQ1 Z^H - (Q1 + Q2 Z) (dQ21 - Z dQ11)^H (Roberts & Roberts 2024, arXiv:2409.13374).
    """
    first, second = q[..., :n], q[..., n:]
    ct_first, ct_second = ct_q[..., :n], ct_q[..., n:]
    square = first[..., :n, :] - jnp.eye(n, dtype=q.dtype)
    z = _solve_transposed(square, first[..., n:, :].mT).mT
    ct_lower = -adjoint(ct_second) @ conjugate(first + second @ z)
    ct_upper = -z.mT @ ct_lower
    return ct_first + ct_second @ conjugate(z) + jnp.concatenate([ct_upper, ct_lower], -2)


@defvjp(lax.linalg.symmetric_product_p)
@exact
def symmetric_product_vjp(
    ct: Array, a: Array, c: Array, *, alpha: float, beta: float, **_: Any
) -> Any:
    # S = alpha A A^T + beta C
    return alpha * ((ct + ct.mT) @ a), beta * ct


# --- spectral factorisations ------------------------------------------------------------------


@defvjp(lax.linalg.eigh_p)
@exact
def eigh_vjp(ct: Any, x: Array, *, out: Any, subset_by_index: Any, **_: Any) -> Any:
    # A V = V diag(w); ct_A = conj(V) (diag(ct_w) + F o (V^T ct_V)) V^T, F_ij = 1 / (w_j - w_i)
    # (Giles 2008)
    (v, w), (ct_v, ct_w) = out, ct
    if subset_by_index not in (None, (0, x.shape[-1])):
        raise errors.no_derivative(
            lax.linalg.eigh_p, "with subset_by_index has none, in JAX neither."
        )
    terms = []
    if ct_w is not None:
        terms.append(conjugate(v) * ct_w[..., None, :])
    if ct_v is not None:
        terms.append(conjugate(v) @ (_inverse_gaps(w) * (v.mT @ ct_v)))
    return sum(terms) @ v.mT if terms else None


def svd_with_vectors(x: Array, **params: Any) -> list[Array]:
    """The singular values, and after them the vectors that their rule reads."""
    if not params["compute_uv"]:
        params = {**params, "compute_uv": True, "full_matrices": False}
    return lax.linalg.svd_p.bind(x, **params)


@defvjp(
    lax.linalg.svd_p,
    forward=svd_with_vectors,
    saves=lambda *, compute_uv, **_: 0 if compute_uv else 2,
)
@exact
def svd_vjp(
    ct: Any,
    x: Array,
    *,
    out: Any,
    full_matrices: bool,
    compute_uv: bool,
    subset_by_index: Any,
    algorithm: Any,
    **_: Any,
) -> Any:
    # A = U S V^H; ct_A = conj(U) (diag(ct_s) + P) conj(V^H) + what leaves the spaces of U and V,
    # P = herm(F o (U^T ct_U)) S + S herm(F o (V^T ct_V)) + i diag(im(U^T ct_U) / s),
    # F_ij = 1 / (s_j^2 - s_i^2), herm(M) = M + M^H (Giles 2008; Wan & Zhang 2019)
    rank = min(x.shape[-2:])
    if not compute_uv:
        if len(out) == 1:
            params = {"subset_by_index": subset_by_index, "algorithm": algorithm}
            out = svd_with_vectors(x, full_matrices=False, compute_uv=False, **params)
        _, u, vh = out
        return (conjugate(u) * ct[0][..., None, :]) @ conjugate(vh)
    if subset_by_index not in (None, (0, rank)):
        problem = "with subset_by_index and compute_uv=True has none, in JAX neither."
        raise errors.no_derivative(lax.linalg.svd_p, problem)
    (s, u, vh), (ct_s, ct_u, ct_vh) = out, ct
    if full_matrices:
        ct_u, ct_v = _thin_orthogonal(ct_u, u, rank), _thin_orthogonal(_mt(ct_vh), vh.mT, rank)
        u, vh, ct_vh = u[..., :rank], vh[..., :rank, :], _mt(ct_v)
    row, column = s[..., None, :], s[..., :, None]
    inverse_gaps = _inverse_off_diagonal((row + column) * (row - column))
    inner = _matrix_diagonal(jnp.zeros_like(s) if ct_s is None else ct_s).astype(x.dtype)
    outside_u = outside_v = None
    if ct_u is not None:
        along = u.mT @ ct_u
        inner = inner + _hermitian(inverse_gaps * along) * row
        if _jax.is_complex(x):
            angle = jnp.imag(jnp.diagonal(along, axis1=-2, axis2=-1))
            inner = inner + 1j * _matrix_diagonal(angle * jnp.where(s == 0, 0, 1 / s))
        if x.shape[-2] > rank:
            outside_u = (ct_u - conjugate(u) @ along) / row
    if ct_vh is not None:
        along = conjugate(vh) @ adjoint(ct_vh)
        inner = inner + column * _hermitian(inverse_gaps * along)
        if x.shape[-1] > rank:
            outside_v = (ct_vh - adjoint(along) @ conjugate(vh)) / column
    left = conjugate(u) @ inner
    ct_x = (left if outside_u is None else left + outside_u) @ conjugate(vh)
    return ct_x if outside_v is None else ct_x + conjugate(u) @ outside_v


def _thin_orthogonal(ct_q: Array | None, q: Array, n: int) -> Array | None:
    """The cotangent of the first `n` columns, the others moving only to stay orthogonal to them."""
    # Q = [Q1 Q2]; dQ2 = -Q1 dQ1^H Q2
    if ct_q is None or q.shape[-1] == n:
        return ct_q
    first, second = q[..., :n], q[..., n:]
    return ct_q[..., :n] - conjugate(second) @ (adjoint(ct_q[..., n:]) @ conjugate(first))


def eig_with_vectors(x: Array, **params: Any) -> list[Array]:
    """The eigenvalues, and after them the right eigenvectors that their rule reads."""
    if not (params["compute_left_eigenvectors"] or params["compute_right_eigenvectors"]):
        params = {**params, "compute_right_eigenvectors": True, "enable_eigvec_derivs": True}
    return lax.linalg.eig_p.bind(x, **params)


@defvjp(
    lax.linalg.eig_p,
    forward=eig_with_vectors,
    saves=lambda *, compute_left_eigenvectors, compute_right_eigenvectors, **_: (
        0 if compute_left_eigenvectors or compute_right_eigenvectors else 1
    ),
)
@exact
def eig_vjp(
    ct: Any,
    x: Array,
    *,
    out: Any,
    compute_left_eigenvectors: bool,
    compute_right_eigenvectors: bool,
    enable_eigvec_derivs: bool = False,
    **params: Any,
) -> Any:
    # A V = V diag(w); ct_A = V^-T (diag(ct_w) + F o (V^T ct_V)) V^T, F_ij = 1 / (w_j - w_i) (Giles
    # 2008); the left eigenvectors are the right ones of A^H, whose eigenvalues are conj(w)
    values_only = not (compute_left_eigenvectors or compute_right_eigenvectors)
    w, *vectors = out
    ct_w, *ct_vectors = ct
    if not values_only and not enable_eigvec_derivs:
        raise errors.no_derivative(
            lax.linalg.eig_p,
            "has eigenvectors that are defined only up to the scale that LAPACK chose. Pass "
            "enable_eigvec_derivs=True to jax.lax.linalg.eig to accept that scale, or compute the "
            "eigenvalues alone with jax.numpy.linalg.eigvals.",
        )
    if 0 in x.shape:
        return None
    if values_only:
        if not vectors:
            asked = dict.fromkeys(
                ("compute_left_eigenvectors", "compute_right_eigenvectors"), False
            )
            w, *vectors = eig_with_vectors(x, **asked, **params)
        ct_vectors, compute_right_eigenvectors = [None], True
    terms = []
    if compute_right_eigenvectors:
        terms.append(_eig_cotangent(w, vectors[-1], ct_w, ct_vectors[-1]))
        ct_w = None
    if compute_left_eigenvectors:
        ct_w = None if ct_w is None else conjugate(ct_w)
        left = _eig_cotangent(conjugate(w), vectors[0], ct_w, ct_vectors[0])
        terms.append(None if left is None else adjoint(left))
    ct_x = sum(term for term in terms if term is not None)
    return ct_x if _jax.is_complex(x) else jnp.real(ct_x)


def _eig_cotangent(w: Array, v: Array, ct_w: Array | None, ct_v: Array | None) -> Array | None:
    """The cotangent of A from those of its eigenvalues and of its right eigenvectors."""
    if ct_v is None:
        return None if ct_w is None else _solve_transposed(v, ct_w[..., None] * v.mT)
    inner = _inverse_gaps(w) * (v.mT @ _normalised_cotangent(ct_v, v))
    if ct_w is not None:
        inner = inner + _matrix_diagonal(ct_w)
    return _solve_transposed(v, inner @ v.mT)


def _normalised_cotangent(ct_v: Array, v: Array) -> Array:
    """The cotangent of eigenvectors not yet scaled to length 1 and a real largest entry."""
    # v = u c; ct_u = ct_v - re(t) conj(v) - i im(t) / v_k e_k, t = sum(ct_v v), k = argmax |v|
    pairing = jnp.sum(ct_v * v, -2, keepdims=True)
    largest = jnp.argmax(jnp.abs(v), -2, keepdims=True) == lax.broadcasted_iota(
        jnp.int32, v.shape, v.ndim - 2
    )
    turn = jnp.where(largest, jnp.imag(pairing) / jnp.where(largest, jnp.real(v), 1), 0)
    return ct_v - jnp.real(pairing) * conjugate(v) - 1j * turn


# --- matrices ---------------------------------------------------------------------------------


def _mt(x: Array | None) -> Array | None:
    return None if x is None else x.mT


def _hermitian(x: Array) -> Array:
    return x + adjoint(x)


def _matrix_diagonal(x: Array) -> Array:
    """The diagonal matrices of vectors."""
    return x[..., None] * jnp.eye(x.shape[-1], dtype=x.dtype)


def _beside(left: Array, right: Array) -> Array:
    return jnp.concatenate([left, right], -1)


def _inverse_gaps(w: Array) -> Array:
    """1 / (w_j - w_i), and 0 on the diagonal."""
    return _inverse_off_diagonal(w[..., None, :] - w[..., :, None])


def _inverse_off_diagonal(x: Array) -> Array:
    """1 / x, and 0 on the diagonal, where x is 0."""
    identity = jnp.eye(x.shape[-1], dtype=x.dtype)
    return 1 / (x + identity) - identity


def _moved(x: Array, by: int, axis: int) -> Array:
    """Move entries along an axis, zeros coming in at the end."""
    padding = [(0, 0, 0)] * x.ndim
    padding[axis] = (by, -by, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), padding)


def _unpermuted(x: Array, permutation: Array, axis: int) -> Array:
    """The y of which taking `permutation` along `axis` gives x."""
    places = jnp.argsort(permutation, axis)
    return jnp.take_along_axis(x, places, axis, mode="promise_in_bounds")


def _solve_transposed(a: Array, b: Array) -> Array:
    """A^-T B, by P A = L U."""
    lu, _, permutation = lax.linalg.lu(a)
    y = lax.linalg.triangular_solve(lu, b, left_side=True, transpose_a=True)
    y = lax.linalg.triangular_solve(
        lu, y, left_side=True, lower=True, transpose_a=True, unit_diagonal=True
    )
    return _unpermuted(y, permutation[..., :, None], -2)
