"""How rules and mappings of rules are shown."""

from __future__ import annotations

import inspect
import linecache
import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any

WIDTH = 88


def shown_rule(rule: Any) -> str:
    """Which ops a rule is of, where it stands, and its source."""
    kind = "elementwise rule" if rule.late else "rule"
    head = f"<{kind} `{rule.name}` of {_ops(rule.ops)}, at {rule.source}>"
    return "\n".join([head, *textwrap.indent(source_text(rule.fn), "    ").splitlines()])


def shown_zero(entry: Any) -> str:
    """Which ops have no derivative."""
    return f"<the derivative of {_ops(entry.ops)} is zero or undefined by nature>"


def shown_call(entry: Any, source: str) -> str:
    """Which ops call a function, and what handles them: `source`."""
    return f"<{_ops(entry.ops)} is differentiated through what it calls, by {source}>"


def shown_rules(rules: Any, fallback: Any) -> str:
    """The ops by family, which is the module of their rules."""
    families: dict[str, list[str]] = {}
    for op, entry in rules.items():
        families.setdefault(family_of(entry), []).append(name_of_op(op))
    lines = [f"<rules of {len(rules)} ops"]
    for family, names in families.items():
        text = f"{family}: {', '.join(sorted(names))}"
        lines += textwrap.wrap(
            text, WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
        )
    if fallback is not None:
        lines.append("  primitives of third-party packages: the derivative that they told JAX")
    for placed in rules.placed:
        lines.append(f"  at {placed.selector}: {name_of_op(placed.op)} by {placed.rule.name}")
    return "\n".join(lines) + ">"


def source_text(fn: Callable[..., Any]) -> str:
    """The source of a function; of a lambda, the lines that it is on; empty where there is none."""
    fn = inspect.unwrap(fn)
    code = getattr(fn, "__code__", None)
    if code is None:
        return ""
    if code.co_name != "<lambda>":
        try:
            return textwrap.dedent(inspect.getsource(fn))
        except (OSError, TypeError):
            return ""
    last = max(end for _, end, _, _ in code.co_positions() if end is not None)
    lines = linecache.getlines(code.co_filename)[code.co_firstlineno - 1 : last]
    return textwrap.dedent("".join(lines))


def shown_pullback(name: str, arguments: Sequence[str], residuals: Sequence[Any]) -> str:
    """Whose pullback it is, of which arguments, and what it keeps, whatever stands for an array."""
    known = [size_of(x) for x in residuals]
    count = f"{len(known):,} residual{'s' * (len(known) != 1)}"
    return f"<pullback of {name}({', '.join(arguments)}): {count}, {sum(known):,} bytes>"


def size_of(x: Any) -> int:
    """The bytes of an array, or of what has the type of one; nothing for anything else."""
    shape, dtype = getattr(x, "shape", None), getattr(x, "dtype", None)
    if not isinstance(shape, tuple):
        return 0
    return math.prod(shape) * getattr(dtype, "itemsize", 0)


def _ops(ops: Iterable[Any]) -> str:
    return ", ".join(f"`{op}`" for op in ops)


def name_of_op(op: Any) -> str:
    return str(op).split(" at ")[0]


def family_of(entry: Any) -> str:
    fn = getattr(entry, "fn", None)
    if fn is None:
        return "zero or undefined by nature"
    module = getattr(inspect.unwrap(fn), "__module__", None) or "unknown module"
    package, _, rest = module.partition(".")
    if package != __package__:
        return module
    kind, _, family = rest.partition(".")
    return family if kind == "rules" else kind
