"""The API reference, made of the public names: those in a module's `__all__`, each with its docstring.

A name that several modules offer is described once, in its home: the module that defines it, else the
first of `MODULES` that offers it. The others lead there.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import re
import textwrap
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from funcgrad.errors import FuncgradError
from funcgrad.registry import Rule

MODULES = (
    "funcgrad",
    "funcgrad.testing",
    "funcgrad.inspect",
    "funcgrad.places",
    "funcgrad.surgery.methods",
    "funcgrad.extend",
    "funcgrad.errors",
)


def offered(module: str) -> dict[str, Any]:
    """The public names of a module with their objects, modules among them left out."""
    found = importlib.import_module(module)
    names = getattr(found, "__all__", None) or _defined(found)
    objects = {name: getattr(found, name) for name in names}
    return {name: x for name, x in objects.items() if not isinstance(x, ModuleType)}


def _defined(module: ModuleType) -> list[str]:
    """The errors and warnings that a module without an `__all__` defines, in their order."""
    return [
        name
        for name, x in vars(module).items()
        if inspect.isclass(x) and issubclass(x, (FuncgradError, Warning))
    ]


def home(module: str, name: str) -> str:
    """The module in whose page a name is described."""
    x = offered(module)[name]
    defining = getattr(x, "__module__", None)
    if defining in MODULES:
        return defining
    return next(m for m in MODULES if any(x is other for other in offered(m).values()))


def groups(module: str) -> Iterator[tuple[str, list[str]]]:
    """The names of a module under headings: those of its docstring, where it has such a list."""
    names = offered(module)
    doc = inspect.getdoc(importlib.import_module(module)) or ""
    headed = re.findall(r"^(\w[\w ]*):\n((?:  \w+: .+\n?)+)", doc, re.M)
    listed = [(title, re.findall(r"^  (\w+): ", lines, re.M)) for title, lines in headed]
    if not listed:
        functions = [name for name, x in names.items() if not inspect.isclass(x)]
        classes = [name for name, x in names.items() if inspect.isclass(x)]
        title = "Errors and warnings" if module.endswith("errors") else "Classes"
        listed = [("Functions", functions), (title, classes)]
    for title, listing in listed:
        if known := [name for name in listing if name in names]:
            yield title, known


def doc_of(module: str, name: str) -> str:
    """A name's docstring: of a rule that of its function, of another value the string below it."""
    x = offered(module)[name]
    if isinstance(x, Rule):
        return inspect.getdoc(x.fn) or ""
    if inspect.isclass(x) or inspect.isfunction(x):
        return inspect.getdoc(x) or ""
    return below(importlib.import_module(module), name)


def said_of(module: str, name: str) -> str:
    """What a name is, in one sentence."""
    return doc_of(module, name).split("\n\n")[0].replace("\n", " ")


def below(module: ModuleType, name: str) -> str:
    """The string below a value, in the module or in the one that the value is imported from."""
    body = ast.parse(inspect.getsource(module)).body
    for statement, following in itertools.pairwise(body):
        if isinstance(statement, ast.ImportFrom) and name in {a.name for a in statement.names}:
            return below(importlib.import_module(statement.module or ""), name)
        if isinstance(statement, ast.Assign | ast.AnnAssign) and isinstance(following, ast.Expr):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            if name in map(ast.unparse, targets):
                return inspect.cleandoc(ast.literal_eval(following.value))
    return ""


def described(module: str, name: str) -> list[str]:
    """The reStructuredText that describes a name in its home."""
    x = offered(module)[name]
    if inspect.isclass(x):
        options = [] if issubclass(x, BaseException) else ["   :members:"]
        return [f".. autoclass:: {module}.{name}", *options, ""]
    if inspect.isfunction(x):
        return [f".. autofunction:: {module}.{name}", ""]
    doc = doc_of(module, name).replace("Example:\n", "**Example**\n\n")
    return [f".. py:data:: {module}.{name}", "", textwrap.indent(doc, "   "), ""]


def page(module: str) -> str:
    """The text of a module's page below its title."""
    found = importlib.import_module(module)
    doc = inspect.getdoc(found) or ""
    introduction = re.split(r"^(?!Example)\w[\w ]*:$", doc, maxsplit=1, flags=re.M)[0]
    introduction = introduction.replace("Example:\n", "**Example**\n\n")
    parts = ["```{eval-rst}", introduction, "```\n"]
    for title, names in groups(module):
        parts.append(f"## {title}\n")
        rows = []
        texts: list[str] = []
        for name in names:
            x, where = offered(module)[name], home(module, name)
            kind = "class" if inspect.isclass(x) else "func" if inspect.isfunction(x) else "data"
            role = "exc" if inspect.isclass(x) and issubclass(x, BaseException) else kind
            rows += [f"   * - :py:{role}:`~{where}.{name}`", f"     - {said_of(module, name)}"]
            if where == module:
                texts += described(module, name)
        table = [".. list-table::", "   :widths: 30 70", "", *rows, ""]
        parts += ["```{eval-rst}", f".. currentmodule:: {module}", "", *table, *texts, "```\n"]
    return "\n".join(parts)
