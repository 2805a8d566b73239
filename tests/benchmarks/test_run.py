"""The benchmarks' workloads run on both sides and agree, and the report is complete."""

import jax
import numpy as np
import pytest

import funcgrad
from benchmarks import measure, run
from benchmarks.workloads import GROUPS

WORKLOADS = [workload for group in GROUPS.values() for workload in group]


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.name)
def test_gradient_equals_jax_grad(workload):
    args = workload.make_args(True)
    value, gradient = jax.jit(funcgrad.value_and_grad(workload.loss))(*args)
    expected_value, expected = jax.jit(jax.value_and_grad(workload.loss))(*args)
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    assert jax.tree.structure(gradient) == jax.tree.structure(expected)
    for ours, reference in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        assert np.any(reference), "a gradient of zeros tests nothing"
        np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=1e-6)


def test_measures_everything_and_reports_it():
    workload = next(w for w in WORKLOADS if w.name == "mlp")
    sides = funcgrad.value_and_grad(workload.loss), jax.value_and_grad(workload.loss)
    row = measure.measure(*sides, workload.make_args(True), pairs=2, trace_pairs=1, compile_pairs=1)
    assert set(row) == set(run.MEANING)
    assert all(found.low <= found.ratio <= found.high for found in row.values())
    text = run.section("models", {"mlp": row}, run.Settings(2, 1, 1))
    report = run.update("# stale\n\n## models\n\nstale\n\n## unknown\n\nstale\n", {"models": text})
    assert text in report
    assert "stale" not in report


def test_unknown_name_is_refused(capsys):
    with pytest.raises(SystemExit):
        run.main(["no_such_workload"])
    assert "no_such_workload" in capsys.readouterr().err
