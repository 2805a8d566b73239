"""Every rule of the package by family, with its mathematics, its source and its line."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import source_pages

from funcgrad.default import DEFAULT
from funcgrad.inspect.graphs.mathematics import notation_of
from funcgrad.printing import family_of, name_of_op, source_text
from funcgrad.registry import CallRule, Entry, Rule, ZeroRule


def families() -> dict[str, dict[Entry, list[Any]]]:
    """By family the entries of the registry, each with its ops: rules, then calls, then zeros."""
    found: dict[str, dict[Entry, list[Any]]] = {}
    for op, entry in DEFAULT.items():
        found.setdefault(family_of(entry), {}).setdefault(entry, []).append(op)
    rules = {name: found[name] for name in sorted(found) if _of_rules(found[name])}
    return rules | {name: entries for name, entries in found.items() if name not in rules}


def _of_rules(entries: dict[Entry, list[Any]]) -> bool:
    return all(isinstance(entry, Rule) for entry in entries)


def link(fn: Any, docname: str) -> str:
    """Where a rule is written, as a link to its line."""
    fn = inspect.unwrap(fn)
    path = Path(fn.__code__.co_filename).relative_to(source_pages.ROOT)
    line = fn.__code__.co_firstlineno
    return f'<a href="{source_pages.url(path, line, docname)}">{path.as_posix()}:{line}</a>'


def named(ops: list[Any]) -> str:
    return ", ".join(sorted({f"`{name_of_op(op)}`" for op in ops}))


def rule(entry: Rule, ops: list[Any], docname: str) -> Iterator[str]:
    """A rule: its ops, its mathematics where a textbook's line is known, its place and its source."""
    lines = {notation_of(op, entry) for op in ops} - {""}
    yield f"**{named(ops)}**, {link(entry.fn, docname)}\n"
    for notation in sorted(lines):
        yield f"{notation.replace('*', chr(92) + '*')}\n"
    yield f"```python\n{source_text(entry.fn).rstrip()}\n```\n"


def page(docname: str) -> str:
    """The text of the page below its introduction."""
    parts = []
    for family, entries in families().items():
        parts.append(f"## {family[0].upper()}{family[1:]}\n")
        for entry, ops in entries.items():
            match entry:
                case Rule():
                    parts += rule(entry, ops, docname)
                case CallRule():
                    parts.append(f"- {named(ops)}: {link(entry.fn, docname)}")
        if zeros := [op for e, ops in entries.items() if isinstance(e, ZeroRule) for op in ops]:
            parts.append(f"{named(zeros)}.")
        parts.append("")
    return "\n".join(parts)
