"""Every kind of call under JAX's settings for careful users; the expected gradient is jax.grad's.

The settings: no implicit promotion of dtypes or ranks, no tracer that stays, no NaN and no infinity.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import funcgrad
from tests.compare import assert_same
from tests.programs import normal

W = normal(3, 3) * 0.5
X = normal(3, seed=1)


class Row(NamedTuple):
    """A scalar function of (w, x), and the same for jax.grad where that refuses the function."""

    fn: Callable[[Any, Any], Any]
    known: Callable[[Any, Any], Any] | None = None


def step(w: Any, h: Any) -> Any:
    return jnp.tanh(w @ h) * h


def jitted(w: Any, x: Any) -> Any:
    return jnp.sum(jax.jit(step)(w, x))


def scanned(w: Any, x: Any) -> Any:
    def one(carry: Any, row: Any) -> Any:
        h, count = carry
        return (step(w, h) + row, count + 1), h

    (h, count), hs = lax.scan(one, (x, jnp.int32(0)), w)
    return jnp.sum(h) * count.astype(h.dtype) + jnp.sum(hs)


def counted(w: Any, x: Any) -> Any:
    return jnp.sum(lax.fori_loop(0, 3, lambda i, h: step(w, h) + x * i.astype(x.dtype), x))


def until_small(w: Any, x: Any) -> Any:
    return jnp.sum(lax.while_loop(lambda h: jnp.max(jnp.abs(h)) > 1e-2, lambda h: step(w, h), x))


def unrolled(w: Any, x: Any) -> Any:
    count, h = 0, jnp.asarray(X)
    while jnp.max(jnp.abs(h)) > 1e-2:
        count, h = count + 1, step(W, h)
    for _ in range(count):
        x = step(w, x)
    return jnp.sum(x)


def roots(w: Any, x: Any) -> Any:
    """Examples that end at 1/2, where the slope of the body is infinite."""
    loop = lambda c: lax.while_loop(lambda c: c > 0.5, lambda c: jnp.sqrt(c - 0.5), c)
    return jnp.sum(jax.vmap(loop)(jnp.array([0.5, 1.3, 3.0]) * jnp.exp(0.0 * x))) + jnp.sum(w)


def roots_unrolled(w: Any, x: Any) -> Any:
    a, b, c = jnp.array([0.5, 1.3, 3.0]) * jnp.exp(0.0 * x)
    for _ in range(3):
        b = jnp.sqrt(b - 0.5)
    for _ in range(4):
        c = jnp.sqrt(c - 0.5)
    return a + b + c + jnp.sum(w)


def branched(w: Any, x: Any) -> Any:
    found = lax.cond(x[0] > 0, lambda w, x: step(w, x), lambda w, x: x * 2.0, w, x)
    branches = [lambda h: h * h, jnp.sin, lambda h: w @ h]
    return jnp.sum(lax.switch(jnp.argmax(x), branches, found))


def checkpointed(w: Any, x: Any) -> Any:
    policy = jax.checkpoint_policies.dots_saveable
    return jnp.sum(jax.checkpoint(step, policy=policy)(w, jax.checkpoint(step)(w, x)))


def by_minimum_cut(w: Any, x: Any) -> Any:
    return jnp.sum(funcgrad.checkpoint(lambda w, x: step(w, step(w, x)), policy="min-cut")(w, x))


@jax.custom_jvp
def square(x: Any) -> Any:
    return x * x


square.defjvp(lambda primals, tangents: (square(*primals), 2.0 * primals[0] * tangents[0]))


@jax.custom_vjp
def product(w: Any, x: Any) -> Any:
    return w @ x


product.defvjp(
    lambda w, x: (w @ x, (w, x)), lambda wx, ct: (ct[:, None] * wx[1][None, :], ct @ wx[0])
)


def custom(w: Any, x: Any) -> Any:
    return jnp.sum(lax.scan(lambda h, _: (square(product(w, h)), None), x, None, 2)[0])


def solved(w: Any, x: Any) -> Any:
    m = w @ w.T + jnp.eye(3)
    return jnp.sum(jnp.linalg.solve(m, x)) + jnp.sum(jax.scipy.sparse.linalg.cg(m, x)[0])


def root(w: Any, x: Any) -> Any:
    """y where y^3 = e^x + sum(w)^2, by its own iteration."""
    goal = jnp.exp(x[0]) + jnp.sum(w) ** 2
    solve = lambda f, y: lax.fori_loop(0, 30, lambda _, y: y - f(y) / (3.0 * y * y), y)
    return lax.custom_root(lambda y: y * y * y - goal, goal, solve, lambda f, y: y / f(1.0))


def referenced(w: Any, x: Any) -> Any:
    ref = jax.new_ref(x)
    ref[:] = step(w, ref[:])
    ref[0] *= 3.0
    return jnp.sum(ref[:])


def mapped(w: Any, x: Any) -> Any:
    return jnp.sum(lax.map(lambda row: jnp.sum(row * jnp.exp(row[0])) * x, w))


def powers(w: Any, x: Any) -> Any:
    return jnp.sum(lax.associative_scan(jnp.matmul, jnp.stack([w, w * x[0], w])))


ROWS = {
    "jit": Row(jitted),
    "scan": Row(scanned),
    "fori_loop": Row(counted),
    "while_loop": Row(until_small, unrolled),
    "while_loop of ended examples": Row(roots, roots_unrolled),
    "cond and switch": Row(branched),
    "checkpoint": Row(checkpointed),
    "checkpoint by a minimum cut": Row(by_minimum_cut, lambda w, x: jnp.sum(step(w, step(w, x)))),
    "custom derivatives in a scan": Row(custom),
    "linear solves": Row(solved),
    "custom_root": Row(root),
    "references": Row(referenced),
    "map": Row(mapped),
    "associative scan": Row(powers),
}


@contextlib.contextmanager
def careful() -> Iterator[None]:
    with (
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
        jax.checking_leaks(),
        jax.debug_nans(True),
        jax.debug_infs(True),
    ):
        yield


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["", "jit"])
@pytest.mark.parametrize("name", ROWS)
def test_gradient(name: str, wrap: Any) -> None:
    with jax.enable_x64(True):
        row = ROWS[name]
        args = jnp.asarray(W), jnp.asarray(X)
        expected = jax.grad(row.known or row.fn, (0, 1))(*args)
        with careful():
            ours = wrap(funcgrad.grad(row.fn, (0, 1)))(*args)
        assert_same(ours, expected, rtol=1e-10, weak=False)
