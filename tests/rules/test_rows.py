"""Every row of every table: `CASES`, and `SPECIAL`, which are zeros, ties, infinities.

The first row of an op in `CASES` is in the quick part of the tests, the others are slow.
"""

from __future__ import annotations

from typing import Any

import pytest

from funcgrad.registry import op_key
from tests.rules.cases import Case, check
from tests.rules.rows import rows


def each(table: str) -> list[Any]:
    """The rows as parameters."""
    found, met = [], set()
    for family, case in rows(table):
        again = table == "SPECIAL" or op_key(case.op) in met
        met.add(op_key(case.op))
        marks = [pytest.mark.slow] if again else []
        found.append(pytest.param(case, id=f"{family}-{case.id}", marks=marks))
    return found


@pytest.mark.parametrize("case", each("CASES"))
def test_rule(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("case", each("SPECIAL"))
def test_special_points(case: Case) -> None:
    check(case)
