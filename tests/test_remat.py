"""jax.checkpoint: same gradients, fewer residuals, its policies honoured."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

import funcgrad
from tests.programs import check_program, normal

POLICIES = {
    "none": None,
    "everything": jax.checkpoint_policies.everything_saveable,
    "nothing": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_saveable,
    "name": jax.checkpoint_policies.save_only_these_names("inner"),
}


def block(w, x):
    hidden = checkpoint_name(jnp.sin(jnp.tanh(w @ x) @ x), "inner")
    return jnp.exp(hidden) * jax.nn.relu(x)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
def test_gradient(policy):
    def fun(w, x):
        return jnp.sum(jax.checkpoint(block, policy=policy)(w, x) ** 2)

    check_program(fun, 0.3 * normal(3, 3), 0.3 * normal(3, 3, seed=1))


def test_in_scan():
    def fun(w, x):
        step = jax.checkpoint(lambda c, _: (jnp.sin(w @ c), None), prevent_cse=False)
        return jnp.sum(lax.scan(step, x, None, length=3)[0])

    check_program(fun, normal(3, 3), normal(3, seed=1))


def kept(policy):
    """What is kept besides the inputs, by shape."""
    w, x = jnp.ones((3, 4)), jnp.ones((4, 4))
    checkpointed = jax.checkpoint(lambda w, x: jnp.sin(jnp.tanh(w @ x) @ x), policy=policy)
    _, pullback = funcgrad.vjp(checkpointed, w, x)
    return [r.shape for r in pullback.residuals if r.shape == (3, 4) and not (r == w).all()]


def test_only_what_the_policy_saves_is_kept():
    assert kept(None) == []
    assert kept(POLICIES["dots"]) == [(3, 4)] * 2
    assert len(kept(POLICIES["everything"])) >= 2


def test_the_computation_is_replayed_in_the_backward_program():
    def count_of_tanh(fun):
        pullback = jax.make_jaxpr(lambda x: funcgrad.vjp(fun, x)[1](x))(jnp.ones(3))
        return str(pullback).count("tanh")

    plain = lambda x: jnp.sin(jnp.tanh(x))
    assert count_of_tanh(jax.checkpoint(plain)) == count_of_tanh(plain) + 1
