"""Threads with taps, edits, overrides by place and kink policies of their own, all at once."""

from __future__ import annotations

import functools
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from funcgrad import at
from tests.compare import assert_same

THREADS, ROUNDS = 32, 2
X = np.array([0.0, 0.4, -0.7], np.float32)
"""At 0 the two functions of `kinked` have kinks."""
SLOPES = {"jax": 11.0, "zero": 10.0, "torch": 0.1}
"""Of ``|x| + 10 leaky_relu(x)`` at 0, by the table of docs/kinks.md."""
POLICIES = (*SLOPES, "raise")


@jax.jit
def shared(x: Any) -> Any:
    """All threads call this one jitted function, whose trace JAX keeps."""
    with jax.named_scope("inner"):
        h = jnp.sin(x)
    with jax.named_scope("outer"):
        y = h**2
    with jax.named_scope("kinked"):
        return y + jnp.abs(x) + 10 * jax.nn.leaky_relu(x)


def loss(x: Any) -> Any:
    return jnp.sum(shared(x))


def of_thread(k: int, x: Any) -> Any:
    """Gradient and tap of thread `k`: a shift forward, two factors backward, a tap, a policy."""

    def scaled_vjp(ct: Any, *operands: Any, original: Any, **params: Any) -> Any:
        return (k + 2) * original(ct, *operands, **params)

    policy = funcgrad.kinks(POLICIES[k % 4])
    rules = policy.override({lax.sin_p: scaled_vjp}, at=at("inner"))
    edit = [at("inner").value(lambda h: h + k), at("outer").cotangent(lambda ct: (k + 1) * ct)]
    taps = {"tapped": at(("inner", "outer")[k // 4 % 2])}
    gradient, found = funcgrad.grad(loss, rules=rules, edit=edit, taps=taps)(x)
    return gradient, found["tapped"].value, found["tapped"].cotangent


def by_hand(k: int) -> tuple[Any, Any, Any]:
    h = np.sin(X) + k
    ct_h = 2 * h * (k + 1)
    kinks = np.where(X == 0, SLOPES[POLICIES[k % 4]], np.where(X > 0, 11, -1 + 0.1))
    ct_x = (k + 2) * ct_h * np.cos(X) + kinks
    inner, outer = (h, ct_h), (h**2, np.ones_like(h))
    found = (ct_x, *(inner, outer)[k // 4 % 2])
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), found)


def at_once(work: Any) -> dict[int, list[Any]]:
    """What `work` returns or raises in each thread, round by round; all threads start together."""
    found: dict[int, list[Any]] = {k: [] for k in range(THREADS)}
    started = threading.Barrier(THREADS)

    def run(k: int) -> None:
        for _ in range(ROUNDS):
            started.wait()
            try:
                found[k].append(jax.block_until_ready(work(k)))
            except Exception as error:
                found[k].append(error)

    threads = [threading.Thread(target=run, args=(k,)) for k in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: jax.jit(f, static_argnums=0)],
                         ids=["plain", "jit"])  # fmt: skip
def test_threads_never_meet_and_nothing_leaks(wrap):
    """Under jit all threads share one jitted function, with a cache entry for each."""
    before = jax.jit(funcgrad.grad(loss))
    expected, program = jax.grad(loss)(X), str(jax.make_jaxpr(funcgrad.grad(loss))(X))
    assert_same(before(X), expected, rtol=1e-6)

    found = at_once(functools.partial(lambda step, k: step(k, X), wrap(of_thread)))

    for k, rounds in found.items():
        assert len(rounds) == ROUNDS
        for one in rounds:
            if POLICIES[k % 4] == "raise":
                assert isinstance(one, Exception), k
                assert "kink" in str(one), k
                continue
            if isinstance(one, Exception):
                raise one
            for ours, theirs in zip(one, by_hand(k), strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5, err_msg=f"{k}")
    for later in (before, funcgrad.grad(loss), jax.jit(funcgrad.grad(loss)), jax.grad(loss)):
        assert_same(later(X), expected, rtol=1e-6)
    assert str(jax.make_jaxpr(funcgrad.grad(loss))(X)) == program
    assert_same(shared(X), jnp.sin(X) ** 2 + jnp.abs(X) + 10 * jax.nn.leaky_relu(X), rtol=1e-6)
