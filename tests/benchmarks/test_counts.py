"""No gradient of a workload is more work than it was: counts against `benchmarks/counts.json`."""

import jax
import pytest

from benchmarks import counts

BASELINE = counts.baseline()
BEFORE_LANDING = ("mlp", "cnn", "lstm_64", "hmm", "newton", "embedding", "sort", "logsumexp")
"""Workloads that ``.ci/run`` counts, beside some of the others."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow(landing=name in BEFORE_LANDING))
        for name in counts.WORKLOADS  # caches are emptied, which other tests would fill again
    ],
)
def test_nothing_has_grown(name):
    if jax.__version__ != BASELINE["jax"]:
        pytest.skip(f"the baseline was counted with JAX {BASELINE['jax']}")
    grown = counts.grown(counts.counts_of(name), BASELINE["counts"][name])
    assert not grown, "\n".join([*grown, f"python benchmarks/counts.py {name} --write accepts it"])


def test_the_baseline_has_every_workload():
    assert set(BASELINE["counts"]) == set(counts.WORKLOADS)


def test_what_has_grown_is_said():
    before = {"equations": 10, "trace": 90}
    assert counts.grown({"equations": 10, "trace": 90 + counts.SLACK}, before) == []
    found = counts.grown({"equations": 11, "trace": 91 + counts.SLACK}, before)
    assert [line.split(":")[0] for line in found] == ["equations", "trace"]
