"""jax.checkpoint's policies keep as much as under jax.grad, inside scans and conds, too.

The expected counts of operations are those of JAX's own gradients.
"""

from __future__ import annotations

import collections
import re
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import io_callback

import funcgrad
from funcgrad import _jax, errors
from tests.calls.test_hijax import setting
from tests.programs import normal

POLICIES = jax.checkpoint_policies
DOTS = POLICIES.dots_saveable
NAMES = POLICIES.save_only_these_names("hidden")
OFFLOAD = POLICIES.save_and_offload_only_these_names(
    names_which_can_be_saved=[],
    names_which_can_be_offloaded=["hidden"],
    offload_src="device",
    offload_dst="pinned_host",
)
COUNTED = ("dot_general", "sin", "cos", "device_put")


def layers(w: Any, x: Any) -> Any:
    for _ in range(3):
        x = checkpoint_name(jnp.sin(x @ w), "hidden")
    return x


def in_cond(w: Any, x: Any, layers: Any = layers) -> Any:
    return lax.cond(x[0] > 0, lambda x: layers(w, x), lambda x: x, x)


def in_scan(w: Any, x: Any, layers: Any = layers) -> Any:
    return lax.scan(lambda x, _: (layers(w, x), None), x, None, length=2)[0]


@jax.custom_vjp
def layer(w, x):
    return jnp.sin(x @ w)


def layer_fwd(w, x):
    z = x @ w
    return jnp.sin(z), (w, x, z)


def layer_bwd(kept, ct):
    w, x, z = kept
    ct = jnp.cos(z) * ct
    return jnp.outer(x, ct), w @ ct


layer.defvjp(layer_fwd, layer_bwd)

PROGRAMS = {
    "alone": jax.checkpoint(layers, policy=DOTS),
    "cond": jax.checkpoint(in_cond, policy=DOTS),
    "scan": jax.checkpoint(in_scan, policy=DOTS),
    "jit": jax.checkpoint(jax.jit(layers), policy=DOTS),
    "inside cond": lambda w, x: in_cond(w, x, jax.checkpoint(layers, policy=DOTS)),
    "inside scan": lambda w, x: in_scan(w, x, jax.checkpoint(layers, policy=DOTS)),
    "scan of jit of cond": jax.checkpoint(
        lambda w, x: in_scan(w, x, jax.jit(in_cond)), policy=DOTS
    ),
    "custom_vjp in scan": jax.checkpoint(lambda w, x: in_scan(w, x, layer), policy=DOTS),
    "names in scan": jax.checkpoint(in_scan, policy=NAMES),
    "offloaded in scan": jax.checkpoint(in_scan, policy=OFFLOAD),
    "nothing in scan": jax.checkpoint(in_scan),
    "everything in scan": jax.checkpoint(in_scan, policy=POLICIES.everything_saveable),
    "nested": jax.checkpoint(
        lambda w, x: jax.checkpoint(in_scan, policy=DOTS)(w, jax.checkpoint(layers)(w, x)),
        policy=DOTS,
    ),
}


def count_of_operations(jaxpr: Any) -> collections.Counter[str]:
    """How often each operation stands in a jaxpr, at any depth."""
    counts = collections.Counter(eqn.primitive.name for eqn in jaxpr.eqns)
    for eqn in jaxpr.eqns:
        for inner in _jax.inner_jaxprs(eqn.params):
            counts += count_of_operations(inner)
    return counts


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_no_more_is_computed_than_in_jax(program):
    w, x = 0.5 * normal(4, 4), normal(4, seed=1)

    def found(grad: Any) -> tuple[dict[str, int], Any]:
        gradient = grad(lambda w, x: jnp.sum(program(w, x)), (0, 1))
        counts = count_of_operations(jax.make_jaxpr(gradient)(w, x).jaxpr)
        return {name: counts[name] for name in COUNTED}, jax.jit(gradient)(w, x)

    ours, theirs = found(funcgrad.grad), found(jax.grad)
    assert ours[0] == theirs[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 2e-5, 1e-6), ours[1], theirs[1])


def test_what_is_kept_is_rounded_to_its_own_precision():
    """As in JAX: XLA may else go on, in the forward program, with more digits than were kept."""

    def operations(grad: Any) -> collections.Counter[str]:
        gradient = grad(lambda w: jnp.sum(PROGRAMS["alone"](w, jnp.ones(4, jnp.bfloat16))))
        return count_of_operations(jax.make_jaxpr(gradient)(jnp.ones((4, 4), jnp.bfloat16)).jaxpr)

    ours, theirs = operations(funcgrad.grad), operations(jax.grad)
    assert ours["reduce_precision"] == theirs["reduce_precision"] > 0


# --- what a function does besides


def checkpointed_twice(fun: Any, policy: Any) -> Any:
    return jax.checkpoint(jax.checkpoint(fun, policy=policy), policy=policy)


@pytest.mark.parametrize("where", ["alone", "jit", "scan", "cond"])
@pytest.mark.parametrize("policy", [None, POLICIES.everything_saveable, DOTS, NAMES])
@pytest.mark.parametrize("wrap", [jax.checkpoint, checkpointed_twice], ids=["once", "twice"])
def test_prints_run_as_often_as_in_jax(wrap, policy, where):
    seen: collections.Counter[str] = collections.Counter()

    def talking(x, who):
        def fun(x):
            y = checkpoint_name(jnp.sin(x), "hidden")
            jax.debug.callback(lambda _: seen.update([who]), y)
            return jnp.sin(y)

        if where == "scan":
            inner, fun = (
                fun,
                lambda x: lax.scan(lambda c, _: (inner(c), None), x, None, length=3)[0],
            )
        elif where == "cond":
            inner, fun = fun, lambda x: lax.cond(x > 0, inner, jnp.cos, x)
        elif where == "jit":
            fun = jax.jit(fun)
        return wrap(fun, policy=policy)(x)

    funcgrad.grad(lambda x: talking(x, "ours"))(1.0)
    jax.grad(lambda x: talking(x, "theirs"))(1.0)
    jax.effects_barrier()
    assert seen["ours"] == seen["theirs"]


def test_callback_that_may_not_run_twice():
    @jax.checkpoint
    def fun(x, y=2.0):
        io_callback(lambda y: None, None, y)
        return jnp.sin(x)

    for grad in (jax.grad, funcgrad.grad):
        with pytest.raises(NotImplementedError, match="Effects not supported in"):
            grad(fun)(1.0)
    with pytest.raises(errors.CheckpointEffectError, match=r"test_policies.py:\d+.*callback"):
        funcgrad.grad(fun)(1.0)


# --- barriers

BY_PRIMITIVE = (False, True) if jax.__version_info__ >= (0, 12) else (False,)
"""Values of ``jax_remat3``, with which JAX up to 0.11 asks for barriers everywhere."""


def barriers_of(total, *args):
    """The barriers in the lowered gradient by all arguments, a line for each."""
    gradient = jax.jit(funcgrad.grad(total, tuple(range(len(args)))))
    return "\n".join(re.findall(r"optimization_barrier.*", gradient.lower(*args).as_text()))


@pytest.mark.parametrize(
    ("prevent_cse", "of_w", "of_x"),
    [(True, True, True), (False, False, False), ((True, False), True, False),
     ((False, True), False, True), ((False, False), False, False)],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("by_primitive", BY_PRIMITIVE)
def test_barriers_only_where_asked(prevent_cse, of_w, of_x, by_primitive):
    fun = jax.checkpoint(lambda w, x: jnp.sin(x @ w), prevent_cse=prevent_cse)
    with setting("jax_remat3", by_primitive):
        barriers = barriers_of(lambda w, x: jnp.sum(fun(w, x)), normal(5, 4), normal(3, 5))
    assert ("tensor<5x4xf32>" in barriers, "tensor<3x5xf32>" in barriers) == (of_w, of_x)


@pytest.mark.parametrize("by_primitive", BY_PRIMITIVE)
def test_barriers_by_pytree(by_primitive):
    fun = jax.checkpoint(
        lambda p: jnp.sin(p["x"] @ p["w"]), prevent_cse=cast(Any, ({"w": False, "x": True},))
    )
    p = {"w": normal(5, 4), "x": normal(3, 5)}
    with setting("jax_remat3", by_primitive):
        barriers = barriers_of(lambda p: jnp.sum(fun(p)), p)
    assert ("tensor<5x4xf32>" in barriers, "tensor<3x5xf32>" in barriers) == (False, True)


@pytest.mark.skipif(
    not hasattr(jax.config, "jax_remat_barrier_no_cotangents"), reason="JAX has it from 0.12 on"
)
@pytest.mark.parametrize("without", [False, True])
def test_barriers_without_cotangents(without):
    """The product, which is kept, and its cotangent are of this shape."""
    policy = jax.checkpoint_policies.dots_saveable
    fun = jax.checkpoint(lambda w, x: jnp.sin(x @ w), policy=policy, prevent_cse=(False, True))
    with setting("jax_remat3"), setting("jax_remat_barrier_no_cotangents", without):
        barriers = barriers_of(lambda w, x: jnp.sum(fun(w, x)), normal(5, 4), normal(3, 5))
    assert barriers.count("tensor<3x4xf32>") == (1 if without else 2)


# --- cotangents of some outputs alone


def of_two(x: Any) -> Any:
    """One output of infinite slope, and one to be differentiated."""
    return jnp.sqrt(x - x), jnp.sin(x) * jnp.exp(jnp.tanh(x) @ x)


def chosen(x: Any) -> Any:
    first, second = lax.cond(x[0] > 0, of_two, lambda x: (x, jnp.cos(x)), lax.erf_inv(jnp.sin(x)))
    return jnp.exp(jnp.tanh(first)), second


def clipped(x: Any) -> Any:
    first, second = of_two(jnp.clip(x, -1, 1))
    return first, second.at[jnp.array([0])].min(0.5)


SEVERAL = {
    "operations": of_two,
    "jit": lambda x: jax.jit(of_two)(jnp.exp(x) / 4),
    "cond": chosen,
    "scatter": clipped,
    "scan": lambda x: lax.scan(lambda c, _: of_two(c)[::-1], jnp.sin(x), None, length=2)[::-1],
    "jit in scan": lambda x: lax.scan(
        lambda c, _: jax.jit(of_two)(c * x)[::-1], jnp.sin(x), None, length=2
    )[::-1],
    "custom_vjp": lambda x: (jnp.sqrt(x - x), layer(jnp.outer(x, x), jnp.tanh(x))),
    "checkpoint": lambda x: jax.checkpoint(of_two)(jnp.exp(x) / 4),
}
SAVED = {
    "nothing": None,
    "everything": POLICIES.everything_saveable,
    "dots": DOTS,
    "cut": funcgrad.checkpoint,
}


@pytest.mark.parametrize("around", ["alone", "scan"])
@pytest.mark.parametrize("policy", SAVED.values(), ids=SAVED)
@pytest.mark.parametrize("program", SEVERAL.values(), ids=SEVERAL)
def test_an_output_that_gets_no_cotangent_does_no_harm(program, policy, around):
    """Zeros in its place would be: zero times an infinite slope is NaN."""
    x = 0.2 + 0.1 * abs(normal(3))
    checkpointed = (
        policy(program) if policy is SAVED["cut"] else jax.checkpoint(program, policy=policy)
    )

    def loss(program: Any, x: Any) -> Any:
        if around == "alone":
            return jnp.sum(program(x)[1])
        step = lambda c, _: (program(c)[1] * x, program(c * x)[0])
        return jnp.sum(lax.scan(step, x, None, length=2)[0])

    expected = jax.grad(lambda x: loss(program, x))(x)
    assert np.all(np.isfinite(expected))
    found = jax.jit(funcgrad.grad(lambda x: loss(checkpointed, x)))(x)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
