"""The benchmarks' workloads run on both sides and agree, and the report is complete."""

import functools

import jax
import numpy as np
import pytest

import funcgrad
from benchmarks import budget, measure, run
from benchmarks.loops import SCANS, WHILES
from benchmarks.workloads import MODELS

# the three widths of a recurrent network are one where sizes are small
WORKLOADS = {w.name: w for w in (*MODELS, *SCANS) if not w.name.endswith(("_128", "_256"))}


@functools.cache
def compiled(name):
    """Ours and jax.grad's, for small arguments, and those."""
    args = WORKLOADS[name].make_args(True)
    return *(jax.jit(fn).lower(*args).compile() for fn in run.sides(WORKLOADS[name])), args


def assert_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for ours, reference in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.any(reference), "a gradient of zeros tests nothing"
        scale = np.max(np.abs(reference))
        np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=max(1e-6, 1e-6 * scale))


@pytest.mark.parametrize("name", WORKLOADS)
def test_gradient_equals_jax_grad(name):
    ours, reference, args = compiled(name)
    value, gradient = ours(*args)
    expected_value, expected = reference(*args)
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    assert_equal(gradient, expected)


@pytest.mark.parametrize("name", WORKLOADS)
def test_temporary_memory_is_never_above_jax_grads_by_more_than_5_percent(name):
    ours, reference, _ = compiled(name)
    found = ours.memory_analysis().temp_size_in_bytes
    allowed = reference.memory_analysis().temp_size_in_bytes
    assert found <= 1.05 * allowed


def python_loop(test, body, init):
    """What JAX can differentiate, where nothing is traced for jit or scan."""
    while test(init):
        init = body(init)
    return init


@pytest.mark.parametrize("workload", WHILES, ids=lambda w: w.name)
def test_gradient_of_a_while_loop_equals_that_of_a_python_loop(workload):
    args = workload.make_args(True)
    ours = functools.partial(workload.loss, jax.lax.while_loop)
    gradient = jax.jit(funcgrad.grad(ours))(*args)
    with jax.disable_jit():
        expected = jax.grad(functools.partial(workload.loss, python_loop))(*args)
    if workload.name == "trips_0":  # weights that are never used
        assert not np.any(gradient)
        assert not np.any(expected)
    else:
        assert_equal(gradient, expected)


def test_a_wrong_gradient_is_not_timed():
    def half(x):
        return x / 2

    with pytest.raises(SystemExit, match="half: the gradients differ"):
        run.check_equal("half", (half, lambda x: x), (np.ones(3, np.float32),))


def test_measures_everything_and_reports_it():
    workload = WORKLOADS["mlp"]
    args = workload.make_args(True)
    row = measure.measure(*run.sides(workload), args, pairs=2, trace_pairs=1, compile_pairs=1)
    assert set(row) == set(run.MEANING)
    assert all(found.low <= found.ratio <= found.high for found in row.values())
    text = run.section("models", {"mlp": row}, run.Settings(2, 1, 1))
    report = run.update("# stale\n\n## models\n\nstale\n\n## unknown\n\nstale\n", {"models": text})
    assert text in report
    assert "stale" not in report


def test_quick_run_of_a_loop_prints_its_ratios_and_writes_nothing(capsys):
    before = run.RESULTS.read_bytes()
    run.main(["--quick", "rnn_64"])
    captured = capsys.readouterr()
    assert "| rnn_64 |" in captured.out
    assert "| geometric mean |" in captured.out
    assert "gradients differ by" in captured.err
    assert run.RESULTS.read_bytes() == before


def test_quick_run_of_a_while_loop_is_compared_with_equinox(capsys):
    pytest.importorskip("equinox", reason="equinox, to compare with, is not installed")
    run.main(["--quick", "trips_1"])
    assert "| trips_1 |" in capsys.readouterr().out


def test_without_equinox_the_reason_is_printed(monkeypatch, capsys):
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None)
    run.main(["--quick", "while"])
    text = capsys.readouterr().out
    assert text == "while: skipped, equinox, with which it is compared, is not installed\n"


def test_loops_stands_for_all_that_loops_are_shown_by():
    assert run.parse(["loops"]).names == ["scan", "while", "budget"]
    assert set(run.parse([]).names) == set(run.SECTIONS)


def test_the_budget_curve_has_a_table_and_a_picture(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib, which draws it, is not installed")
    points = budget.measure_curve(True, 1)
    text = budget.section(points)
    assert all(f"| {point.name} |" in text for point in points)
    assert [p.budget for p in points if p.budget is not None]
    budget.draw(points, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_unknown_name_is_refused(capsys):
    with pytest.raises(SystemExit):
        run.main(["no_such_workload"])
    assert "no_such_workload" in capsys.readouterr().err


HLO = """HloModule two_alike

%fused_computation (a: f32[2]) -> f32[2] {
  %a = f32[2]{0} parameter(0)
  ROOT %sine.1 = f32[2]{0} sine(%a), metadata={op_name="jit(f)/sin"}
}

%fused_computation.1 (b: f32[2]) -> f32[2] {
  %b = f32[2]{0} parameter(0)
  ROOT %sine.2 = f32[2]{0} sine(%b), metadata={op_name="jit(f)/other/sin"}
}

%fused_computation.2 (c: f32[2]) -> f32[2] {
  %c = f32[2]{0} parameter(0)
  ROOT %cosine.1 = f32[2]{0} cosine(%c)
}

%library (d: f32[2]) -> f32[2] {
  %d = f32[2]{0} parameter(0)
  ROOT %exp.1 = f32[2]{0} exponential(%d)
}

ENTRY %main (x: f32[2]) -> f32[2] {
  %x = f32[2]{0} parameter(0)
  %f.0 = f32[2]{0} fusion(%x), kind=kLoop, calls=%fused_computation
  %f.1 = f32[2]{0} fusion(%f.0), kind=kLoop, calls=%fused_computation.1
  %f.2 = f32[2]{0} fusion(%f.1), kind=kInput, calls=%fused_computation.2
  ROOT %f.3 = f32[2]{0} fusion(%f.2), kind=kCustom, calls=%library
}
"""


def test_fusions_that_differ_by_names_alone_are_counted_once():
    assert measure.kernels_not_alike(HLO) == 2
    assert measure.kernels_not_alike(HLO.replace("sine(%b)", "sqrt(%b)")) == 3
