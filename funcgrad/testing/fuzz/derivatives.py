"""Values and gradients of a program, to second order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np


def both_orders(fun: Any, xs: Any, inner: Any, outer: Any, order: int) -> Any:
    """((value, gradient), (a scalar of the gradient, its gradient))."""
    argnums = tuple(range(len(xs)))
    if order == 1:
        return (inner.value_and_grad(fun, argnums)(*xs),)

    def probe(*xs: Any) -> Any:
        value, cts = inner.value_and_grad(fun, argnums)(*xs)
        return directed(cts, 1), (value, cts)

    (scalar, first), second = outer.value_and_grad(probe, argnums, has_aux=True)(*xs)
    return first, (scalar, second)


def directed(cts: Sequence[Any], seed: int) -> Any:
    """A float64 scalar, linear in the cotangents."""
    pairs = zip(cts, directions_of(cts, seed), strict=True)
    return sum(jnp.sum((ct * d).real).astype(jnp.float64) for ct, d in pairs)


def directions_of(xs: Sequence[Any], seed: int = 0) -> list[Any]:
    random = np.random.default_rng(seed)
    return [np.asarray(random.uniform(-1, 1, jnp.shape(x)), x.real.dtype) for x in xs]
