"""What our gradient costs beside that of ``jax.grad``: as a whole, and the rule of each op."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax

from funcgrad import _jax
from funcgrad._jax import Equation
from funcgrad.inspect.costs.executions import Execution, Program, not_known, total
from funcgrad.inspect.costs.sums import Sums
from funcgrad.inspect.costs.ways import Traced, Ways, by_xla
from funcgrad.inspect.tables import number, table
from funcgrad.partition.work import Work
from funcgrad.registry import Rules
from funcgrad.testing.reference import vjp_of_jax
from funcgrad.transforms import vjp


@dataclass(frozen=True)
class RuleCost:
    """What differentiating an op adds to computing it.

    Attributes:
      name: the op.
      count: how often the function runs it.
      ours: the work that our rule adds, on both ways.
      jax: the work that JAX's rule adds.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> found = funcgrad.inspect.cost(jnp.sin, 1.0, xla=False, against_jax=True)
      >>> [row] = found.beside.by_op
      >>> print(row.name, row.ours.flops, row.jax.flops)
      sin 1.0 1.0
    """

    name: str
    count: int
    ours: Work
    jax: Work

    @property
    def verdict(self) -> str:
        """Which rule does less: the one with fewer operations; of the same number, with fewer bytes."""
        ours, theirs = ((w.operations, w.bytes) for w in (self.ours, self.jax))
        return "the same" if ours == theirs else "better" if ours < theirs else "worse"


@dataclass(frozen=True)
class BesideJax:
    """Our value and gradient beside those by ``jax.vjp``; printed, a table.

    Attributes:
      ours: the work of our value and gradient.
      jax: that of JAX's; None where JAX refuses to differentiate the function.
      refusal: what JAX says then.
      xla_ours: XLA's figures for ours, where XLA was asked.
      xla_jax: XLA's figures for JAX's.
      by_op: a row for each op, as if differentiated alone by all its operands; the greatest difference
        first. Sums where a value is read twice, and what calls keep or compute again, are in no row.
      not_compared: ops that one of the two does not differentiate when they stand alone.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> found = funcgrad.inspect.cost(jnp.sin, 1.0, xla=False, against_jax=True)
      >>> print(found.beside.ours.flops == found.beside.jax.flops)
      True
    """

    ours: Work
    jax: Work | None
    refusal: str = ""
    xla_ours: Work | None = None
    xla_jax: Work | None = None
    by_op: tuple[RuleCost, ...] = ()
    not_compared: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.jax is None:
            return f"Beside jax.grad: JAX does not differentiate this function ({self.refusal})."
        lines = [f"Beside jax.grad: {_shares(self.ours, self.jax)}, as traced."]
        if self.xla_ours is not None and self.xla_jax is not None:
            lines.append(f"As XLA counts: {_shares(self.xla_ours, self.xla_jax)}.")
        different = [row for row in self.by_op if row.verdict != "the same"]
        same = [row.name for row in self.by_op if row.verdict == "the same"]
        lines.append(_rows(different) if different else "The rule of each op costs the same.")
        if different and same:
            lines.append(f"the same: {', '.join(same)}")
        if self.not_compared:
            lines.append(f"not compared: {', '.join(self.not_compared)}")
        return "\n".join(lines)


def _shares(ours: Work, theirs: Work) -> str:
    operations = ours.operations / max(theirs.operations, 1.0)
    moved = ours.bytes / max(theirs.bytes, 1.0)
    return f"{operations:.2f} of its operations and {moved:.2f} of its bytes"


def _rows(rows: Iterable[RuleCost]) -> str:
    head = ("rule of", "runs", "operations", "JAX's", "bytes", "JAX's", "ours is")
    cells = [
        (
            row.name,
            number(row.count),
            *(number(w.operations) for w in (row.ours, row.jax)),
            *(number(w.bytes) for w in (row.ours, row.jax)),
            row.verdict,
        )
        for row in rows
    ]
    return table(head, cells)


def beside_jax(
    fun: Callable[..., Any],
    args: tuple[Any, ...],
    has_aux: bool,
    rules: Rules,
    ours: Work,
    xla_ours: Work | None,
) -> BesideJax:
    """Our gradient of a function, whose work is known, beside JAX's; XLA is asked if it was before."""
    try:
        ways = Ways.of(fun, args, vjp_of_jax, has_aux)
    except Exception as refusal:  # JAX's are of many kinds
        words = str(refusal).strip().splitlines() or [type(refusal).__name__]
        return BesideJax(ours, None, words[0].rstrip("."))
    theirs = _total(ways.forward) + _total(ways.backward)
    xla = None if xla_ours is None else by_xla(ways.gradient, ways.given)
    plain = Traced.of(jax.make_jaxpr(ways.run)(*ways.given))
    compared = _by_op(Program.of(plain.jaxpr, not_known, opaque=OPAQUE), rules.quietly())
    return BesideJax(ours, theirs, "", xla_ours, xla, *compared)


OPAQUE = frozenset({_jax.custom_jvp_call_p, _jax.custom_vjp_call_p, _jax.custom_vmap_p})
"""Calls that are differentiated by the user's own rule, so that no rule is applied inside them."""


def _total(traced: Traced) -> Work:
    return total(Program.of(traced.jaxpr, not_known).executions)


def _by_op(program: Program, rules: Rules) -> tuple[tuple[RuleCost, ...], tuple[str, ...]]:
    """The rows, and the ops that are not compared."""
    sums = Sums()
    known: dict[Any, tuple[Work, Work] | None] = {}
    failed: dict[str, None] = {}
    for execution in program.executions:
        if execution.loops or not _has_derivative(execution.eqn):
            continue
        key = _signature(execution.eqn)
        if key not in known:
            known[key] = _added_by_both(execution.eqn, rules)
        added = known[key]
        if added is None:
            failed[_name(execution)] = None
        else:
            ours, theirs = (work * execution.times for work in added)
            sums.add(_name(execution), execution.times, ours, theirs)
    return tuple(sorted(sums.rows(RuleCost), key=_difference, reverse=True)), tuple(failed)


def _difference(row: RuleCost) -> tuple[float, float]:
    return (
        abs(row.ours.operations - row.jax.operations),
        abs(row.ours.bytes - row.jax.bytes),
    )


def _name(execution: Execution) -> str:
    called = _jax.called_function(execution.eqn)
    return execution.op if called is None else called.split(" at ")[0]


def _signature(eqn: Equation) -> Any:
    """Equations with the same cost its derivative has: the same op at the same types."""
    types = tuple(str(v.aval) for v in eqn.invars)
    return eqn.primitive, tuple(map(_jax.is_literal, eqn.invars)), types, str(eqn.params)


def _has_derivative(eqn: Equation) -> bool:
    given = any(_jax.is_inexact(v.aval) for v in _jax.variables(eqn.invars))
    return given and not eqn.effects and any(_jax.is_inexact(v.aval) for v in eqn.outvars)


def _added_by_both(eqn: Equation, rules: Rules) -> tuple[Work, Work] | None:
    """What our rule and JAX's add to an operation; None if one of them does not differentiate it."""
    operands = [i for i, v in enumerate(eqn.invars) if not _jax.is_literal(v)]

    def run(*values: Any) -> Any:
        filled = [v.val if _jax.is_literal(v) else None for v in eqn.invars]
        for i, x in zip(operands, values, strict=True):
            filled[i] = x
        return _jax.bind_equation(eqn, filled)

    try:
        types = [_struct(eqn.invars[i].aval) for i in operands]
        alone = _total(Traced.of(jax.make_jaxpr(run)(*types)))
        ours = Ways.of(run, types, functools.partial(vjp, rules=rules))
        theirs = Ways.of(run, types, vjp_of_jax)
    except Exception:  # no derivative by one of the two
        return None
    return _added(ours, alone), _added(theirs, alone)


def _struct(aval: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype)


def _added(ways: Ways, alone: Work) -> Work:
    return _total(ways.forward) + _total(ways.backward) + alone * -1
