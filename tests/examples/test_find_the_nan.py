"""The example of a NaN in a transformer names both places."""

import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import find_the_nan

    yield find_the_nan
    sys.modules.pop("find_the_nan", None)


def line_of(text):
    """``file:line:`` of the line of the example that ends so."""
    lines = (EXAMPLES / "find_the_nan.py").read_text().splitlines()
    return f"find_the_nan.py:{next(i for i, line in enumerate(lines, 1) if line.endswith(text))}:"


def test_both_places_are_named(example, capsys):
    example.main()
    first, second, third = capsys.readouterr().out.split("\n---")
    assert "Every result is finite" in first
    assert line_of("# the first NaN") in second
    assert "nan at index [3, 0]" in second
    assert line_of("# the second") in third
    assert "inf at index [5]" in third
