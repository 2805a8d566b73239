"""Random programs are right, and a wrong rule, a kink and an error are seen for what they are."""

from __future__ import annotations

from random import Random
from typing import Any

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax import lax
from jax.extend.core import Primitive

import funcgrad
from funcgrad.testing.fuzz import one
from funcgrad.testing.fuzz.generator import generate
from funcgrad.testing.fuzz.programs import shrink
from funcgrad.testing.fuzz.tastes import LOOPED, MIXED, SMALL

PART, PARTS = 20, 6


@pytest.mark.parametrize("part", range(PARTS))
def test_random_programs(part: int) -> None:
    """hypothesis draws, and shrinks what fails; the message has the program."""

    @hypothesis.seed(part)
    @hypothesis.settings(
        max_examples=PART,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(st.randoms(use_true_random=False), st.integers(0, 10**6))
    def run(random: Any, seed: int) -> None:
        program = generate(random, SMALL, seed)
        mode, order = one.plan(program, seed)
        outcome = one.check(program, mode, order)
        assert outcome.failure is None, f"{mode}, order {order}\n{outcome.failure}\n{program.text}"

    run()


@pytest.mark.slow(landing=True)
def test_most_programs_are_compared_with_differences() -> None:
    """Drawn by Python, since what hypothesis draws depends on the modules that are loaded."""
    skipped = []
    for seed in range(PART):
        program = generate(Random(seed), SMALL, seed)
        skipped.append(one.check(program, *one.plan(program, seed)).skipped)
    assert sum(map(bool, skipped)) <= 0.5 * len(skipped), skipped


WRONG = {
    jax.lax.sin_p: lambda ct, x, **_: ct * jnp.cos(x) * 1.0001,
    jax.lax.tanh_p: lambda ct, x, out, **_: ct * (1 - out * out) * 1.0001,
    jax.lax.mul_p: lambda ct, x, y, **_: (1.0001 * ct * y, ct * x),
}


def test_wrong_rules_are_found_and_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = funcgrad.DEFAULT.override(WRONG)
    right = funcgrad.value_and_grad
    monkeypatch.setattr(
        funcgrad, "value_and_grad", lambda *a, **k: right(*a, **k, rules=rules)
    )  # fmt: skip
    program = generate(Random(5), SMALL, 5)
    fails = lambda p: one.check(p, "once", 1).failure is not None
    assert fails(program)
    tries = iter(range(12))
    small = shrink(program, fails, lambda: next(tries, None) is not None)
    assert fails(small)
    assert small.size <= program.size


def test_the_order_is_the_one_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one, "compare", lambda *given: given[4])
    program = generate(Random(0), SMALL, 0)
    assert [one.check(program, "once", order) for order in (1, 2)] == [1, program.order] == [1, 2]


def test_slopes() -> None:
    slope = lambda f: one.slope(np.array([f(h) for h in one.STEPS]))
    skipped, best, error = slope(lambda h: np.sin(1 + h))
    assert skipped is None
    assert abs(best - np.cos(1)) < 1e-9 + error
    for kinked in (abs, np.sign, lambda h: max(h, 1.3e-4), lambda h: np.nan):
        assert slope(kinked)[0] is not None


def test_a_reference_that_jit_changes_is_not_held_against_us() -> None:
    scales = iter([2, 1, 2, 1])  # under jit, and without, twice

    def changing(x: Any) -> Any:
        return next(scales) * jnp.sum(x**2)

    plain, xs = lambda x: jnp.sum(x**2), [np.ones(3, np.float32)]
    outcome = one.compare(plain, changing, xs, "map", 1, set(), 1e-5)
    assert (outcome.failure, outcome.reference) == (None, one.MISCOMPILED)
    wrong = lambda x: 1.01 * plain(x)
    assert one.compare(wrong, changing, xs, "map", 1, set(), 1e-5).failure is not None


def test_an_error_of_compiling_is_blamed_on_the_side_that_has_it() -> None:
    without_lowering = Primitive("without_lowering")
    without_lowering.def_impl(lambda x: x)
    without_lowering.def_abstract_eval(lambda x: x)

    def broken(x: Any) -> Any:
        return jnp.sum(x * without_lowering.bind(lax.stop_gradient(x)))

    plain, xs = lambda x: jnp.sum(x**2), [np.ones(3, np.float32)]
    for fun, reference, blamed in [(broken, plain, "funcgrad"), (plain, broken, "jax.grad")]:
        with pytest.raises(one.Broken, match=blamed) as caught:
            one.compare(fun, reference, xs, "map", 1, set(), 1e-5)
        assert "without_lowering" in str(caught.value.__cause__)


SMOOTH = [np.array([0.3, -0.7]), np.array(0.4)]


@pytest.mark.parametrize("mode", one.CIRCUMSTANCES)
def test_a_gradient_is_compared_in_every_circumstance(mode: str) -> None:
    right = lambda x, y: jnp.sum(jnp.sin(x) * y)
    wrong = lambda x, y: 1.0001 * right(x, y)
    with jax.enable_x64(True):
        assert one.compare(right, right, SMOOTH, mode, 1, set(), 1e-9) == one.Outcome()
        assert one.compare(wrong, right, SMOOTH, mode, 1, set(), 1e-9).failure is not None


def test_programs_that_a_setting_refuses_are_not_compared_under_it() -> None:
    mixed = lambda x, y: jnp.sum(x * y.astype(np.float32))
    with jax.enable_x64(True), pytest.raises(one.Broken, match=r"jax\.grad"):
        one.compare(mixed, mixed, SMOOTH, "strict dtypes", 1, set(), 1e-9)


def test_what_jax_cannot_shard_is_compared_on_a_mesh_with_whole_arguments() -> None:
    rows = lambda x, y: jnp.sum(jnp.sort(x) * y)  # a sort wants its axis whole
    wrong = lambda x, y: 1.0001 * rows(x, y)
    with jax.enable_x64(True):
        with pytest.raises(one.Broken, match=r"jax\.grad"):
            one.compare(rows, rows, SMOOTH, "sharded on a mesh", 1, set(), 1e-9)
        assert one.compare(rows, rows, SMOOTH, "whole on a mesh", 1, set(), 1e-9) == one.Outcome()
        assert one.compare(wrong, rows, SMOOTH, "whole on a mesh", 1, set(), 1e-9).failure


def test_what_takes_most_of_the_time_is_drawn_less_often() -> None:
    modes = len(one.MODES)
    tastes = [one.affordable(MIXED, seed) for seed in range(8 * modes)]
    loops = [taste.loops[1] for taste in tastes]
    assert sum(loops) == len(loops) / 4
    for i, mode in enumerate(one.MODES):
        assert 1 in loops[i::modes]  # in every mode
        assert all((t.sizes[1] <= 8) == mode.startswith("eager") for t in tastes[i::modes])
    assert one.affordable(LOOPED, 1).loops == LOOPED.loops
