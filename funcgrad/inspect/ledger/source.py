"""Loops in the user's source: whether lines that come again are a loop, or calls of a function."""

from __future__ import annotations

import ast
import functools
import linecache
from typing import NamedTuple

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


class Lines(NamedTuple):
    """The first and the last line of a loop."""

    first: int
    last: int

    def __contains__(self, line: object) -> bool:
        return isinstance(line, int) and self.first <= line <= self.last


def loop_around(file: str, line: int) -> Lines | None:
    """The innermost ``for`` or ``while`` around a line, in the innermost function around that.

    Raises:
      OSError: the source is not there.
    """
    found: Lines | None = None
    for node in _around(file, line):
        if isinstance(node, FUNCTIONS):
            found = None
        elif isinstance(node, (ast.For, ast.AsyncFor, ast.While)):
            found = Lines(node.lineno, node.end_lineno or node.lineno)
    return found


def _around(file: str, line: int) -> list[ast.AST]:
    """The nodes of the syntax tree around a line, from the outside in."""
    found: list[ast.AST] = []
    children: list[ast.AST] = [_parsed(file)]
    while children:
        inside = [node for node in children if _has(node, line)]
        found += inside[:1]
        children = [child for node in inside for child in ast.iter_child_nodes(node)]
    return found


def _has(node: ast.AST, line: int) -> bool:
    if isinstance(node, ast.Module):
        return True
    return getattr(node, "lineno", line + 1) <= line <= (getattr(node, "end_lineno", None) or 0)


@functools.lru_cache(maxsize=64)
def _parsed(file: str) -> ast.Module:
    text = "".join(linecache.getlines(file))
    if not text:
        raise OSError(f"the source of {file} is not there")
    try:
        return ast.parse(text)
    except SyntaxError as error:  # a notebook's cell with a magic command
        raise OSError(f"the source of {file} is not Python") from error
