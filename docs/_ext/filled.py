"""Parts of pages that are made when the site is built, so that they are never out of date.

A page asks for one by a block in the place of the part:

    ```{api} funcgrad.testing
    ```
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable
from pathlib import Path

import api_pages
import lecture_pages
import rule_pages
import source_pages
from sphinx.application import Sphinx

ASKED = re.compile(r"^```\{(\w+)\}(?: (\S+))?\n```$", re.M)
FOLDER = re.compile(r"\]\((?:\.\./)*examples/?\)")
"""A link to the folder of examples, which GitHub lists."""


def examples() -> str:
    """A table of the examples that can be run, each with the first sentence of its docstring."""
    rows = ["| file | what it shows |", "|---|---|"]
    folder = source_pages.ROOT / "examples"
    for file in [*sorted(folder.glob("*.py")), *sorted(folder.glob("training/*.py"))]:
        text = file.read_text()
        if '__name__ == "__main__"' in text:
            sentence = (ast.get_docstring(ast.parse(text)) or "").split("\n\n")[0].split("\n")[0]
            link = f"[{file.name}](../{file.relative_to(source_pages.ROOT).as_posix()})"
            rows.append(f"| {link} | {sentence.split(': python examples')[0].rstrip('.')} |")
    return "\n".join(rows)


PARTS: dict[str, Callable[[str, str], str]] = {
    "api": lambda docname, module: api_pages.page(module),
    "rules": lambda docname, _: rule_pages.page(docname),
    "lecture": lambda docname, _: lecture_pages.page(),
    "numbers": lambda docname, _: lecture_pages.numbers(),
    "examples": lambda docname, _: examples(),
}


def fill(app: Sphinx, docname: str, source: list[str]) -> None:
    def part(asked: re.Match[str]) -> str:
        name, argument = asked.groups()
        return PARTS[name](docname, argument) if name in PARTS else asked[0]

    listed = os.path.relpath("docs/examples.md", Path(docname).parent)
    source[0] = FOLDER.sub(f"]({listed})", ASKED.sub(part, source[0]))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", fill)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
