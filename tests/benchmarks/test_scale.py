"""Tracing grows no faster than the program, in calls, and `benchmarks/scale.py` measures and reports."""

from __future__ import annotations

import threading

import jax
import numpy as np
import pytest

import funcgrad
from benchmarks import scale

SIZES = {"depth": (8, 32), "body": (40, 160), "leaves": (100, 400)}
CONSTANT = {"scanned depth": (10, 1000), "steps": (10, 1000), "trips": (100, 10_000)}
"""A loop that takes at most 32 steps, as its test says, is a smaller program: it has no snapshots."""


def slope(axis, side, sizes):
    scale.calls_of(scale.AXES[axis], side, sizes[0])  # what JAX does once
    small, large = (scale.calls_of(scale.AXES[axis], side, size) for size in sizes)
    return np.log(large / small) / np.log(sizes[1] / sizes[0])


@pytest.mark.parametrize("axis", SIZES)
def test_calls_of_a_trace_grow_as_the_program(axis):
    found = slope(axis, "funcgrad", SIZES[axis])
    assert found < 1.1
    assert found > 0.5, "the program does not grow"


@pytest.mark.parametrize("axis", CONSTANT)
def test_calls_of_a_trace_do_not_depend_on_how_long_a_loop_is(axis):
    assert abs(slope(axis, "funcgrad", CONSTANT[axis])) < 0.01


def test_nested_jits_take_no_more_calls_than_jax_grads():
    """Both grow faster than the depth: what the innermost keeps is given out by each call around it."""
    axis = scale.AXES["nesting"]
    for side in scale.SIDES:
        scale.calls_of(axis, side, 2)
    ours, reference = (scale.calls_of(axis, side, 12) for side in scale.SIDES)
    assert ours < 1.1 * reference


def test_fifty_nested_jits_are_within_pythons_limit_of_frames():
    """In a thread of its own, whose stack is empty, as that of a script."""
    loss, params = scale.AXES["nesting"].make(50)
    found = []

    def trace():
        found.append(jax.make_jaxpr(jax.jit(funcgrad.grad(loss)))(params))

    thread = threading.Thread(target=trace)
    thread.start()
    thread.join()
    assert found[0].out_avals == [jax.typeof(params)]


def points(size, value):
    return [{"size": s, "norm": 1.0} | {q: value(s) for q in scale.QUANTITIES} for s in size]


def test_the_exponent_is_that_of_the_largest_sizes():
    found = points((1, 10, 100, 1000), lambda size: 1000.0 + size**1.5)
    assert scale.exponent(found[1:], "trace") < 1.5
    assert scale.exponent(
        points((10, 100, 1000), lambda s: float(s**1.5)), "trace"
    ) == pytest.approx(1.5)
    assert scale.exponent(points((10, 100), lambda s: 1e-3), "run") is None, "noise has none"


BODY = points(scale.AXES["body"].sizes, float)
TRACED = [{k: v for k, v in p.items() if k not in ("compile", "run", "memory")} for p in BODY]
CURVES = {
    "body": {"funcgrad": BODY, "jax.grad": [*BODY[:3], *TRACED[3:5]]},
    "trips": {"funcgrad": BODY},
}


def test_the_report_says_where_a_side_was_stopped():
    text = scale.section(CURVES, 60)
    assert "body: XLA was stopped at 1,000 after 60 s (jax.grad)." in text
    assert "body: tracing was stopped at 10,000 after 60 s (jax.grad)." in text
    assert "trips: `jax.grad` has no row" in text
    assert "| body | 300 |" in text
    assert "| body | 10,000 / 3,000 | 1.00 / 1.00 |" in text


@pytest.mark.slow
def test_the_curves_are_drawn(tmp_path):
    scale.draw(CURVES, tmp_path / "scale.png")
    assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")


def test_a_wrong_gradient_is_reported():
    ours, wrong = points((1, 10), float), points((1, 10), float)
    scale.check_norms("body", ours, wrong)
    wrong[1]["norm"] = 1.01
    with pytest.raises(SystemExit, match="body at 10: the gradients differ"):
        scale.check_norms("body", ours, wrong)
    wrong[1]["norm"] = float("nan")
    with pytest.raises(SystemExit):
        scale.check_norms("body", ours, wrong)


@pytest.mark.slow
def test_it_measures_in_processes_of_its_own(capsys):
    scale.main(["trips", "nesting", "--small"])
    printed = capsys.readouterr().out
    assert "| nesting | 5 |" in printed
    assert "| trips | 100 |" in printed
    assert "stopped" not in printed


@pytest.mark.slow
def test_it_stops_at_the_limit():
    assert scale.in_process("nesting", "funcgrad", (1, 5), 0.01, "compiled") == []
