"""The command line counts, confirms, writes files that run, and says how far it came."""

from __future__ import annotations

import collections
import os
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

import funcgrad
from funcgrad._jax import QUICKEST_COMPILATION
from funcgrad.testing.fuzz import many
from funcgrad.testing.fuzz.generator import generate
from funcgrad.testing.fuzz.one import RTOL
from funcgrad.testing.fuzz.programs import as_file
from funcgrad.testing.fuzz.tastes import SMALL


def test_failures_are_runnable_files(tmp_path: Path) -> None:
    path, program = tmp_path / "failure.py", generate(Random(0), SMALL, 0)
    path.write_text(as_file(program, "once", 'a title with """quotes"""', RTOL))
    run = [sys.executable, str(path)]
    root = str(Path(funcgrad.__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": root}
    out = subprocess.run(
        run, capture_output=True, text=True, timeout=200, env=env, check=True
    ).stdout
    assert out.startswith("once, order 1: Outcome(failure=None")


def test_a_failure_is_confirmed_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", f" {QUICKEST_COMPILATION}")
    assert not many.confirmed(generate(Random(0), SMALL, 0), "once")


def test_an_interrupted_run_says_how_far_it_came(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(chunks: Any, options: Any) -> Any:
        yield collections.Counter(programs=50)
        raise KeyboardInterrupt

    monkeypatch.setattr(many, "results_of", interrupted)
    monkeypatch.setenv("XLA_FLAGS", "")
    with pytest.raises(KeyboardInterrupt):
        many.main(["--programs", "100"])
    assert "50 programs in" in capsys.readouterr().out.splitlines()[-2]


def test_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"])  # is added to
    assert many.main(["--programs", "2", "--seed", "2", "--failures", str(tmp_path)]) == 0
    assert "2 programs in" in capsys.readouterr().out
