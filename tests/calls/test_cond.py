"""cond and switch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from tests.programs import check_program, normal


def in_scan(x):
    def step(c, i):
        return lax.cond(i % 2 == 0, lambda c: jnp.sin(c) * x, lambda c: c * c, c), c

    return jnp.sum(lax.scan(step, x, jnp.arange(4))[1])


def switch_over(index):
    branches = [jnp.sin, lambda v: v * v, lambda v: jnp.ones_like(v), lambda v: jnp.cumsum(v) ** 2]
    return lambda x: jnp.sum(lax.switch(index, branches, x) * x)


PROGRAMS = {
    "operands": (
        lambda x, y: lax.cond(
            jnp.sum(x) > 0, lambda a, b: jnp.sum(a * b), lambda a, b: jnp.sum(jnp.sin(a)), x, y
        ),
        normal(3),
        normal(3, seed=1),
    ),
    "closed over": (
        lambda x, y: lax.cond(jnp.sum(x) > 0, lambda a: jnp.sum(a * y**2), lambda a: 3.0, x),
        normal(3),
        normal(3, seed=1),
    ),
    "integer output": (
        lambda x: jnp.prod(
            jnp.stack(lax.cond(x > 0, lambda a: (a * a, 2), lambda a: (jnp.sin(a), 3), x))
        ),
        0.7,
    ),
    "in scan": (in_scan, 0.7),
    "no branch depends": (lambda x: x * lax.cond(x > 0, lambda a: 2.0, lambda a: 3.0, x), 0.7),
    **{f"switch {i}": (switch_over(i), normal(3)) for i in range(4)},
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_gradient(program):
    check_program(*program)


def test_a_predicate_per_example():
    def fun(x):
        return lax.cond(x > 0, lambda a: a**3, jnp.sin, x)

    x = jnp.asarray(normal(4), jnp.float32)
    np.testing.assert_allclose(
        jax.vmap(funcgrad.grad(fun))(x), jax.vmap(jax.grad(fun))(x), rtol=1e-6
    )


def test_residuals_of_one_type_share_a_place():
    def fun(i, x):
        return lax.switch(i, [lambda v: jnp.exp(jnp.sin(v)), lambda v: jnp.tanh(jnp.exp(v))], x)

    _, pullback = funcgrad.vjp(lambda x: fun(jnp.int32(1), x), jnp.ones(7))
    assert sum(r.shape == (7,) for r in pullback.residuals) <= 3


def by_platform(x):
    """Another operation of the forward and of the backward program on each platform."""
    return jnp.sum(lax.platform_dependent(x, cpu=jnp.exp, tpu=jnp.sin, default=jnp.tanh) * x)


OF_PLATFORM = {"cpu": "exponential", "tpu": "sine", "cuda": "tanh"}


@pytest.mark.parametrize("platform", OF_PLATFORM)
@pytest.mark.parametrize("jitted", [False, True], ids=["", "jitted"])
@pytest.mark.parametrize("batched", [False, True], ids=["", "vmapped"])
def test_only_the_branch_of_the_platform_is_lowered(platform, jitted, batched):
    gradient = funcgrad.grad(jax.jit(by_platform) if jitted else by_platform)
    gradient = jax.vmap(gradient) if batched else gradient
    traced = jax.jit(gradient).trace(jnp.ones((2, 3) if batched else 3))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    ops = {"exponential", "sine", "cosine", "tanh"}
    found = {op for op in ops if f"stablehlo.{op} " in text}
    assert found == {OF_PLATFORM[platform]} | ({"cosine"} if platform == "tpu" else set())


def test_the_branch_of_the_platform_has_its_gradient():
    """On a CPU the branch is x exp(x); on other platforms JAX knows."""
    x = jnp.asarray(normal(3), jnp.float32)
    on_cpu = jax.default_backend() == "cpu"
    expected = jnp.exp(x) * (1 + x) if on_cpu else jax.grad(by_platform)(x)
    for gradient in (funcgrad.grad(by_platform), jax.jit(funcgrad.grad(jax.jit(by_platform)))):
        np.testing.assert_allclose(gradient(x), expected, rtol=1e-6)
