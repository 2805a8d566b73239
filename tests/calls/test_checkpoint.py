"""jax.checkpoint: same gradients, fewer residuals, its policies honoured."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Primitive
from jax.interpreters import ad

import funcgrad
from funcgrad import _jax
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


OFFLOAD = jax.checkpoint_policies.save_and_offload_only_these_names(
    names_which_can_be_saved=[],
    names_which_can_be_offloaded=["inner"],
    offload_src="device",
    offload_dst="pinned_host",
)


def offloaded(w, x):
    return jnp.sum(jax.checkpoint(block, policy=OFFLOAD)(w, x) ** 2)


def test_offloaded_values_wait_in_host_memory():
    w, x = jnp.ones((3, 3)), jnp.ones((3, 3))
    transfers = str(jax.make_jaxpr(funcgrad.grad(offloaded))(w, x))
    expected = str(jax.make_jaxpr(jax.grad(offloaded))(w, x))
    assert transfers.count("device_put") == expected.count("device_put") == 2
    _, pullback = jax.jit(lambda w: funcgrad.vjp(offloaded, w, x))(w)
    kinds = {residual.sharding.memory_kind for residual in pullback.residuals}
    assert "pinned_host" in kinds


def test_gradient_of_an_offloading_checkpoint():
    """JAX cannot differentiate its gradient again: the plain function says what is right."""
    plain = lambda w, x: jnp.sum(block(w, x) ** 2)
    w, x = 0.3 * normal(3, 3), 0.3 * normal(3, 3, seed=1)
    batch = jnp.stack([w, 2 * w])

    def second(grad, fun):
        return grad(lambda w: jnp.sum(jnp.sin(grad(fun)(w, x))))

    for ours, expected in (
        (funcgrad.grad(offloaded)(w, x), jax.grad(plain)(w, x)),
        (jax.jit(funcgrad.grad(offloaded))(w, x), jax.grad(plain)(w, x)),
        (
            jax.vmap(lambda w: funcgrad.grad(offloaded)(w, x))(batch),
            jax.vmap(lambda w: jax.grad(plain)(w, x))(batch),
        ),
        (second(funcgrad.grad, offloaded)(w), second(jax.grad, plain)(w)),
    ):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_offloading_in_a_scan():
    def fun(w, x):
        step = jax.checkpoint(lambda c, _: (block(w, c), None), policy=OFFLOAD, prevent_cse=False)
        return jnp.sum(lax.scan(step, x, None, length=3)[0])

    w, x = 0.3 * normal(3, 3), 0.3 * normal(3, 3, seed=1)
    expected = jax.jit(jax.grad(fun, (0, 1)))(w, x)
    for gradient in (funcgrad.grad(fun, (0, 1)), jax.jit(funcgrad.grad(fun, (0, 1)))):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 2e-5), gradient(w, x), expected)


def test_a_primitive_that_cannot_be_compiled() -> None:
    """JAX runs a checkpointed function's operations one by one, so they need no lowering."""
    cube_p = Primitive("cube_without_lowering")
    cube_p.def_impl(lambda x: x**3)
    cube_p.def_abstract_eval(lambda x: x)
    ad.primitive_jvps[cube_p] = lambda primals, tangents: (
        cube_p.bind(*primals),
        3 * primals[0] ** 2 * tangents[0],
    )

    def loss(x: Any) -> Any:
        return jnp.sum(jax.checkpoint(lambda x: jnp.sin(cube_p.bind(jnp.sin(x))))(x))

    x = jnp.arange(1.0, 4.0)
    np.testing.assert_allclose(funcgrad.grad(loss)(x), jax.grad(loss)(x), rtol=1e-5)
    rules = funcgrad.DEFAULT.override({cube_p: lambda ct, x, **_: 3 * x**2 * ct})
    np.testing.assert_allclose(funcgrad.grad(loss, rules=rules)(x), jax.grad(loss)(x), rtol=1e-5)
    closed = jax.make_jaxpr(lambda x: jnp.sin(cube_p.bind(jnp.sin(x))))(x)

    def staged(x: Any) -> Any:
        name = "call_jaxpr" if jax.__version_info__ >= (0, 12) else "jaxpr"
        run = lambda x: _jax.eval_jaxpr_p.bind(x, **{name: closed})[0]
        return jnp.sum(jax.checkpoint(run)(x))

    np.testing.assert_allclose(funcgrad.grad(staged)(x), jax.grad(loss)(x), rtol=1e-5)


@pytest.mark.parametrize("grad", [jax.grad, funcgrad.grad], ids=["jax", "funcgrad"])
def test_profilers_find_what_is_computed_again_by_its_name_scope(grad):
    f = lambda x: jnp.sum(jnp.sin(jnp.sin(x)))
    scope = "rematted_computation"
    shown = lambda f: jax.jit(grad(f)).lower(jnp.ones(3)).as_text(debug_info=True)
    assert scope in shown(jax.checkpoint(f))
    assert scope not in shown(f)
