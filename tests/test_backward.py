"""Where the backward walk sums a cotangent that is still broadcast, by counts and by XLA's memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from tests.compare import assert_same

POSITIONS = np.random.default_rng(0).uniform(0, 6, (64, 3)).astype(np.float32)
WEIGHTS = np.random.default_rng(1).uniform(1, 2, (4, 5)).astype(np.float32)


def three_body(positions: Any) -> Any:
    """An energy of every triple: a clipped cosine, a decay and a cutoff, as Stillinger and Weber's."""
    d = positions[:, None] - positions
    r = jnp.sqrt((d**2).sum(-1) + 1e-6)
    a, b = r[:, :, None], r[:, None, :]
    cosine = jnp.clip(jnp.einsum("ija,ika->ijk", d, d) / a / b, -1, 1)
    decay = jnp.exp(1.2 / (a - 3.8) + 1.2 / (b - 3.8))
    near = (r < 3.8) & ~jnp.eye(len(r), dtype=bool)
    triples = near[:, :, None] & near[:, None, :]
    return jnp.sum(jnp.where(triples, decay * (cosine + 1 / 3) ** 2, 0))


def temporary(fn: Callable[..., Any], *args: Any) -> int:
    return jax.jit(fn).lower(*args).compile().memory_analysis().temp_size_in_bytes


def test_a_three_body_energy_takes_no_more_memory_than_jax_grads() -> None:
    ours, reference = funcgrad.grad(three_body), jax.grad(three_body)
    assert_same(jax.jit(ours)(POSITIONS), jax.jit(reference)(POSITIONS), rtol=1e-3)
    assert temporary(ours, POSITIONS) <= 1.02 * temporary(reference, POSITIONS)


def equations_of(shape: tuple[int, ...], fn: Callable[..., Any], *args: Any) -> int:
    """How many equations of the program have an output of this shape."""
    jaxpr = jax.make_jaxpr(fn)(*args).jaxpr
    return sum(v.aval.shape == shape for eqn in jaxpr.eqns for v in eqn.outvars)


@pytest.mark.parametrize(
    "factor",
    [jnp.exp, jnp.sqrt, jnp.tanh, lambda x: 2 / x, lambda x: x * jnp.arange(4.0)[:, None]],
    ids=["exp", "sqrt", "tanh", "div", "mul"],
)
def test_a_rule_that_reads_an_array_is_given_the_sum(factor: Callable[..., Any]) -> None:
    def loss(x: Any) -> Any:
        return jnp.sum(WEIGHTS * factor(x))

    x = WEIGHTS[:, :1]
    ours, reference = funcgrad.grad(loss), jax.grad(loss)
    assert_same(ours(x), reference(x))
    assert equations_of((4, 5), ours, x) <= equations_of((4, 5), reference, x)


def test_a_rule_that_reads_scalars_passes_on_what_is_broadcast() -> None:
    def loss(x: Any) -> Any:
        return jnp.sum(jnp.tanh(x - x.mean(1, keepdims=True)))

    gradient = funcgrad.grad(loss)
    assert_same(gradient(WEIGHTS), jax.grad(loss)(WEIGHTS))
    assert equations_of((4, 1), gradient, WEIGHTS) == equations_of((4, 1), loss, WEIGHTS)


def normalised(x: Any, axis: int) -> Any:
    y = x - x.mean(axis, keepdims=True)
    return y / jnp.sqrt(jnp.mean(y**2, axis, keepdims=True) + 1e-5)


@pytest.mark.parametrize("axis", [0, 1])
def test_sums_along_the_first_axis_come_before_arithmetic(axis: int) -> None:
    """Of arithmetic after them, XLA for CPUs makes an array of each number; not along the last axis."""

    def loss(x: Any) -> Any:
        return jnp.sum(jnp.tanh(normalised(x, axis)))

    gradient = funcgrad.grad(loss)
    assert_same(gradient(WEIGHTS), jax.grad(loss)(WEIGHTS))
    eqns = jax.make_jaxpr(gradient)(WEIGHTS).jaxpr.eqns
    divided = sum(
        eqn.primitive is lax.div_p and eqn.outvars[0].aval.shape == (4, 5) for eqn in eqns
    )
    assert divided == 2 + axis  # y / sqrt(..) and its cotangent; the cotangent of the mean


def test_the_sum_for_a_scalar_comes_before_arithmetic() -> None:
    def loss(scale: Any) -> Any:
        return jnp.sum(jnp.sin(WEIGHTS * jnp.exp(scale)))

    gradient = funcgrad.grad(loss)
    assert_same(gradient(0.3), jax.grad(loss)(0.3))
    assert equations_of((4, 5), gradient, 0.3) <= equations_of((4, 5), jax.grad(loss), 0.3)
