"""Whole programs against jax.grad: every way of composing them, to second order, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import funcgrad
from tests.compare import assert_same


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def check_program(fun: Callable[..., Any], *args: Any) -> None:
    """The gradient of a scalar `fun` by all its arguments: eager, jit, vmap, second order."""
    with jax.enable_x64(True):
        args = tuple(jnp.asarray(a) for a in args)
        argnums = tuple(range(len(args)))
        batch = tuple(jnp.stack([a, 1.1 * a]) for a in args)

        def second(inner: Any, outer: Any) -> Any:
            def scalar(*args: Any) -> Any:
                return sum(jnp.sum(jnp.sin(ct)) for ct in inner(fun, argnums)(*args))

            return outer(scalar, argnums)

        def answers(inner: Any, outer: Any) -> Any:
            first = inner(fun, argnums)
            return first(*args), jax.vmap(first)(*batch), second(inner, outer)(*args)

        expected = jax.jit(lambda: answers(jax.grad, jax.grad))()
        same = {"rtol": 1e-10, "weak": False}
        assert_same(funcgrad.grad(fun, argnums)(*args), expected[0], **same)
        assert_same(jax.jit(lambda: answers(funcgrad.grad, funcgrad.grad))(), expected, **same)
        assert_same(jax.jit(second(funcgrad.grad, jax.grad))(*args), expected[2], **same)
        assert_same(jax.jit(second(jax.grad, funcgrad.grad))(*args), expected[2], **same)
