"""Loops and branches in the user's source: what it means that a line comes again."""

from __future__ import annotations

import ast
import functools
import linecache
from typing import NamedTuple

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


BRANCHES = (ast.If, ast.IfExp, ast.BoolOp, ast.Match, ast.Try)
LOOPS = (ast.For, ast.AsyncFor, ast.While)


class Surroundings(NamedTuple):
    """What is around a line, within the innermost function.

    Attributes:
      loop: the first line of the innermost loop; None if there is none.
      branched: whether the line is one of several ways through that loop, or through the function.
    """

    loop: int | None
    branched: bool


def surroundings(file: str, line: int) -> Surroundings:
    """The loop around a line, and whether the line is in a branch.

    Raises:
      OSError: the source is not there.
    """
    found = Surroundings(None, branched=False)
    for node in _around(file, line):
        if isinstance(node, FUNCTIONS):
            found = Surroundings(None, branched=False)
        elif isinstance(node, LOOPS):
            found = Surroundings(node.lineno, branched=False)
        elif isinstance(node, BRANCHES):
            found = Surroundings(found.loop, branched=True)
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
