"""What the notebooks print of rules and reports: the same on every machine."""

import doctest
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad
from funcgrad.testing import check_rule

pytest.importorskip("ipywidgets", reason="pictures need pip install 'funcgrad[notebooks]'")
sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))

from lecture import rules


def test_the_examples_in_the_docstrings_hold():
    found = doctest.testmod(rules)
    assert found.attempted >= 5
    assert found.failed == 0


@pytest.mark.parametrize("op", [jax.lax.add_p, jax.lax.reduce_sum_p, jax.lax.dot_general_p])
def test_a_rule_is_printed_with_its_source_and_without_places(op, capsys):
    rules.rule(op)
    text = capsys.readouterr().out
    assert str(Path(funcgrad.__file__).parents[1]) not in text
    source = funcgrad.DEFAULT[op].fn
    assert f"def {source.__name__}(" in text
    assert (
        f", in funcgrad/{source.__module__.removeprefix('funcgrad.').replace('.', '/')}.py>" in text
    )


def test_places_of_this_machine_are_left_out():
    assert rules.without_places("`f at /a b/c.py:3` and `h at C:/c.py:7`") == "`f` and `h`"


def test_what_was_found_is_wrapped(capsys):
    found = funcgrad.inspect.nonfinite(jnp.sqrt, jnp.zeros(()))
    rules.tell(found)
    text = capsys.readouterr().out
    assert "in sqrt_vjp (funcgrad/rules/" in text
    assert max(map(len, text.splitlines())) <= 110
    assert text.split() == rules.without_places(found).split()


def test_checks_are_listed_with_their_results(capsys):
    report = check_rule(jax.lax.mul_p, np.array(2.0), np.array(3.0))
    rules.checked(report)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(report.checks)
    assert lines[1].split() == ["types", "passed"]
    assert any("not run: " in line for line in lines)
