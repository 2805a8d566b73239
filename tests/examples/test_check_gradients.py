"""The example of the checker finds each wrong gradient, passes each right one, and can fail."""

from pathlib import Path

import jax.numpy as jnp
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import check_gradients

    return check_gradients


def test_each_is_found_by_the_check_that_sees_it(example, capsys):
    example.main()
    out = capsys.readouterr().out
    found = {name: line.split(":")[1].strip() for line in out.splitlines() for name in example.CHECKS
             if line.startswith(f"{name}:")}  # fmt: skip
    assert found == {
        "a slip in a rule": "jax",
        "a NaN behind a where": "numerical argument [0]",
        "a second order cut off": "second by jax",
        "wrong on purpose": "jax",
    }
    assert out.count("gradients of ") == len(example.CHECKS)
    assert out.count("the gradient is not meant to be the derivative") == 4


def test_what_is_not_found_stops_the_script(example, monkeypatch):
    monkeypatch.setattr(example, "CHECKS", {"nothing": (jnp.sin, jnp.sin, {})})
    with pytest.raises(SystemExit, match="nothing was not found"):
        example.main()
