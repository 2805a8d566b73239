"""The check of an op that JAX does not differentiate: finite differences in float64 alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import funcgrad
from tests.rules.cases import primitives_in, random_like


def check_alone(op: Any, fn: Callable[..., Any], *args: Any, order: int = 2) -> None:
    """The gradient of sum(fn(*args)**3), and the derivative of a weighted sum of that gradient."""
    with jax.enable_x64(True):
        xs = tuple(map(jnp.asarray, args))
        assert op in primitives_in(fn, *xs)
        every = tuple(range(len(xs)))

        def total(*xs: Any) -> Any:
            return sum(jnp.sum(y**3) for y in jax.tree.leaves(fn(*xs)))

        def slope(*xs: Any) -> Any:
            cts = funcgrad.grad(total, every)(*xs)
            return sum(jnp.sum(ct * random_like(ct, seed=5 + i)) for i, ct in enumerate(cts))

        assert_slopes(total, xs, every)
        if order == 2:
            assert_slopes(slope, xs, every)
        expected = funcgrad.grad(total, every)(*xs)
        for a, b in zip(jax.jit(funcgrad.grad(total, every))(*xs), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10 * np.abs(b).max(initial=1))


def assert_slopes(fn: Any, xs: Any, argnums: Any) -> None:
    """The gradient of a scalar function along a random direction is its central difference."""
    step = 1e-6
    vs = [random_like(x, seed=31 + i) for i, x in enumerate(xs)]
    sides = [fn(*[x + s * v for x, v in zip(xs, vs, strict=True)]) for s in (step, -step)]
    cts = funcgrad.grad(fn, argnums)(*xs)
    terms = [np.asarray(ct * v) for ct, v in zip(cts, vs, strict=True)]
    scale = 1 + sum(np.abs(t).sum() for t in terms)
    slope = (sides[0] - sides[1]) / (2 * step)
    assert abs(slope - sum(t.sum() for t in terms)) <= 1e-6 * scale
