"""The API reference has every public name, and each name says what it takes, gives and raises."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"
sys.path.insert(0, str(DOCS / "_ext"))

import api_pages  # noqa: E402

NAMES = [
    f"{module}.{name}"
    for module in api_pages.MODULES
    for name in api_pages.offered(module)
    if api_pages.home(module, name) == module
]

IMPORTED_BY_USERS = ("funcgrad", "funcgrad.testing", "funcgrad.inspect", "funcgrad.extend")


def found(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def said(path: str) -> str:
    """The docstring of a public name; of a rule, that of its function."""
    return api_pages.doc_of(*path.rpartition(".")[::2])


def section(doc: str, title: str) -> str:
    """The lines of a docstring under ``Args:`` and the like, indentation removed."""
    lines = re.search(rf"^{title}:\n((?:  .*\n?|\n)+)", doc, re.M)
    return textwrap.dedent(lines[1]) if lines else ""


def entries(doc: str, title: str) -> set[str]:
    heads = re.findall(r"^(\S.*?): ", section(doc, title) + " ", re.M)
    return {name.strip(" *") for head in heads for name in head.split(",")}


def refers(text: str) -> bool:
    """Whether a docstring leads to another that has the rest."""
    return bool(re.search(r":(func|class|meth):`", text))


def is_error(x: Any) -> bool:
    return inspect.isclass(x) and issubclass(x, BaseException)


def test_every_name_that_is_offered_has_a_home_with_a_page():
    for module in IMPORTED_BY_USERS:
        public = importlib.import_module(module).__all__
        modules = {name for name in public if inspect.ismodule(found(f"{module}.{name}"))}
        assert set(api_pages.offered(module)) == set(public) - modules
    for path in NAMES:
        module, _, name = path.rpartition(".")
        page = DOCS / "reference" / f"{module.removeprefix('funcgrad.')}.md"
        assert f"```{{api}} {module}\n" in page.read_text()
        kind = r"(autofunction|autoclass|py:data)"
        assert re.search(rf"^\.\. {kind}:: {re.escape(path)}$", api_pages.page(module), re.M), name


@pytest.mark.parametrize("path", NAMES)
def test_a_name_says_what_it_is_in_a_sentence(path):
    first = said(path).split("\n\n")[0]
    assert first.endswith("."), first
    assert first[0].isupper() or first[0] in "`:<", first


@pytest.mark.parametrize("path", [n for n in NAMES if inspect.isfunction(found(n))])
def test_a_function_says_what_it_takes_gives_and_raises(path):
    function, doc = found(path), said(path)
    about_others = re.sub(r"Example:\n(.|\n)*", "", doc)
    if not refers(about_others.split("Args:")[0].partition("\n")[2]):
        parameters = set(inspect.signature(function).parameters)
        assert parameters - entries(doc, "Args") == set()
        returned = inspect.signature(function).return_annotation
        assert section(doc, "Returns") or returned in (None, "None")
    raises = any(
        isinstance(node, ast.Raise)
        for node in ast.walk(
            ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
        )
    )
    assert section(doc, "Raises") or not raises


@pytest.mark.parametrize(
    "path",
    [n for n in NAMES if inspect.isclass(found(n)) and dataclasses.is_dataclass(found(n))],
)
def test_a_class_says_what_its_attributes_are(path):
    fields = {f.name for f in dataclasses.fields(found(path)) if not f.name.startswith("_")}
    assert fields - entries(said(path), "Attributes") == set()


@pytest.mark.parametrize("path", NAMES)
def test_a_name_has_an_example_that_runs(path):
    """``pytest --doctest-modules`` runs it."""
    if (
        inspect.isclass(found(path))
        or inspect.isfunction(found(path))
        or hasattr(found(path), "fn")
    ):
        example = section(said(path), "Example")
        others = re.findall(r":(?:func|class):`(\w+)`", example)
        module = path.rpartition(".")[0]
        shown = [example, *(section(said(f"{module}.{name}"), "Example") for name in others)]
        assert any(">>> " in text for text in shown)


@pytest.mark.parametrize(
    "path", [n for n in NAMES if is_error(found(n)) and n != "funcgrad.errors.FuncgradError"]
)
def test_the_example_of_an_error_raises_it(path):
    example = section(said(path), "Example").splitlines()
    shown = [line for line in example if not line.startswith((">>> ", "... "))]
    assert path.rpartition(".")[2] in "".join(shown)
