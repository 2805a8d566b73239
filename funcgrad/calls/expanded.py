"""Ops that are differentiated as programs: reductions by any function, and Householder reflectors.

Each program computes what its op computes, of ops that have rules, and takes the op's place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import starmap
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from funcgrad import _jax, errors
from funcgrad.registry import CallRule, defrecord
from funcgrad.rules._common import adjoint
from funcgrad.rules.windows import Windows, is_unrolled, windows_of

Array = Any


def defprogram(*ops: Any, constants: Callable[[int], int] | None = None) -> Any:
    """Make the decorated function, of an op's operands and params, stand for the op.

    `constants` tells, of a number of operands, how many of the last take no gradient.
    """

    def register(program: Callable[..., Any]) -> CallRule:
        compiled = _jax.cache()(lambda params: _with_params(program, params))

        def call(trace: Any, primitive: Any, tracers: Sequence[Any], params: Any) -> Any:
            if constants is not None:
                _, slots = trace.split(tracers)
                _refuse_initial_values(primitive, slots[len(slots) - constants(len(slots)) :])
            items = tuple(params.items())
            run = compiled(items) if _jax.is_hashable(items) else _with_params(program, items)
            with _jax.set_current_trace(trace), _jax.uncaught():
                return run(*tracers)

        return defrecord(*ops)(call)

    return register


def _with_params(program: Callable[..., Any], params: tuple[tuple[str, Any], ...]) -> Any:
    def run(*operands: Any) -> Any:
        return program(*operands, **dict(params))

    run.__name__ = run.__qualname__ = program.__name__
    return jax.jit(run)


def _refuse_initial_values(primitive: Any, slots: Sequence[Any]) -> None:
    if any(slot is not None for slot in slots):
        raise errors.InitialValueError(primitive, _jax.here())


# --- reductions by any function ---------------------------------------------------------------


@defprogram(lax.reduce_p, constants=lambda n: n // 2)
def reduce(*operands: Array, jaxpr: Any, dimensions: Sequence[int], **_: Any) -> list[Array]:
    # y = x_0 + x_1 + ... by a tree of halves, whose shape, like JAX's, says how ties share
    xs, starts = operands[: len(operands) // 2], operands[len(operands) // 2 :]
    dimensions = tuple(dimensions)
    kept = tuple(axis for axis in range(xs[0].ndim) if axis not in dimensions)
    count = prod(xs[0].shape[axis] for axis in dimensions)
    shape = tuple(xs[0].shape[axis] for axis in kept)
    rows = [lax.transpose(x, (*dimensions, *kept)).reshape(count, prod(shape)) for x in xs]
    combine = _elementwise(jaxpr)
    return [y.reshape(shape) for y in _reduce_rows(rows, starts, combine)]


def _reduce_rows(xs: Sequence[Array], starts: Sequence[Array], combine: Any) -> list[Array]:
    n = xs[0].shape[0]
    if n == 0:
        return [jnp.full(x.shape[1:], start) for x, start in zip(xs, starts, strict=True)]
    while n > 1:
        middle = (n + 1) // 2
        lows = [x[:middle] for x in xs]
        highs = [
            lax.pad(x[middle:], start, ((0, n % 2, 0), (0, 0, 0)))
            for x, start in zip(xs, starts, strict=True)
        ]
        xs, n = combine(*lows, *highs), middle
    return [x[0] for x in xs]


@defprogram(lax.reduce_window_p, constants=lambda n: n // 2)
def reduce_window(*operands: Array, jaxpr: Any, consts: Sequence[Any], **params: Any) -> Any:
    # y[p] = start + x[p s + k_0] + x[p s + k_1] + ..., in this order
    xs, starts = operands[: len(operands) // 2], operands[len(operands) // 2 :]
    windows = windows_of(xs[0].shape, params)
    combine = _elementwise(_jax.with_consts(jaxpr, consts))
    sums = [jnp.full(windows.count, start).ravel() for start in starts]
    if 0 in windows.count:
        return [total.reshape(windows.count) for total in sums]
    padded = [windows.pad(x, start) for x, start in zip(xs, starts, strict=True)]
    offsets = windows.offsets()
    if is_unrolled(len(offsets)):
        for offset in offsets:
            sums = combine(*sums, *[windows.view(x, offset).ravel() for x in padded])
    else:
        sums, _ = lax.scan(
            lambda sums, at: (combine(*sums, *[x.ravel()[at] for x in padded]), None),
            sums,
            np.stack(list(starmap(_flat_positions(windows), offsets))),
        )
    return [total.reshape(windows.count) for total in sums]


def _flat_positions(windows: Windows) -> Callable[..., np.ndarray]:
    """Of an offset in a window, the places in the flattened padded array, one for each window."""
    starts = [np.arange(n) * s for n, s in zip(windows.count, windows.strides, strict=True)]

    def positions(*offset: int) -> np.ndarray:
        axes = np.ix_(*[start + o for start, o in zip(starts, offset, strict=True)])
        return np.ravel_multi_index(np.broadcast_arrays(*axes), windows.padded).ravel()

    return positions


def _elementwise(closed: Any) -> Callable[..., list[Array]]:
    """A reduction's function of scalars on arrays of one shape."""

    def combine(*scalars: Any) -> list[Array]:
        return _jax.eval_closed_jaxpr(closed, scalars, own_lines=False)

    def combine_arrays(*arrays: Array) -> list[Array]:
        flat = jax.vmap(combine)(*[array.ravel() for array in arrays])
        return [y.reshape(arrays[0].shape) for y in flat]

    return combine_arrays


# --- Householder reflectors: Q = H_1 H_2 ... = I - V T V^H, H_i = I - tau_i v_i v_i^H ------------


@defprogram(lax.linalg.householder_product_p)
@jax.default_matmul_precision("highest")
def householder_product(a: Array, taus: Array, **_: Any) -> Array:
    v, t = _reflectors(a, taus)
    n = a.shape[-1]
    return jnp.eye(*a.shape[-2:], dtype=a.dtype) - v @ t @ adjoint(v[..., :n, :])


@defprogram(lax.linalg.ormqr_p)
@jax.default_matmul_precision("highest")
def ormqr(a: Array, taus: Array, c: Array, *, left: bool, transpose: bool, **_: Any) -> Array:
    v, t = _reflectors(a, taus)
    if transpose:
        t = adjoint(t)
    return c - v @ (t @ (adjoint(v) @ c)) if left else c - ((c @ v) @ t) @ adjoint(v)


def _reflectors(a: Array, taus: Array) -> tuple[Array, Array]:
    # V is unit lower triangular, and T^-1 = D^-1 + S, D = diag(taus), S = triu(V^H V, 1)
    # (Schreiber & Van Loan 1989); so (I + D S) T = D, which needs no tau other than zero
    k = taus.shape[-1]
    v = jnp.tril(a[..., :k], -1) + jnp.eye(a.shape[-2], k, dtype=a.dtype)
    scaled = taus[..., :, None] * jnp.triu(adjoint(v) @ v, 1)
    diagonal = taus[..., None] * jnp.eye(k, dtype=a.dtype)
    solve = lax.linalg.triangular_solve
    return v, solve(scaled, diagonal, left_side=True, lower=False, unit_diagonal=True)


@defprogram(lax.linalg.cholesky_update_p)
@jax.default_matmul_precision("highest")
def cholesky_update(r: Array, w: Array, **_: Any) -> Array:
    # R'^T R' = R^T R + w w^T
    upper = jnp.triu(r)
    return lax.linalg.cholesky(upper.mT @ upper + jnp.outer(w, w)).mT
