"""Every rule of the package has a row in a table; every entry is for something JAX has."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import funcgrad
import tests.rules
from funcgrad.registry import Rule, op_key

MODULES = [
    importlib.import_module(f"tests.rules.{m.name}")
    for m in pkgutil.iter_modules(tests.rules.__path__)
]
ROWS = {op_key(case.op) for module in MODULES for case in getattr(module, "CASES", [])}
ROWS |= {op for module in MODULES for op in getattr(module, "TESTED_APART", ())}
RULES = [op for op, entry in funcgrad.DEFAULT.items() if isinstance(entry, Rule)]


@pytest.mark.parametrize("op", RULES, ids=str)
def test_every_rule_has_a_row(op):
    assert op in ROWS, f"the rule of {op} has no row in a table under tests/rules"
