"""`benchmarks/gpu.py` at small sizes on any device: it compares, measures and reports."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from benchmarks import gpu
from benchmarks.measure import Comparison


def test_it_measures_and_reports(capsys, tmp_path):
    gpu.main(["softmax", "--small", "--pairs", "1", "--out", str(tmp_path / "gpu.md")])
    printed = capsys.readouterr().out
    assert "| softmax | " in printed
    assert "GB/s (" in printed
    assert "- softmax: rows 7, float32" in printed
    assert (tmp_path / "gpu.md").read_text() == printed


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in gpu.WORKLOADS if n != "softmax"])
def test_each_workload_runs_small(name):
    row = gpu.measure_workload(name, small=True, pairs=1)
    assert row.flops > 0
    assert row.run.ours > 0


def test_a_rate_is_operations_over_seconds_over_the_measured_rate():
    rates = gpu.Rates(bytes=1e12, flops={"float32": 1e12, "bfloat16": 4e12})
    run = Comparison(0.5, 1.0, 0.5, 0.4, 0.6)
    row = gpu.Row(run, (2**30, 2**31), (1.0, 2.0), flops=1e11, moved=(1e11, 3e11))
    line = gpu.line("softmax", row, rates)
    assert "| 500 / 1000 ms | 0.50 (0.40 to 0.60) | 1 / 2 GiB | 1 / 2 s |" in line
    assert "0.2 Tflop/s (20%) / 0.1 Tflop/s (10%)" in line
    assert "200 GB/s (20%) / 300 GB/s (30%)" in line
    assert "0.2 Tflop/s (5%)" in gpu.line("mlp", row, rates)


def test_large_sizes_are_for_a_gpu(capsys):
    if jax.default_backend() == "gpu":
        pytest.skip("there is a GPU, on which the large sizes run")
    with pytest.raises(SystemExit):
        gpu.main(["mlp"])
    assert "needed" in (err := capsys.readouterr().err) or "pass --small" in err


def test_a_wrong_gradient_is_not_timed():
    with pytest.raises(SystemExit, match="mlp: the gradients differ"):
        gpu.check_equal("mlp", "bfloat16", [np.ones(3)], [np.full(3, 1.1)])


def test_an_unknown_name_is_refused(capsys):
    with pytest.raises(SystemExit):
        gpu.main(["no_such_workload", "--small"])
    assert "no_such_workload" in capsys.readouterr().err
