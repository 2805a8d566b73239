"""Overrides that never applied while a function was differentiated: reported, never dropped."""

from __future__ import annotations

import contextlib
import contextvars
import difflib
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax

from funcgrad import _jax, errors
from funcgrad.catching import Seen
from funcgrad.functions import unmarked
from funcgrad.keys import FunctionId, Op
from funcgrad.nodes import walk_nodes
from funcgrad.registry import Rule, Rules
from funcgrad.tape import Node, Tape

_used: contextvars.ContextVar[tuple[set[Op], ...]] = contextvars.ContextVar("used", default=())


def mark_used(op: Op) -> None:
    """Say of an override that it has been used by another way than as a node's op."""
    for inside in _used.get()[-1:]:
        inside.add(op)


@dataclass
class Report:
    """What a differentiation has used: the ops of its tape, and what JAX's derivatives inside did.

    Attributes:
      wanted: somebody will read the report.
    """

    wanted: bool
    occurred: set[Op] = field(default_factory=set)
    seen: Seen | None = None

    def of(self, tape: Tape, seen: Seen) -> None:
        """Report on this tape."""
        if self.wanted:
            self.occurred = {_op_of(node) for node in walk_nodes(tape)}
        self.seen = seen


@contextlib.contextmanager
def reporting(rules: Rules, name: str, strict: bool) -> Iterator[Report]:
    """Report the overrides in `rules` that no node of the report's tape has used.

    What a differentiation inside this one has used counts: the inner one sees the function first. So
    does what derivatives of JAX's inside applied, and what they passed over is reported.

    Raises:
      errors.UnusedOverrideError: there is one, and `strict` was asked for.
    """
    report = Report(wanted=bool(rules.overridden))
    if not report.wanted:
        yield report
        return
    inside: set[Op] = set()
    token = _used.set((*_used.get(), inside))
    try:
        yield report
    finally:
        _used.reset(token)
    if report.seen is None:
        return
    occurred, seen = report.occurred, report.seen
    for enclosing in _used.get():
        enclosing.update(occurred, inside)
    used = occurred | inside | seen.applied | seen.passed_over.keys()
    unused = {op: rules.find(op) for op in _to_report(rules) if op not in used}
    if unused:
        report_unused(unused, occurred, name, strict)
    report_passed_over(rules, name, seen, strict)


def count_as_used(seen: Seen) -> None:
    """Count for the differentiations around what derivatives of JAX's did."""
    for enclosing in _used.get():
        enclosing.update(seen.applied, seen.passed_over)


def _op_of(node: Node) -> Op:
    """The op of a node; of what JAX makes of a caught function on tangents, the function."""
    if node.op is not _jax.custom_lin_p:
        return node.op
    name, mark = unmarked(_jax.description_of_wrapped(node.params["bwd"]))
    return FunctionId(name) if mark else node.op


def _to_report(rules: Rules) -> list[Op]:
    """The overridden ops of which something is to be said if their override does not apply."""
    entries = [(op, rules.find(op)) for op in rules.overridden]
    return [op for op, entry in entries if not (isinstance(entry, Rule) and entry.optional)]


def report_unused(unused: Mapping[Op, Any], occurred: set[Op], name: str, strict: bool) -> None:
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
    _say(message, strict)


def report_passed_over(rules: Rules, name: str, seen: Seen, strict: bool = False) -> None:
    """Report the overrides that derivatives of JAX's, inside `name`, passed over."""
    passed_over = [op for op in _to_report(rules) if op in seen.passed_over]
    if not passed_over:
        return
    lines = [f"- {_override(op, rules.find(op))}; at {seen.passed_over[op]}" for op in passed_over]
    message = (
        f"JAX took a derivative inside `{name}`, by jax.jvp, jax.grad or the like, in which "
        f"{len(lines)} override(s) did not apply:\n"
        + "\n".join(lines)
        + "\nJAX differentiates a primitive by its own rules. Call funcgrad.grad or funcgrad.vjp there, "
        "with these rules, or override the function that calls the primitive. Make a rule with "
        "optional=True to be told nothing."
    )
    _say(message, strict)


def _say(message: str, strict: bool) -> None:
    if strict:
        raise errors.UnusedOverrideError(message)
    warnings.warn(message, errors.UnusedOverrideWarning, stacklevel=_level_of_user())


INTERNAL = (os.path.dirname(__file__), os.path.dirname(jax.__file__ or ""), contextlib.__file__)
"""Where the frames are that are not the user's."""


def _level_of_user() -> int:
    """How many frames up the user's is, from the caller of this function."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(INTERNAL):
        frame, level = frame.f_back, level + 1
    return level


def _line(op: Op, entry: Any, occurred: set[Op]) -> str:
    near = near_misses(op, occurred)
    hint = f"; ops that did occur: {', '.join(near)}" if near else "; no op occurred"
    return f"- {_override(op, entry)}{hint}"


def _override(op: Op, entry: Any) -> str:
    by = f"`{entry.name}` ({entry.source})" if isinstance(entry, Rule) else "a rule"
    return f"`{op}`, by {by}"


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
