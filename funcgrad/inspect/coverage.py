"""Which rule differentiates which op of a function."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax

from funcgrad import _jax
from funcgrad.default import DEFAULT
from funcgrad.registry import FunctionId, Op, Rule, Rules, ZeroRule
from funcgrad.surface import public

KINDS = {
    "rule": "a backward rule of the registry",
    "call": "differentiated through the function that it calls",
    "custom": "the user's own jax.custom_jvp or jax.custom_vjp",
    "zero": "its derivative is zero or undefined by nature",
    "integer": "no rule, and nothing that could have a gradient",
    "fallback": "JAX's derivative of a third-party primitive",
    "missing": "no rule: a gradient through it is an error",
}
"""What an op's row can say."""


@dataclass(frozen=True)
class Row:
    """How one op of a function is differentiated.

    Attributes:
      op: the primitive, or the function that has a rule or a derivative of its own.
      count: how often it occurs, in loops and called functions once each.
      kind: one of :data:`KINDS`.
      rule: the rule's name, or an empty string.
      source: ``file:line`` of the rule, or an empty string.
    """

    op: Op
    count: int
    kind: str
    rule: str
    source: str


@dataclass(frozen=True)
class Coverage:
    """The ops of a function and their rules; printed, a table.

    Attributes:
      rows: one for each op and kind, by name.
    """

    rows: tuple[Row, ...]

    def of_kind(self, kind: str) -> tuple[Row, ...]:
        """The rows of one kind, such as ``"missing"`` or ``"fallback"``."""
        return tuple(row for row in self.rows if row.kind == kind)

    def __str__(self) -> str:
        head = ("op", "count", "kind", "rule", "source")
        cells = [head] + [
            (str(row.op), str(row.count), row.kind, row.rule, row.source) for row in self.rows
        ]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]
        return "\n".join(lines)


@public
def coverage(
    fun: Callable[..., Any], *args: Any, rules: Rules = DEFAULT, strict: bool = False
) -> Coverage:
    """Say for every op in `fun` which rule differentiates it, or that none does.

    Args:
      fun: a function of pytrees of arrays.
      *args: its arguments, or ``jax.ShapeDtypeStruct`` in their place: `fun` is traced, not run.
      rules: the backward rules.
      strict: do not count on JAX for primitives of third-party packages.

    Returns:
      A :class:`Coverage`, a table of op, count, kind, rule and where the rule is written.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> found = funcgrad.inspect.coverage(lambda x: jnp.sum(jnp.sin(x)), jnp.ones(3))
      >>> [(str(row.op), row.kind, row.rule) for row in found.rows]
      [('reduce_sum', 'rule', 'reduce_sum_vjp'), ('sin', 'rule', 'sin_vjp')]
    """
    rules = rules.strict() if strict else rules
    counts: Counter[tuple[Op, str]] = Counter()
    closed = jax.make_jaxpr(fun)(*args)
    counts.update((op, kind) for op, kind in _uses(closed.jaxpr, rules))
    rows = [_row(op, kind, count, rules) for (op, kind), count in counts.items()]
    return Coverage(tuple(sorted(rows, key=lambda row: (str(row.op), row.kind))))


def _uses(jaxpr: Any, rules: Rules) -> Iterator[tuple[Op, str]]:
    """Every op that is applied, with how it is differentiated."""
    for eqn in jaxpr.eqns:
        function = FunctionId(_jax.called_function(eqn) or "")
        if rules.find(function) is not None:
            yield function, _kind(function, eqn, rules)
            continue
        if eqn.primitive in (_jax.custom_jvp_call_p, _jax.custom_vjp_call_p):
            yield function, "custom"
            continue
        yield eqn.primitive, _kind(eqn.primitive, eqn, rules)
        for inner in _jax.inner_jaxprs(eqn.params):
            yield from _uses(inner, rules)


def _kind(op: Op, eqn: Any, rules: Rules) -> str:
    entry = rules.find(op)
    if isinstance(entry, Rule):
        return "rule"
    if isinstance(entry, ZeroRule):
        return "zero"
    if entry is not None:
        return "call" if op in rules else "fallback"
    outputs = any(_jax.is_inexact(v.aval) for v in eqn.outvars)
    inputs = any(_jax.is_inexact(v.aval) for v in eqn.invars)
    return "missing" if inputs and outputs else "integer"


def _row(op: Op, kind: str, count: int, rules: Rules) -> Row:
    entry = rules.find(op)
    if kind == "custom" or entry is None or isinstance(entry, ZeroRule):
        return Row(op, count, kind, "", "")
    return Row(op, count, kind, entry.fn.__name__, _jax.source_of(entry.fn))
