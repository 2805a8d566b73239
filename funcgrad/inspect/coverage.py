"""Which rule differentiates which op of a function."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax

from funcgrad import _jax
from funcgrad.calls.checkpoint import RematProgram
from funcgrad.calls.custom import CustomJvpProgram, CustomVjpProgram
from funcgrad.calls.jit import JitProgram
from funcgrad.calls.third_party import ForeignPullback, ForeignTranspose
from funcgrad.catching import catching
from funcgrad.default import DEFAULT
from funcgrad.functions import unmarked
from funcgrad.inspect.observe import tape_of
from funcgrad.inspect.tables import table
from funcgrad.keys import FunctionId, Op
from funcgrad.registry import Rule, Rules, ZeroRule
from funcgrad.rule_program import RuleProgram
from funcgrad.surface import public
from funcgrad.tape import FrozenTape, MissingRule, Node

KINDS = {
    "rule": "a backward rule of the registry",
    "call": "differentiated through the function that it calls",
    "custom": "the user's own jax.custom_jvp or jax.custom_vjp",
    "zero": "its derivative is zero or undefined by nature",
    "fallback": "JAX's derivative of a third-party primitive",
    "integer": "no rule, and nothing that could have a gradient",
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

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> [row] = funcgrad.inspect.coverage(jnp.sin, 1.0).rows
      >>> print(row.op, row.count, row.kind, row.rule)
      sin 1 rule sin_vjp
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

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> found = funcgrad.inspect.coverage(lambda x: jnp.sin(x) * x, 1.0)
      >>> print([str(row.op) for row in found.rows])
      ['mul', 'sin']
    """

    rows: tuple[Row, ...]

    def of_kind(self, kind: str) -> tuple[Row, ...]:
        """The rows of one kind, such as ``"missing"`` or ``"fallback"``."""
        return tuple(row for row in self.rows if row.kind == kind)

    def __str__(self) -> str:
        head = ("op", "count", "kind", "rule", "source")
        cells = [(str(row.op), str(row.count), row.kind, row.rule, row.source) for row in self.rows]
        return table(head, cells, words=range(len(head)))


@public
def coverage(
    fun: Callable[..., Any], *args: Any, rules: Rules = DEFAULT, strict: bool = False
) -> Coverage:
    """Say for every op in `fun` which rule differentiates it, or that none does.

    The table says what a differentiation by all floating-point leaves of the arguments did; an op that
    no gradient passes through is listed by what the rules have for it.

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
    counts = Counter(_recorded(tape_of(fun, *args, rules=rules, strict=strict), rules))
    recorded = {op for op, _ in counts}
    with catching(rules):
        closed = jax.make_jaxpr(fun)(*args)
    rules = rules.strict() if strict else rules
    counts.update(use for use in _applied(closed.jaxpr, rules) if use[0] not in recorded)
    rows = [_row(op, kind, count, rules) for (op, kind), count in counts.items()]
    return Coverage(tuple(sorted(rows, key=lambda row: (str(row.op), row.kind))))


def _recorded(tape: FrozenTape, rules: Rules) -> Iterator[tuple[Op, str]]:
    """Every op that was recorded, with how it is differentiated."""
    for node in tape.nodes:
        kind = _kind(node, rules)
        yield node.op if kind != "call" else _primitive(node), kind
        if kind == "call":
            for inner in node.pullback.inner.values():
                yield from _recorded(inner, rules)


def _primitive(node: Node) -> Op:
    """The primitive of a call, whose op may be the function that it calls."""
    known = {JitProgram: _jax.jit_p, RematProgram: _jax.remat_p}
    if not isinstance(node.op, FunctionId):
        return node.op
    return known.get(type(node.pullback)) or getattr(node.pullback, "primitive", None) or node.op


def _applied(jaxpr: Any, rules: Rules) -> Iterator[tuple[Op, str]]:
    """Every op of a jaxpr, by what the rules have for it, if a gradient passes through it or not."""
    for eqn in jaxpr.eqns:
        name, mark = unmarked(_jax.called_function(eqn) or "")
        function = FunctionId(name)
        if mark or rules.find(function) is not None:
            yield function, "rule"
        elif eqn.primitive in (_jax.custom_jvp_call_p, _jax.custom_vjp_call_p):
            yield function, "custom"
        else:
            yield eqn.primitive, _available(eqn, rules)
            for inner in _jax.inner_jaxprs(eqn.params):
                yield from _applied(inner, rules)


def _available(eqn: Any, rules: Rules) -> str:
    """What the rules have for an equation's primitive."""
    entry = rules.find(eqn.primitive)
    if isinstance(entry, Rule):
        return "rule"
    if isinstance(entry, ZeroRule):
        return "zero"
    if entry is not None:
        return "call" if eqn.primitive in rules else "fallback"
    outputs = any(_jax.is_inexact(v.aval) for v in eqn.outvars)
    inputs = any(_jax.is_inexact(v.aval) for v in eqn.invars)
    return "missing" if inputs and outputs else "integer"


def _kind(node: Node, rules: Rules) -> str:
    """How a node's pullback came about."""
    pullback = node.pullback
    if isinstance(pullback, MissingRule):
        return "missing"
    if isinstance(pullback, (ForeignPullback, ForeignTranspose)):
        return "fallback"
    if isinstance(pullback, RuleProgram) or isinstance(rules.find(node.op), Rule):
        return "rule"
    return "custom" if isinstance(pullback, (CustomJvpProgram, CustomVjpProgram)) else "call"


def _row(op: Op, kind: str, count: int, rules: Rules) -> Row:
    entry = rules.find(op)
    if kind in ("custom", "zero", "missing") or entry is None or isinstance(entry, ZeroRule):
        return Row(op, count, kind, "", "")
    return Row(op, count, kind, entry.fn.__name__, _jax.source_of(entry.fn))
