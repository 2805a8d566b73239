"""The benchmark of whole training steps: its programs run, its report is complete."""

from __future__ import annotations

import pytest

from benchmarks import training
from benchmarks.measure import Comparison

CURVES = [
    {"axis": "layers", "size": n, "memory": [n * 2**20, n * 2**21], "received": [0, 0]}
    for n in (1, 2)
]


def test_the_report_has_a_row_for_each_program_and_each_point(tmp_path):
    pairs = [(0.1, 0.2), (0.1, 0.2), (0.2, 0.2)]
    row = {"time": Comparison.of(pairs), "memory": [2**20, 2**21], "lines": [10, 20]}
    text = training.section({"text, nnx": row}, CURVES)
    assert "| text, nnx | 10 / 5 | 0.50 (0.50 to 0.75) | 1 / 2 MiB | 10 / 20 |" in text
    assert "| layers | 2 | 2 / 4 MiB | 0.50 | 0 / 0 MiB |" in text
    training.draw(CURVES, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 1000


@pytest.mark.slow
def test_a_program_of_the_examples_is_measured(monkeypatch):
    for library in ("flax", "grain", "sklearn", "tqdm", "orbax.checkpoint"):
        pytest.importorskip(library, reason="pip install 'funcgrad[training]'")
    with training.examples_importable():
        found = training.measure_program(training.PROGRAMS[2], True, 1)
    assert found["memory"][0] > 0
    assert found["time"].ours > 0


@pytest.mark.slow
@pytest.mark.release
def test_growth_is_counted_on_virtual_devices():
    found = training.growth_on_virtual_devices(True)
    assert [(p["axis"], p["size"]) for p in found][-1] == ("devices", 2)
    assert found[-1]["received"][0] > 0
    assert all(p["memory"][0] > 0 for p in found)
