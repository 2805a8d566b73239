"""Mathematics of the site: what TeX says, as browsers read it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from docutils import nodes

sys.path.insert(0, str(Path(__file__).parents[2] / "docs" / "_ext"))

import mathml


def shown(tex: str) -> str:
    """The elements, without the line breaks between them."""
    text = mathml.translated(nodes.math("", tex), as_block=False)
    return "".join(line.strip() for line in text.split("\n")).partition(">")[2]


@pytest.mark.parametrize("tex", [r"\bar k_2", r"\bar{k}_2", r"{\bar k}_{2}"])
def test_the_index_of_an_accented_letter_is_beside_it(tex):
    letter = '<mover accent="true"><mi>k</mi><mo stretchy="false">ˉ</mo></mover>'
    assert shown(tex) == f"<msub>{letter}<mn>2</mn></msub></math>"


def test_several_accented_letters_in_one_formula():
    assert shown(r"\bar W_{ij} = \sum_n \bar k_{ni} x_{nj}").count("<munderover>") == 0
    assert shown(r"\bar W_{ij} = \sum_n \bar k_{ni} x_{nj}").count("<msub><mover") == 2


def test_limits_stay_below_and_above():
    assert shown(r"\sum_{i=1}^n i").count("<munderover>") == 1


def test_large_parentheses_are_shown():
    assert shown(r"\Big( x \Big)").count("maxsize") == 2
