"""The page of rules has every rule of the package."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs" / "_ext"))

import rule_pages  # noqa: E402


@pytest.fixture(scope="module")
def page() -> str:
    return rule_pages.page("docs/rules")


def decorated() -> list[tuple[str, str, int]]:
    """File, name and first line of each function below ``funcgrad/rules`` that ``defvjp`` decorates.

    A rule of which this JAX version has no op is left out.
    """
    found = []
    for file in sorted((ROOT / "funcgrad" / "rules").glob("*.py")):
        module = importlib.import_module(f"funcgrad.rules.{file.stem}")
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                rule = getattr(module, node.name, None)
                lines = [d.lineno for d in node.decorator_list if "defvjp(" in ast.unparse(d)]
                found += [
                    (str(file.relative_to(ROOT)), node.name, line)
                    for line in lines[:1]
                    if getattr(rule, "ops", True)
                ]
    return found


def test_every_rule_that_the_files_define_is_there_with_its_line_and_source(page):
    rules = decorated()
    assert len(rules) > 100
    for file, name, line in rules:
        place = f'<a href="../source/{file}.html#line-{line}">{file}:{line}</a>'
        assert place in page, name
        assert f"def {name}(" in page


def test_every_operation_with_a_rule_of_its_own_is_there(page):
    text = (ROOT / "docs" / "coverage.md").read_text()
    versions = re.split(r"^## JAX ", text, flags=re.M)[1:]
    (listed,) = [v for v in versions if v.startswith(jax.__version__)]
    (own,) = re.findall(r"^\*\*own rule\*\*: (.*)\.$", listed, re.M)
    (zero,) = re.findall(r"^\*\*zero by nature\*\*: (.*)\.$", listed, re.M)
    assert [name for name in (own + ", " + zero).split(", ") if name not in page] == []


def test_a_rule_of_a_table_is_its_line_with_its_mathematics(page):
    shown = page.partition("**`tan`**")[2].partition("**`asin`**")[0]
    assert "y = tan(x);  x̄ = ȳ (1 + y²)" in shown
    assert "lax.tan_p: lambda x, y: 1 + y * y," in shown
