"""Budgets of a whole function reach into the bodies of its scans."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import jaxprs_in_params

import funcgrad
from funcgrad import errors
from funcgrad.partition.budget import LEVELS, Search
from funcgrad.partition.plan import joint_of
from funcgrad.partition.split import split_of
from tests.compare import assert_same
from tests.programs import normal

W, X = 0.3 * normal(8, 8), normal(16, 8, seed=1)


def layer(x, w):
    """A step with one sine, whose intermediate values are worth keeping."""
    return x + jnp.tanh(jnp.sin(x @ w) * jnp.exp(-(x**2))) @ w


def layers(x, w, count=10, step=layer, **options):
    return lax.scan(lambda x, _: (step(x, w), None), x, None, count, **options)[0]


def in_sequence(w, x):
    y = layer(layers(x, w), w)
    y, ys = lax.scan(lambda x, _: (layer(x, w), x[0]), y, None, 6, reverse=True)
    return jnp.sum(y**2) + jnp.sum(ys)


def nested(w, x):
    return jnp.sum(layers(x, w, 6, lambda x, w: layers(x, w, 5)) ** 2)


def in_a_branch(w, x):
    return jnp.sum(lax.cond(x[0, 0] < 9, lambda: layers(x, w), lambda: x @ w) ** 2)


def with_elements(w, x):
    """Each step has an element of its own, a carry that no gradient passes, and a literal result."""

    def step(carry, w):
        x, count = carry
        return (layer(x, w) * jnp.cos(count), count + 1.0), 2.0

    ws = jnp.stack([w, w.T, 2 * w, w - 1])
    (x, _), twos = lax.scan(step, (x, 0.0), ws)
    return jnp.sum(x) + jnp.sum(twos)


PROGRAMS: dict[str, Callable[..., Any]] = {
    "one": lambda w, x: jnp.sum(layers(x, w) ** 2),
    "in sequence": in_sequence,
    "nested": nested,
    "in a branch": in_a_branch,
    "in a jit": lambda w, x: jnp.sum(jax.jit(layers)(x, w) ** 2),
    "unrolled": lambda w, x: jnp.sum(layers(x, w, 6, unroll=6)),
    "a fori_loop": lambda w, x: jnp.sum(lax.fori_loop(0, 7, lambda i, x: layer(x, w), x)),
    "in a map": lambda w, x: jnp.sum(lax.map(lambda row: layers(row[None], w), x) ** 2),
    "with elements": with_elements,
}


def sines(jaxpr: Any) -> int:
    """How many sines a program computes; of branches the one that computes most."""
    count = 0
    for eqn in jaxpr.eqns:
        inner = [sines(body) for body in jaxprs_in_params(eqn.params)]
        times = eqn.params["length"] if eqn.primitive is lax.scan_p else 1
        together = max if eqn.primitive is lax.cond_p else sum
        count += times * together(inner) if inner else eqn.primitive is lax.sin_p
    return count


def region(fun, *args):
    """What the planner estimates of a checkpointed function, and of keeping everything."""
    ledger = funcgrad.inspect.residuals(fun, *args, compiled=False, suggest=False)
    return ledger.regions[0]


def smallest_budget(fun, *args) -> int:
    with pytest.raises(errors.BudgetError) as caught:
        funcgrad.grad(funcgrad.checkpoint(fun, budget=1))(*args)
    found = re.search(r"budget for this function is ([\d,]+)", " ".join(str(caught.value).split()))
    assert found is not None
    return int(found[1].replace(",", ""))


@pytest.mark.parametrize(
    "name", ["one", *(pytest.param(n, marks=pytest.mark.slow) for n in PROGRAMS if n != "one")]
)
def test_at_the_smallest_budget_a_step_runs_twice_and_the_gradient_is_the_same(name):
    fun = PROGRAMS[name]
    with jax.enable_x64(True):
        smallest = smallest_budget(fun, W, X)
        checkpointed = funcgrad.checkpoint(fun, budget=smallest)
        assert region(checkpointed, W, X).estimate.peak <= smallest
        found = jax.jit(funcgrad.grad(checkpointed, (0, 1)))(W, X)
        assert_same(found, jax.jit(jax.grad(fun, (0, 1)))(W, X), rtol=1e-10)
        forward = sines(jax.make_jaxpr(fun)(W, X).jaxpr)
        both = sines(jax.make_jaxpr(funcgrad.grad(checkpointed))(W, X).jaxpr)
        assert forward < both <= 2 * forward


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one", "nested", "with elements"])
def test_every_transform_takes_it(name):
    fun = PROGRAMS[name]
    with jax.enable_x64(True):
        w, x = jnp.asarray(W), jnp.asarray(X)
        checkpointed = funcgrad.checkpoint(fun, budget=smallest_budget(fun, w, x))

        def answers(fun, grad):
            batch = jax.vmap(grad(fun), (0, None))(jnp.stack([w, 2 * w]), x)
            second = grad(lambda w: jnp.sum(jnp.sin(grad(fun)(w, x))))(w)
            forward = jax.jvp(lambda w: grad(fun)(w, x), (w,), (w,))[1]
            return batch, second, forward

        found = jax.jit(lambda: answers(checkpointed, funcgrad.grad))()
        assert_same(found, jax.jit(lambda: answers(fun, jax.grad))(), rtol=1e-10)
        assert_same(funcgrad.grad(checkpointed)(w, x), jax.grad(fun)(w, x), rtol=1e-10)


def test_estimates_stay_within_budgets_and_repeat_more_the_less_there_is():
    def fun(w, x):
        return jnp.sum(layers(x, w, 12, lambda x, w: layer(layer(layer(x, w), w.T), w)) ** 2)

    most = region(funcgrad.checkpoint(fun, budget=1.0), W, X).everything.peak
    repeated, peaks = [], []
    for fraction in (1.0, 0.7, 0.5, 0.4):
        found = region(funcgrad.checkpoint(fun, budget=fraction), W, X)
        assert found.everything.peak == most
        assert found.estimate.peak <= fraction * most
        repeated.append(found.estimate.repeated)
        peaks.append(found.estimate.peak)
    assert repeated[0] == 0 < repeated[1]
    assert repeated == sorted(repeated)
    assert peaks == sorted(peaks, reverse=True)


def test_the_smallest_budget_keeps_what_checkpoints_of_the_steps_keep():
    ours = lambda w, x: jnp.sum(layers(x, w) ** 2)
    by_hand = lambda w, x: jnp.sum(layers(x, w, step=jax.checkpoint(layer)) ** 2)
    checkpointed = funcgrad.checkpoint(ours, budget=smallest_budget(ours, W, X))

    def temporary(fun) -> int:
        compiled = jax.jit(funcgrad.grad(fun, (0, 1))).lower(W, X).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(checkpointed) <= 1.05 * temporary(by_hand)
    assert temporary(checkpointed) < 0.6 * temporary(ours)


def test_plans_between_two_prices_keep_less_and_less():
    closed = jax.make_jaxpr(lambda w, x: layer(layer(layer(x, w), w.T), w))(W, X)
    split = split_of(closed, (True, True), funcgrad.DEFAULT)
    search = Search(joint_of(split), split.inputs)
    plans = [search.estimate(search.between(level)) for level in range(LEVELS)]
    assert plans[0].kept > plans[-1].kept == 0
    assert len({plan.kept for plan in plans}) > 4
    assert all(b.kept <= a.kept for a, b in zip(plans[::8], plans[8::8], strict=False))
    assert all(b.repeated >= a.repeated for a, b in zip(plans[::8], plans[8::8], strict=False))


@pytest.mark.slow
def test_a_while_loop_keeps_its_snapshots_whatever_the_budget():
    def fun(w, x):
        step = lambda c: (layer(c[0], w), c[1] + 1)
        return jnp.sum(lax.while_loop(lambda c: c[1] < 5, step, (x, 0))[0])

    smallest = smallest_budget(fun, W, X)
    found = jax.jit(funcgrad.grad(funcgrad.checkpoint(fun, budget=smallest)))(W, X)
    expected = jax.jit(jax.grad(lambda w, x: jnp.sum(layers(x, w, 5))))(W, X)
    np.testing.assert_allclose(found, expected, rtol=2e-4)


@pytest.mark.slow
def test_jax_grad_takes_it_too():
    fun = PROGRAMS["one"]
    checkpointed = funcgrad.checkpoint(fun, budget=smallest_budget(fun, W, X))
    found = jax.jit(jax.grad(checkpointed))(W, X)
    assert_same(found, jax.jit(jax.grad(fun))(W, X), rtol=1e-5)
