"""The example of while loops runs, is right, and fails where the gradient is wrong."""

import functools
import sys
from pathlib import Path

import jax
import pytest

import funcgrad

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch):
    """The script as a module, with its double precision for it alone."""
    monkeypatch.syspath_prepend(EXAMPLES)
    before = jax.config.read("jax_enable_x64")
    import while_loops

    yield while_loops
    sys.modules.pop("while_loops", None)
    jax.config.update("jax_enable_x64", before)


def test_both_loops_are_differentiated_where_jax_refuses(example, capsys):
    example.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * len(example.EXAMPLES)
    refused = [line for line in lines if "jax.grad: Reverse-mode differentiation does not" in line]
    assert len(refused) == len(example.EXAMPLES)


def test_a_wrong_rule_stops_the_script(example, monkeypatch):
    rules = funcgrad.DEFAULT.override({jax.lax.sub_p: lambda ct, x, y, **_: (1.01 * ct, -ct)})
    wrong = functools.partial(funcgrad.grad, rules=rules)
    monkeypatch.setattr(funcgrad, "grad", wrong)
    with pytest.raises(SystemExit, match="the gradient is off by"):
        example.main()
