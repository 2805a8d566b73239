"""Calls whose function is given a differentiated value and gives out constants."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec

import funcgrad


def constants(*_):
    return 2.0, 3.0


def scanned(x, length=5):
    return sum(lax.scan(lambda c, _: (constants(), ()), (x, 0.0), (), length=length)[0])


def scanned_with_results(x):
    carry, ys = lax.scan(lambda c, _: (constants(), 4.0), (x, x), (), length=5)
    return sum(carry) + ys.sum()


def counted(x):
    return sum(lax.fori_loop(0, 3, lambda i, c: constants(), (x, x)))


def while_positive(x):
    body, start = (lambda c: (c[0] - 1, *constants())), (3, x, x)
    return sum(lax.while_loop(lambda c: c[0] > 0, body, start)[1:])


def sharded(x):
    mesh, spec = jax.make_mesh((1,), ("i",)), PartitionSpec()
    return sum(jax.shard_map(constants, mesh=mesh, in_specs=spec, out_specs=spec)(x))


CALLS = {
    "scan": scanned,
    "scan with results": scanned_with_results,
    "fori_loop": counted,
    "while_loop": while_positive,
    "cond": lambda x: sum(lax.cond(x > 0, constants, constants, x)),
    "cond, one branch": lambda x: sum(lax.cond(x > 0, constants, lambda x: (x, x), x)),
    "checkpoint": lambda x: sum(jax.checkpoint(constants)(x)),
    "checkpoint by policy": lambda x: sum(
        jax.checkpoint(constants, policy=jax.checkpoint_policies.dots_saveable)(x)
    ),
    "checkpoint by cut": lambda x: sum(funcgrad.checkpoint(constants, policy="min-cut")(x)),
    "checkpoint within a budget": lambda x: sum(funcgrad.checkpoint(constants, budget=1.0)(x)),
    "jit": lambda x: sum(jax.jit(constants)(x)),
    "shard_map": sharded,
    "scan in checkpoint": jax.checkpoint(scanned),
    "scan in cond": lambda x: lax.cond(x > 0, scanned, lambda x: x, x),
    "scan in scan": lambda x: lax.scan(lambda c, _: (scanned(c), ()), x, None, length=2)[0],
}


@pytest.mark.parametrize("fun", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["", "jitted"])
def test_the_gradient_is_zero(fun, transform):
    value, ct_x = transform(funcgrad.value_and_grad(fun))(np.float32(0.7))
    assert value == fun(np.float32(0.7))
    assert ct_x == 0.0


def test_a_scan_of_no_steps_gives_out_what_it_was_given():
    assert funcgrad.grad(lambda x: scanned(x, length=0))(np.float32(0.7)) == 1.0
