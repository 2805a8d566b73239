"""Training steps that are compiled ahead of time: the program, its memory, and JAX's cache."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import jax
import pytest

import funcgrad
from tests.compare import assert_same
from tests.steps import STEPS, Step

ROOT = Path(__file__).parents[1]
QUICK = ("mlp", "while")
ROWS = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in STEPS]


def compiled(step: Step, value_and_grad: Any = funcgrad.value_and_grad) -> Any:
    """The step compiled ahead of time, with parameters and state donated; no warning is given."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jitted = jax.jit(step.of(value_and_grad), donate_argnums=(0, 1))
        return jitted.lower(*step.make_args()).compile()


def aliases(program: Any) -> list[str]:
    """The outputs that are written where an argument was: ``{1}: (0, {}`` says output 1, argument 0."""
    return re.findall(r"\{[\d, ]*\}: \(\d+, \{\}(?=, \w+-alias)", program.as_text())


@pytest.mark.parametrize("name", ROWS)
def test_donated_buffers_are_used_as_with_jax_grad(name):
    step = STEPS[name]
    ours = aliases(compiled(step))
    donated = len(jax.tree.leaves(step.make_args()[:2]))
    assert len(ours) == donated
    if name != "while":  # of which jax.grad has no gradient
        assert len(ours) == len(aliases(compiled(step, jax.value_and_grad)))


def test_a_buffer_that_no_output_can_take_is_reported_as_with_jax_grad():
    for grad in (funcgrad.grad, jax.grad):
        norm = lambda params, x, grad=grad: grad(STEPS["mlp"].loss)(params, x)["w"].sum()
        params, _, x = Step.make_args()
        with pytest.warns(UserWarning, match="donated buffers were not usable"):
            jax.jit(norm, donate_argnums=0).lower(params, x).compile()


def test_a_compiled_step_is_the_step():
    step = STEPS["mlp"]
    program = compiled(step)
    expected = jax.jit(step.of(jax.value_and_grad))(*step.make_args())
    assert_same(program(*step.make_args()), (*expected[:2], (expected[2][0],)), rtol=1e-5)
    assert program.cost_analysis()["flops"] > 0
    assert program.memory_analysis().temp_size_in_bytes > 0


@pytest.mark.slow(landing=True)
def test_another_process_lowers_the_same_program_and_finds_it_in_the_cache(tmp_path):
    """No id, no counter and no order of a set is in a program: hashes and the order of work differ."""

    def report(seed: int, *options: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "tests.steps", str(tmp_path), *options]
        environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    first, second = report(1), report(2, "--reversed")
    assert not any(row["cached"] for row in first.values())
    assert {name: row["digest"] for name, row in second.items()} == {
        name: row["digest"] for name, row in first.items()
    }
    assert all(row["cached"] for row in second.values())
