"""Random programs over the whole table of operations, and the tools that make and shrink them."""

from __future__ import annotations

import collections
import os
import subprocess
import sys
from pathlib import Path
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
from funcgrad._jax import QUICKEST_COMPILATION
from funcgrad.registry import FunctionId
from funcgrad.testing import fuzz
from funcgrad.testing.generator import Writer, generate
from funcgrad.testing.programs import Block, Program, Type, as_file, shrink
from funcgrad.testing.tastes import MIXED, SMALL
from funcgrad.testing.vocabulary import ALL
from tests.rules.cases import primitives_in

PART, PARTS = 20, 6


@pytest.mark.parametrize("part", range(PARTS))
def test_random_programs(part: int) -> None:
    """hypothesis draws, and shrinks what fails; the message has the program."""
    skipped = []

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
        mode, order = fuzz.plan(program, seed)
        outcome = fuzz.check(program, mode, order)
        skipped.append(outcome.skipped)
        assert outcome.failure is None, f"{mode}, order {order}\n{outcome.failure}\n{program.text}"

    run()
    assert sum(map(bool, skipped)) <= 0.5 * len(skipped), skipped


# --- which operations there are

BETWEEN_DEVICES = "between devices, under shard_map"
INTERNAL = "made by JAX inside of others, with no function of its own"
NO_JAX = "jax.grad has no rule for it, so there is nothing to compare with here"
NO_VALUES = "gives no number: effects, tokens, keys"
RAW = "the machinery of random bits and keys, which jax.random stands for here"
PLACES = "where a value is, not what it is"


def words(*texts: str) -> list[str]:
    return " ".join(texts).split()


REASONS = {
    **dict.fromkeys(
        words(
            "psum psum_invariant pvary ppermute pbroadcast pbroadcast_dynamic all_gather reduce_scatter "
            "vary_unreduced_cast reduced_vary_cast all_gather_invariant all_to_all "
            "ragged_all_to_all all_gather_reduced unreduced_reduce_scatter unreduced_psum "
            "preduced vary_unreduced_cast_p reduced_vary_cast_p axis_index shard_map"
        ),
        BETWEEN_DEVICES,
    ),
    **dict.fromkeys(
        words(
            "add_any eval_jaxpr remat_opt zeros_like empty empty2 tie eq_to lt_to le_to "
            "igamma_grad_a select_and_gather_add select_and_scatter_add lu_pivots_to_permutation "
            "stage addupdate program_order one_minus_square polynomial"
        ),
        INTERNAL,
    ),
    **dict.fromkeys(
        words(
            "nextafter symmetric_product householder_product ormqr cholesky_update zeta scaled_dot "
            "composite custom_vmap_call custom_partitioning reduce_window"
        ),
        NO_JAX,
    ),
    **dict.fromkeys(
        words(
            "debug_callback debug_print inspect_sharding check dce_sink "
            "create_token after_all free_ref"
        ),
        NO_VALUES,
    ),
    **dict.fromkeys(
        words(
            "random_wrap random_unwrap random_split random_fold_in random_clone random_bits "
            "threefry2x32 threefry4x32 philox2x32 philox4x32 iota_2x32_shape "
            "rng_bit_generator rng_uniform"
        ),
        RAW,
    ),
    **dict.fromkeys(
        words(
            "sharding_constraint reshard layout_constraint shard_alike compute_on "
            "xla_metadata_value "
            "xla_metadata_call with_memory_space_constraint"
        ),
        PLACES,
    ),
    "custom_lin": "made of a custom_vjp function in a custom_jvp one, so by no operation alone",
}
"""Why the generator cannot make a registered op."""

STRUCTURES = {"jit", "scan", "while", "cond", "remat2", "custom_jvp_call", "custom_vjp_call"}
SCOPE = {f"a{i}": Type(s, "float64") for i, s in enumerate([(), (2,), (2, 3), (2, 3), (3, 1)])}
SCOPE |= {"z0": Type((3,), "complex128"), "z1": Type((3,), "complex128")}
SCOPE |= {"i0": Type((2,), "int32"), "b0": Type((2, 3), "bool")}


def of_word(word: Any) -> Program:
    """A program that does nothing but this."""
    for seed in range(100):
        made = Writer(Random(seed), MIXED).apply(word, dict(SCOPE))
        if made is not None:
            footer = "weigh({0})" if made.types[0].is_inexact else "weigh({0} * 1.0)"
            block = Block("", "", (), (made,), made.names, footer)
            return Program(tuple((r, SCOPE[r]) for r in dict.fromkeys(made.reads)), block)
    raise AssertionError(f"no operands fit {word}")


def test_every_registered_op_is_made_or_has_a_reason() -> None:
    made = set()
    with jax.enable_x64(True):
        for word in ALL:
            program = of_word(word)
            made |= {str(p) for p in primitives_in(program.function(), *program.values())}
    registered = {str(op) for op in funcgrad.DEFAULT if not isinstance(op, FunctionId)}
    assert registered - made - STRUCTURES - set(REASONS) == set(), "no word makes these"
    assert set(REASONS) & made <= {"random_bits", "random_split", "random_wrap", "random_unwrap",
                                   "threefry2x32", "iota_2x32_shape", "select_and_scatter_add",
                                   "lt_to", "lu_pivots_to_permutation", "igamma_grad_a", "addupdate",
                                   "random_fold_in"}, "these are made after all"  # fmt: skip


def test_structures_are_made() -> None:
    made = set()
    with jax.enable_x64(True):
        for seed in range(60):
            program = generate(Random(seed), MIXED)
            made |= {str(p) for p in primitives_in(program.function(), *program.values())}
    names = {"checkpoint" if name == "remat2" else name for name in STRUCTURES}
    assert {name for name in names if not any(name in m for m in made)} <= {"checkpoint"}


# --- the tools notice what is wrong

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
    fails = lambda p: fuzz.check(p, "once", 1).failure is not None
    assert fails(program)
    tries = iter(range(12))
    small = shrink(program, fails, lambda: next(tries, None) is not None)
    assert fails(small)
    assert small.size <= program.size


def test_slopes() -> None:
    slope = lambda f: fuzz.slope(np.array([f(h) for h in fuzz.STEPS]))
    skipped, best, error = slope(lambda h: np.sin(1 + h))
    assert skipped is None
    assert abs(best - np.cos(1)) < 1e-9 + error
    for kinked in (abs, np.sign, lambda h: max(h, 1.3e-4), lambda h: np.nan):
        assert slope(kinked)[0] is not None


def test_reproducible_and_printable() -> None:
    assert generate(Random(3)).text == generate(Random(3)).text
    assert generate(Random(3)).text != generate(Random(4)).text


def test_failures_are_runnable_files(tmp_path: Path) -> None:
    path = tmp_path / "failure.py"
    path.write_text(as_file(generate(Random(0), SMALL, 0), "once", 'a title with """quotes"""'))
    run = [sys.executable, str(path)]
    root = str(Path(funcgrad.__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": root}
    out = subprocess.run(
        run, capture_output=True, text=True, timeout=200, env=env, check=True
    ).stdout
    assert out.startswith("once, order 1: Outcome(failure=None")


def test_a_failure_is_confirmed_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", f" {QUICKEST_COMPILATION}")
    assert not fuzz.confirmed(generate(Random(0), SMALL, 0), "once")


def test_an_error_of_compiling_is_blamed_on_the_side_that_has_it() -> None:
    without_lowering = Primitive("without_lowering")
    without_lowering.def_impl(lambda x: x)
    without_lowering.def_abstract_eval(lambda x: x)

    def broken(x: Any) -> Any:
        return jnp.sum(x * without_lowering.bind(lax.stop_gradient(x)))

    plain, xs = lambda x: jnp.sum(x**2), [np.ones(3, np.float32)]
    for fun, reference, blamed in [(broken, plain, "funcgrad"), (plain, broken, "jax.grad")]:
        with pytest.raises(fuzz.Broken, match=blamed) as caught:
            fuzz.compare(fun, reference, xs, "map", 1, set(), 1e-5)
        assert "without_lowering" in str(caught.value.__cause__)


def test_an_interrupted_run_says_how_far_it_came(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(chunks: Any, options: Any) -> Any:
        yield collections.Counter(programs=50)
        raise KeyboardInterrupt

    monkeypatch.setattr(fuzz, "results_of", interrupted)
    monkeypatch.setenv("XLA_FLAGS", "")
    with pytest.raises(KeyboardInterrupt):
        fuzz.main(["--programs", "100"])
    assert "50 programs in" in capsys.readouterr().out.splitlines()[-2]


def test_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert fuzz.main(["--programs", "2", "--seed", "2", "--failures", str(tmp_path)]) == 0
    assert "2 programs in" in capsys.readouterr().out
