"""Functions whose ledgers are checked, with arguments."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

W, X = jnp.eye(8) / 2, jnp.linspace(0.5, 1.5, 128).reshape(16, 8)


def block(w, x):
    h = jnp.tanh(x @ w)
    return (h * jnp.exp(-(h**2))) @ w.T


def chain(ws, x, block=block):
    for w in ws:
        x = block(w, x)
    return jnp.sum(x)


def scanned(ws, x, block=block):
    return jnp.sum(lax.scan(lambda x, w: (block(w, x), None), x, ws)[0])


def newton(a):
    going = lambda x: jnp.max(jnp.abs(x * x - a)) > 1e-6
    return jnp.sum(lax.while_loop(going, lambda x: (x + a / x) / 2, a))


def either(x):
    return jnp.sum(lax.cond(jnp.sum(x) > 0, lambda x: jnp.sin(x) * x, jnp.exp, x))


@jax.custom_vjp
def doubled(x):
    return x * 2


doubled.defvjp(lambda x: (x * 2, (x, jnp.sin(x))), lambda residuals, ct: (ct * residuals[1],))

OFFLOAD = jax.checkpoint_policies.offload_dot_with_no_batch_dims("device", "pinned_host")


def offloaded(w, x):
    return jnp.sum(jax.checkpoint(lambda w, x: jnp.sin(jnp.tanh(x @ w) @ w), policy=OFFLOAD)(w, x))


def recurrent(w, xs):
    """A recurrent network whose weights are much larger than what a step reads."""
    n = w.shape[1]

    def step(h, x):
        h = jnp.tanh(jnp.concatenate([h, x]) @ w)
        return h, h

    return jnp.sum(lax.scan(step, jnp.zeros(n), xs)[1] ** 2)


WS = jnp.stack([W * (1 + i / 8) for i in range(6)])

PROGRAMS: dict[str, tuple[Any, ...]] = {
    "chain": (chain, list(WS), X),
    "jitted blocks": (lambda ws, x: chain(ws, x, jax.jit(block)), list(WS), X),
    "checkpoint": (lambda ws, x: chain(ws, x, jax.checkpoint(block)), list(WS), X),
    "scan": (scanned, WS, X),
    "while": (newton, X),
    "cond": (either, X),
    "custom_vjp": (lambda x: jnp.sum(doubled(x) * jax.nn.relu(x)), X),
    "offload": (offloaded, W, X),
    "recurrent": (recurrent, jnp.ones((48, 32)) / 48, jnp.ones((20, 16))),
    "constant": (lambda w: jnp.sum(jnp.tanh(X @ w)), W),
    "softmax": (lambda w, x: jnp.sum(jax.nn.logsumexp(x @ w, axis=-1) ** 2), W, X),
}


def bytes_of(tree) -> int:
    """The bytes of all arrays in a pytree, by their own count."""
    return sum(x.nbytes for x in jax.tree.leaves(tree))
