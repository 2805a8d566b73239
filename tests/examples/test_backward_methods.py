"""The examples of methods that change the backward pass show what they promise, and can fail."""

import re
import sys
from pathlib import Path

import jax
import pytest

pytest.importorskip("sklearn", reason="sklearn is not installed: pip install 'funcgrad[examples]'")
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch):
    """Imports an example by its name."""
    monkeypatch.syspath_prepend(EXAMPLES)
    before = set(sys.modules)
    yield lambda name: __import__(name)
    for name in set(sys.modules) - before:
        if (EXAMPLES / f"{name}.py").exists():
            del sys.modules[name]


def test_clip_anywhere(example, capsys):
    example("clip_anywhere").main()
    rows = re.findall(r"^ +(\d+) +(\S+) +(\S+) ", capsys.readouterr().out, re.MULTILINE)
    assert len(rows) == 15
    assert float(rows[0][1]) > 1e3
    assert all(float(clipped) < 10 for _, _, clipped in rows)


def test_clip_anywhere_can_fail(example, monkeypatch):
    clip_anywhere = example("clip_anywhere")
    monkeypatch.setattr(
        clip_anywhere, "norm_clipped_at", lambda state, most: state.cotangent(lambda ct: ct)
    )
    with pytest.raises(SystemExit, match="larger than"):
        clip_anywhere.main()


def test_feedback_alignment(example, capsys):
    example("feedback_alignment").main()
    rows = re.findall(
        r"^(\w[a-z ]+?) +([\d.]+) +(\d+)° +(\d+)°$", capsys.readouterr().out, re.MULTILINE
    )
    assert [name for name, *_ in rows] == [
        "backpropagation",
        "feedback alignment",
        "direct feedback alignment",
    ]
    assert all(float(accuracy) >= 0.93 for _, accuracy, *_ in rows)
    for _, _, first, last in rows[1:]:
        assert int(first) > 75  # random
        assert int(last) < 70  # aligned


def test_straight_through(example, capsys):
    example("straight_through").main()
    by_jax, straight = map(float, re.findall(r"test accuracy ([\d.]+)", capsys.readouterr().out))
    assert by_jax < 0.3
    assert straight >= 0.9


def test_per_example_norms(example, capsys):
    example("per_example_norms").main()
    printed = capsys.readouterr().out
    ours, by_gradients = map(float, re.findall(r"([\d.]+) MiB", printed))
    assert 5 * ours < by_gradients
    found = re.search(r"(\d+)% have a wrong label", printed)
    assert found is not None
    assert int(found[1]) >= 70


def test_wrong_norms_stop_the_script(example, monkeypatch):
    per_example_norms = example("per_example_norms")

    def too_large(of_example):
        norms = per_example_norms.by_gradients
        return lambda *args: jax.tree.map(lambda norm: 1.1 * norm, norms(*args))

    monkeypatch.setattr(per_example_norms, "squared_norms", too_large)
    with pytest.raises(SystemExit, match="not those of"):
        per_example_norms.main()
