"""Where cotangents arrive by the structure alone is where they arrive in a run."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from funcgrad.inspect import graph
from tests.inspect.graphs import models
from tests.inspect.graphs.models import W, X


def carried_late(x):
    """What one step adds to a carry reaches the result two steps later."""

    def step(carry, _):
        a, b, c, unused = carry
        return (jnp.sin(x), a * 2, b + c, unused + 1), jnp.cos(unused)

    return lax.scan(step, (x, x, x, jnp.zeros(3)), None, 4)[0][2].sum()


def unread(x):
    """A loop of whose results one is not read, and so not pulled back."""
    (a, _), _ = lax.scan(lambda c, _: ((jnp.sin(c[0]), jnp.cos(c[1])), None), (x, x), None, 3)
    return a.sum()


def stopped(x):
    return (jnp.sin(lax.stop_gradient(x)) * x + jnp.floor(x)).sum()


def through_integers(x):
    return jnp.sin(x.astype(jnp.int32).astype(jnp.float32)).sum() + x.sum()


@pytest.mark.parametrize(
    ("fun", "args"),
    [
        (models.lecture, (0.5, 2.0)),
        (models.twice, (X,)),
        (models.recurrent, (W, X)),
        (models.looped, (X,)),
        (models.checkpointed, (X,)),
        (models.jitted, (X,)),
        (carried_late, (X,)),
        (unread, (X,)),
        (stopped, (X,)),
        (through_integers, (X,)),
        (lambda x: (x, 2.0)[1], (X,)),
        (jax.vmap(models.looped), (jnp.ones((2, 3)),)),
    ],
)
def test_structure_and_run_agree(fun, args):
    by_structure = graph(fun, *args, values=False)
    by_run = graph(fun, *args)
    assert [n.index for n in by_structure.walk() if n.is_pulled] == [
        n.index for n in by_run.walk() if n.is_pulled
    ]
