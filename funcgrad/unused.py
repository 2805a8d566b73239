"""Overrides that never applied while a function was differentiated: reported, never dropped."""

from __future__ import annotations

import contextlib
import contextvars
import difflib
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from funcgrad import errors
from funcgrad.keys import FunctionId, Op
from funcgrad.registry import Rule, Rules
from funcgrad.tape import Tape, walk_nodes

_used: contextvars.ContextVar[tuple[set[Op], ...]] = contextvars.ContextVar("used", default=())


def mark_used(op: Op) -> None:
    """Say of an override that it has been used by another way than as a node's op."""
    for inside in _used.get()[-1:]:
        inside.add(op)


@contextlib.contextmanager
def reporting(rules: Rules, name: str, strict: bool) -> Iterator[list[Tape]]:
    """Report the overrides in `rules` that no node of the tapes put into the list has used.

    What a differentiation inside this one has used counts: the inner one sees the function first.

    Raises:
      errors.UnusedOverrideError: there is one, and `strict` was asked for.
    """
    tapes: list[Tape] = []
    if not rules.overridden:
        yield tapes
        return
    inside: set[Op] = set()
    token = _used.set((*_used.get(), inside))
    try:
        yield tapes
    finally:
        _used.reset(token)
    occurred = {node.op for tape in tapes for node in walk_nodes(tape)}
    for enclosing in _used.get():
        enclosing.update(occurred, inside)
    unused = [
        op for op in rules.overridden if op not in occurred | inside and not _optional(rules, op)
    ]
    if unused and tapes:
        report({op: rules.find(op) for op in unused}, occurred, name, strict)


def _optional(rules: Rules, op: Op) -> bool:
    entry = rules.find(op)
    return isinstance(entry, Rule) and entry.optional


def report(unused: Mapping[Op, Any], occurred: set[Op], name: str, strict: bool) -> None:
    """Report overrides, ops with their rules, that were not used where these ops occurred.

    Raises:
      errors.UnusedOverrideError: `strict` was asked for.
    """
    lines = [_line(op, entry, occurred) for op, entry in unused.items()]
    message = (
        f"`{name}` was differentiated, and {len(lines)} override(s) in its rules never applied:\n"
        + "\n".join(lines)
        + "\nAn override applies where a differentiated value passes through its op while the function "
        "is run or traced. It cannot reach what was traced before (a jaxpr, a compiled function) or "
        "is not written in Python. Make a rule with optional=True to be told nothing."
    )
    if strict:
        raise errors.UnusedOverrideError(message)
    warnings.warn(message, errors.UnusedOverrideWarning, stacklevel=_level_of_user())


INTERNAL = (*(os.path.dirname(m.__file__ or "") for m in (errors, jax)), contextlib.__file__)
"""Where the frames are that are not the user's."""


def _level_of_user() -> int:
    """How many frames up the user's is, from the caller of this function."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(INTERNAL):
        frame, level = frame.f_back, level + 1
    return level


def _line(op: Op, entry: Any, occurred: set[Op]) -> str:
    by = f"`{entry.name}` ({entry.source})" if isinstance(entry, Rule) else "a rule"
    near = near_misses(op, occurred)
    hint = f"; ops that did occur: {', '.join(near)}" if near else "; no op occurred"
    return f"- `{op}`, by {by}{hint}"


def near_misses(op: Op, occurred: set[Op], most: int = 4) -> list[str]:
    """The ops that occurred, those with names like the wanted one first."""
    names = {str(found): short_name(found) for found in sorted(occurred, key=str)}
    wanted = short_name(op)
    close = difflib.get_close_matches(wanted, list(names.values()), n=most, cutoff=0.5)
    containing = [s for s in names.values() if wanted in s or s in wanted]
    ranked = dict.fromkeys([*containing, *close, *names.values()])
    shown = list(ranked)[:most]
    more = len(set(names.values())) - len(shown)
    return [f"`{s}`" for s in shown] + ([f"and {more} more"] if more > 0 else [])


def short_name(op: Op) -> str:
    """An op's bare name."""
    return op.description.split(" at ")[0] if isinstance(op, FunctionId) else str(op)
