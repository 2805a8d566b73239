"""The search finds a loser that is made for it, and says nothing of equals."""

from __future__ import annotations

import argparse

import jax.numpy as jnp
import pytest

from benchmarks import losers
from benchmarks.losers import Candidate, Found, NotCompared, Unequal, look

X = jnp.linspace(0.1, 1.0, 4096)


def plain(x):
    return jnp.sum(jnp.sin(x))


def wasteful(x):
    return plain(jnp.sinh(jnp.arcsinh(x)))


def test_a_loser_is_found_and_timed_with_care():
    found = look(Candidate("wasteful", wasteful, (X,), reference=plain))
    assert found.ratio("operations") > 1.5
    assert found.careful
    assert "| wasteful |" in losers.worst([found], "operations", 10)


def test_equals_are_not_in_the_tables():
    found = look(Candidate("plain", plain, (X,)))
    assert found.ratio("operations") == found.ratio("bytes") == found.ratio("memory") == 1.0
    assert "plain" not in losers.worst([found], "operations", 10)


def test_unequal_gradients_are_not_timed():
    with pytest.raises(Unequal, match="differ by"):
        look(Candidate("double", lambda x: 2 * plain(x), (X,), reference=plain))


def test_a_gradient_that_is_not_finite_is_told():
    with pytest.raises(NotCompared, match="not finite"):
        look(Candidate("infinite", lambda x: jnp.sum(jnp.sqrt(x - x)), (X,)))


def test_slight_differences_of_small_programs_do_not_count():
    found = Found("small", {"memory": (1500.0, 500.0)}, (1.0, 1.0, 1.0), False)
    assert found.ratio("memory") == 1.0


def test_tables_have_the_worst_first():
    counts = dict.fromkeys(losers.COUNTS, (1.0, 1.0))
    found = [Found(str(r), counts, (r, r, r), True) for r in (1.1, 1.5, 0.9, 1.3)]
    text = losers.worst(found, "run", 2)
    rows = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| 1")]
    assert rows == ["| 1.5", "| 1.3"]
    assert "3 of 4 above" in text


def test_random_programs_are_candidates():
    (candidate,) = losers.random(argparse.Namespace(seed=3, programs=1))
    assert candidate.x64
    assert len(candidate.settings["argnums"]) == len(candidate.args)


def test_an_unknown_source_is_refused(capsys):
    with pytest.raises(SystemExit):
        losers.main(["no_such_source"])
    assert "no_such_source" in capsys.readouterr().err
