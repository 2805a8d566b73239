"""The example of the ledger writes its picture and table, and its suggestion holds."""

import csv
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
for package in ("flax", "matplotlib", "pandas"):
    pytest.importorskip(package)


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import memory_ledger

    yield memory_ledger
    sys.modules.pop("memory_ledger", None)


def test_the_suggestion_is_followed(example, capsys, tmp_path):
    ledger, after = example.main(layers=3, width=16, folder=tmp_path)
    assert ledger.suggestion is not None
    assert ledger.suggestion.around == "Transformer/layers_*"
    assert after.kept == ledger.suggestion.after.kept < 0.1 * ledger.kept
    assert after.temp_size_in_bytes < ledger.temp_size_in_bytes
    out = capsys.readouterr().out
    assert "what to checkpoint:" in out
    assert "nn.remat(Block)" in out
    with (tmp_path / "memory_ledger.csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert len(rows) == len(ledger.residuals)
    kept = [int(row["bytes"]) for row in rows if row["status"] == "kept"]
    assert sum(kept) == ledger.kept
    assert (tmp_path / "memory_ledger.png").stat().st_size > 5000


def test_it_is_short():
    assert len((EXAMPLES / "memory_ledger.py").read_text().splitlines()) < 80
