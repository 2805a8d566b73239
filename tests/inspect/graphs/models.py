"""Small functions for graphs, each with a version that is perturbed at a value inside."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

STEPS = 4


def lecture(w, x):
    """A value that is used twice, and names that the user gave."""
    a = w * x
    h = jnp.tanh(a)
    p = h * w
    e = p - 1.0
    return e**2


def twice(x, of_use=None, of_value=None):
    """`h` is read twice; what is added at a use or at the value has the cotangent there."""
    h = jnp.sin(x)
    h = h if of_value is None else h + of_value
    one, other = (h, h) if of_use is None else (h + of_use[0], h + of_use[1])
    return jnp.sum(one * 3.0) + jnp.sum(jnp.exp(other))


def recurrent(w, x, noise=None):
    """A scan; `noise` is added to what a step makes."""

    def step(carry, given):
        wi, extra = given
        z = wi @ carry
        h = jnp.tanh(z) + extra
        return h, h.sum()

    noise = jnp.zeros((STEPS, 3)) if noise is None else noise
    last, sums = lax.scan(step, x, (w, noise))
    return last.sum() + (sums**2).sum()


def looped(x, count=3):
    """A loop whose length is known at run time."""

    def body(state):
        i, y = state
        return i + 1, jnp.sin(y) * 2.0

    return lax.while_loop(lambda state: state[0] < count, body, (0, x))[1].sum()


def branched(x, noise=0.0):
    """Of two branches one is taken."""
    taken = lambda x: jnp.sum(jnp.sin(x) + noise)
    return lax.cond(x.sum() > 0, lambda x: taken(x) * 2.0, lambda x: jnp.sum(jnp.cos(x)), x)


def checkpointed(x, noise=0.0):
    """Inside a checkpoint."""
    return jax.checkpoint(lambda x: jnp.sum(jnp.exp(jnp.sin(x) + noise)))(x)


def jitted(x, noise=0.0):
    """Inside a jitted function."""
    return jax.jit(lambda x: jnp.sum(jnp.exp(jnp.sin(x) + noise)))(x)


X = jnp.array([0.3, 0.5, -0.2])
W = 0.5 * jax.random.normal(jax.random.key(0), (STEPS, 3, 3))
