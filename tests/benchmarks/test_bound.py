"""The page of the cheap-gradient bound, of one operation and of costs that are made up."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import pytest

from benchmarks import bound
from benchmarks.bound import Cost


def costs(seconds: float, counted: float = 1.0) -> dict[str, Cost]:
    cost = Cost((1.0, seconds, 3.0), (1.0, counted, 1.0))
    return dict.fromkeys(("small", "medium", "large"), cost)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (costs(3.9), False),
        (costs(4.1), True),
        (costs(1.0, 4.1), True),
        (costs(1.0, math.nan), False),
    ],
    ids=["below", "time", "count", "nothing counted"],
)
def test_what_is_above_the_bound(found, expected):
    assert bound.above(found) == expected


def test_the_smallest_size_is_not_judged():
    cheap, dear = costs(1.0), costs(9.0)
    assert not bound.above({**cheap, "small": dear["small"]})


def test_what_is_above_comes_first_with_its_reason():
    text = bound.page({"svd": costs(9.0), "neg": costs(1.0)}, 1)
    first, rest = text.split("## All")
    assert "| `svd` |" in first
    assert "`neg`" not in first
    assert "- `svd`: " in first
    assert "| `neg` |" in rest


def test_one_operation_is_measured(capsys):
    bound.main(["neg", "--rounds", "1"])
    everything = capsys.readouterr().out.split("## All")[1]
    (row,) = (line for line in everything.splitlines() if line.startswith("| `neg`"))
    counted = row.split(" | ")[6]
    assert float(counted) > 1  # of the negation's weighted sum, and one product for each element


def test_an_operation_with_another_gradient_is_told_and_not_written(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(bound, "GRADIENT_BOUND", -1.0)
    monkeypatch.setattr(bound, "OPERATIONS", {"neg": bound.OPERATIONS["neg"]})
    monkeypatch.setattr(bound, "PAGE", tmp_path / "bound.md")
    assert bound.main(["--write"]) == 1
    assert "neg, small: the gradients differ by" in capsys.readouterr().err
    assert not bound.PAGE.exists()


def test_xla_knows_nothing_of_lapack():
    def operations(fun):
        return bound.operations_counted(jax.jit(fun).lower(jnp.eye(4)).compile())

    assert operations(lambda x: x * 2) == 16
    assert operations(lambda x: jnp.linalg.cholesky(x * 2)) == 0


def test_an_unknown_operation_is_refused(capsys):
    with pytest.raises(SystemExit):
        bound.main(["no_such_operation"])
    assert "no_such_operation" in capsys.readouterr().err
