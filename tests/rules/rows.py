"""The tables of rows in the test files of this folder, one file a family of rules."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import Any

import tests.rules
from tests.rules.cases import Case

READERS = ("test_rows", "test_sharded_rows", "test_completeness")
"""The test files that read the tables, and have none."""


def modules() -> dict[str, ModuleType]:
    """The test files by family."""
    names = [m.name for m in pkgutil.iter_modules(tests.rules.__path__)]
    return {
        name.removeprefix("test_"): importlib.import_module(f"tests.rules.{name}")
        for name in names
        if name.startswith("test_") and name not in READERS
    }


def rows(table: str = "CASES") -> list[tuple[str, Case]]:
    """The rows of every table of this name, with their family: `CASES` or `SPECIAL`."""
    return [
        (family, case)
        for family, module in modules().items()
        for case in getattr(module, table, ())
    ]


def ops_without_rows() -> set[Any]:
    """The ops that have no row, but tests of their own in the file of their family."""
    return {op for module in modules().values() for op in getattr(module, "TESTED_APART", ())}
