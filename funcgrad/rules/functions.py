"""Functions of JAX's that have a rule as a whole.

`relu` costs less so outside jit. The others are loops whose derivative as a program is not that of the
function: bisection's result depends on its input through comparisons alone, and a fixed point's loop
that ends by a test on rounding noise divides by it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from funcgrad import _jax, errors
from funcgrad.keys import FunctionId
from funcgrad.registry import defvjp
from funcgrad.rules._common import kept_where

Array = Any


@defvjp(jax.nn.relu)
def relu_vjp(ct: Any, x: Any, *, out: Any, **_: Any) -> Any:
    # y = max(x, 0); dy/dx = [y > 0], which is 0 at 0
    return kept_where(out > 0, ct)


def in_jax(file: str, name: str) -> FunctionId | None:
    """A function of a file of JAX's, as an op; None if this version lacks it."""
    description = _jax.description_in(file, name)
    return None if description is None else FunctionId(description)


eigh_tridiagonal = in_jax("_src/scipy/linalg.py", "eigh_tridiagonal")
lobpcg_of_matrix = in_jax("experimental/sparse/linalg.py", "_lobpcg_standard_matrix")
lobpcg_of_callable = in_jax("experimental/sparse/linalg.py", "_lobpcg_standard_callable")

DERIVED_APART = frozenset({eigh_tridiagonal, lobpcg_of_matrix, lobpcg_of_callable})
"""Functions whose derivative is not that of their operations, so that no transform may look inside."""


@defvjp(eigh_tridiagonal)
def eigh_tridiagonal_vjp(ct: Any, d: Array, e: Array, *others: Any, out: Any, **_: Any) -> Any:
    # T = diag(d) + diag(e, 1) + diag(e, -1), whose eigenvalues depend on |e|
    only_values = not isinstance(ct, tuple)
    if d.ndim != 1 or e.ndim != 1:
        raise errors.no_derivative(eigh_tridiagonal, BATCHED)
    if jnp.iscomplexobj(e) and not only_values:
        raise errors.no_derivative(
            eigh_tridiagonal, "has no derivative of the eigenvectors of a complex matrix."
        )
    (ct_w, ct_v), (w, v) = ((ct, None), (out, None)) if only_values else (ct, out)
    size, real_d = jnp.abs(e) if jnp.iscomplexobj(e) else e, jnp.real(d)
    matrix = jnp.diag(real_d) + jnp.diag(size, 1) + jnp.diag(size, -1)
    ct_matrix = eigen_vjp(ct_w, ct_v, matrix, w, v)
    ct_e = jnp.diag(ct_matrix, 1) + jnp.diag(ct_matrix, -1)
    if jnp.iscomplexobj(e):
        ct_e = ct_e * jnp.conj(jnp.sign(e))
    return jnp.diag(ct_matrix).astype(d.dtype), ct_e, *(None for _ in others)


@defvjp(lobpcg_of_matrix)
def lobpcg_vjp(ct: Any, a: Array, x: Array, *others: Any, out: Any, **_: Any) -> Any:
    # the largest eigenvalues and their eigenvectors, which do not depend on where the search begins
    if a.ndim != 2 or x.ndim != 2:
        raise errors.no_derivative(lobpcg_of_matrix, BATCHED)
    ct_w, ct_v, _ = ct
    w, v, _ = out
    order = jnp.argsort(w)
    ct_w, w = (None if value is None else value[order] for value in (ct_w, w))
    ct_v, v = (None if value is None else value[:, order] for value in (ct_v, v))
    return eigen_vjp(ct_w, ct_v, a, w, v), None, *(None for _ in others)


@defvjp(lobpcg_of_callable)
def lobpcg_of_callable_vjp(ct: Any, *operands: Any, **_: Any) -> Any:
    raise errors.no_derivative(
        lobpcg_of_callable,
        "has a derivative by a matrix, and none by what a callable closes over. Pass the matrix.",
    )


BATCHED = (
    "has a derivative for one matrix at a time. Take the gradient of one, and jax.vmap that: "
    "jax.vmap(funcgrad.grad(f))."
)


def eigen_vjp(ct_w: Any, ct_v: Any, matrix: Array, w: Array, v: Array | None) -> Array:
    """The cotangent of a symmetric matrix from those of neighbouring eigenvalues and eigenvectors."""
    # dw_i = v_i' dA v_i;  dv_i = sum_(j != i) u_j (u_j' dA v_i) / (w_i - w_j), with u all eigenvectors
    values, vectors = jnp.linalg.eigh(matrix)
    first = first_of(w, values)
    if v is None:
        v = jnp.take(vectors, first + jnp.arange(w.shape[0]), axis=1)
    ct_matrix = jnp.zeros_like(matrix)
    if ct_w is not None:
        ct_matrix += jnp.einsum("k,ik,jk->ij", ct_w, v, v)
    if ct_v is not None:
        gaps = w[None, :] - values[:, None]
        itself = jnp.arange(values.shape[0])[:, None] == first + jnp.arange(w.shape[0])
        factors = jnp.where(itself, 0, 1 / jnp.where(itself, 1, gaps))
        inner = vectors @ (factors * (vectors.T @ ct_v)) @ v.T
        ct_matrix += (inner + inner.T) / 2
    return ct_matrix


def first_of(some: Array, values: Array) -> Array:
    """At which of all sorted values these neighbouring ones begin."""
    starts = jnp.arange(values.shape[0] - some.shape[0] + 1)
    windows = values[starts[:, None] + jnp.arange(some.shape[0])]
    return jnp.argmin(jnp.sum(jnp.abs(windows - some), axis=1))
