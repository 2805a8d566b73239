"""Where in a program a NaN or an infinity begins.

A *fault* is an equation whose result is not finite though its operands are. `locate` runs a program once
and marks each variable: it has a NaN, it has an infinity. It follows the marks from the bad results
back to the equations at which they begin. Where such an equation calls a function, `locate` does the
same in there: of a loop, in the step at fault.

An infinity may be meant: a mask of ``-inf``, say. So an infinity counts only where a bad result comes of
it. One that no equation made of finite values counts only where nothing else explains the result.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

from funcgrad._jax.calls import scan_settings
from funcgrad._jax.jaxprs import (
    carried_functions,
    close,
    convert_consts,
    eval_closed_jaxpr,
    function_of,
    is_literal,
    type_of,
)
from funcgrad._jax.marks import INF, NAN, MarkedRun, compiled_rounded, marks_in
from funcgrad._jax.ops import where
from funcgrad._jax.types import Atom, Equation, Value
from funcgrad._jax.values import typeof


@dataclass(frozen=True)
class LoopStep:
    """A step of a loop.

    Attributes:
      loop: ``scan`` or ``while loop``.
      index: counted from 0 along the loop's arrays. None in the derivative of a ``while``, which goes
        over the steps in units of its own.
      length: of a ``scan``.
    """

    loop: str
    index: int | None
    length: int | None


@dataclass(frozen=True)
class Fault:
    """Where a value ceases to be finite.

    Attributes:
      kind: ``nan`` or ``inf``.
      cause: ``op`` for an equation whose operands are finite, or infinite on purpose; ``constant`` for
        one that reads a number which is not finite; ``input`` for an input of the program.
      position: which input, or which output of the equation.
      eqn: the equation; None for an input.
      operands: its operands' values.
      outs: its outputs' values; the input for an input.
      around: the equations around it, from outside in, each with the step of the loop that it is.
      became: the equation at which an infinity turned into a NaN, if that is another.
    """

    kind: str
    cause: str
    position: int
    eqn: Equation | None
    operands: tuple[Value, ...]
    outs: tuple[Value, ...]
    around: tuple[tuple[Equation, LoopStep | None], ...] = ()
    became: Equation | None = None

    @property
    def equations(self) -> tuple[Equation, ...]:
        """The equations around the fault, from outside in, and the one at fault."""
        own = () if self.eqn is None else (self.eqn,)
        return (*(eqn for eqn, _ in self.around), *own)

    @property
    def where(self) -> str | None:
        """``file:line (function)`` of the innermost of these that has a place in the user's source."""
        places = (where(eqn.source_info) for eqn in reversed(self.equations))
        return next((place for place in places if place), None)


def locate(
    jaxpr: Jaxpr,
    args: Sequence[Value],
    kinds: Sequence[str] = (NAN, INF),
    blamed: Iterable[int] | None = None,
) -> Fault | None:
    """Where the results of a jaxpr without constants cease to be finite.

    Args:
      jaxpr: the program.
      args: its inputs' values.
      kinds: what to look for.
      blamed: the results to explain, by position; None for all.

    Returns:
      The first fault in the order of the program; None if there is none.
    """
    return locate_in(MarkedRun(jaxpr, args), args, kinds, blamed)


def locate_in(
    run: MarkedRun,
    args: Sequence[Value],
    kinds: Sequence[str] = (NAN, INF),
    blamed: Iterable[int] | None = None,
) -> Fault | None:
    """The same for a program that was run on these values."""
    outvars, eqns = run.jaxpr.outvars, run.jaxpr.eqns
    outs = outvars if blamed is None else [outvars[i] for i in blamed]
    origin = _Search(run).first((v, kind) for v in outs for kind in kinds if run.has(v, kind))
    if origin is None:
        return None
    if origin.eqn is None:
        value = args[origin.position]
        return Fault(origin.kind, "input", origin.position, None, (), (value,))
    eqn = eqns[origin.eqn]
    operands, results = run.around(origin.eqn)
    at_fault = [i for i, v in enumerate(eqn.outvars) if run.has(v, origin.kind)]
    became = None if origin.became is None else eqns[origin.became]
    found = _descend(eqn, operands, origin.kind, at_fault) if origin.cause == "op" else None
    if found is not None:
        fault, step = found
        around = ((eqn, step), *fault.around)
        return replace(fault, around=around, became=fault.became or became)
    own = eqn, tuple(operands), tuple(results)
    return Fault(origin.kind, origin.cause, at_fault[0], *own, became=became)


# --- from bad results back to where they begin


@dataclass(frozen=True)
class _Origin:
    """An equation or an input at which a mark begins; `became` is where an infinity became a NaN."""

    cause: str
    kind: str
    eqn: int | None
    position: int = 0
    became: int | None = None

    @property
    def order(self) -> tuple[int, int, float]:
        """Faults of equations come first, in the order of the program; inputs come last."""
        rank = ("op", "constant", "input").index(self.cause)
        place = self.position if self.eqn is None else self.eqn
        return rank, place, inf if self.became is None else self.became


class _Search:
    """Follows marks through a jaxpr, from results to operands."""

    def __init__(self, run: MarkedRun):
        self.jaxpr, self.has = run.jaxpr, run.has
        jaxpr = run.jaxpr
        self.inputs = {v: i for i, v in enumerate(jaxpr.invars)}
        self.makers = {v: i for i, eqn in enumerate(jaxpr.eqns) for v in eqn.outvars}

    def first(self, bad: Iterable[tuple[Atom, str]]) -> _Origin | None:
        """The first origin of some marks."""
        return min(self.origins(bad), key=lambda origin: origin.order, default=None)

    def origins(self, bad: Iterable[tuple[Atom, str]]) -> list[_Origin]:
        """Where some marks begin; all of them."""
        found: list[_Origin] = []
        waiting = [(v, kind) for v, kind in bad if not is_literal(v)]
        seen = set(waiting)
        while waiting:
            v, kind = waiting.pop()
            if v in self.inputs:
                found.append(_Origin("input", kind, None, self.inputs[v]))
                continue
            index = self.makers[v]
            operands = self.jaxpr.eqns[index].invars
            carrying = [x for x in operands if self.has(x, kind)]
            if not carrying:
                found.append(self.beginning(index, kind))
            elif any(map(is_literal, carrying)):
                found.append(_Origin("constant", kind, index))
            new = {(x, kind) for x in carrying if not is_literal(x)} - seen
            seen |= new
            waiting.extend(new)
        return found

    def beginning(self, index: int, kind: str) -> _Origin:
        """The origin of an equation's own mark: of a NaN, an infinity that an earlier equation made."""
        own = _Origin("op", kind, index)
        if kind == INF:
            return own
        infinite = [(x, INF) for x in self.jaxpr.eqns[index].invars if self.has(x, INF)]
        earlier = self.first(infinite)
        if earlier is None or earlier.cause != "op":
            return own
        return replace(earlier, became=index)


# --- into calls

UNITS = os.path.join("funcgrad", "calls", "while_loop.py")
"""Where loops over the units of a ``while`` and over their steps are written."""


def _descend(
    eqn: Equation, operands: Sequence[Value], kind: str, at_fault: Sequence[int]
) -> tuple[Fault, LoopStep | None] | None:
    """The fault in the function that an equation calls; None if it calls none, or none is found."""
    if eqn.primitive in (jax.lax.scan_p, jax.lax.while_p):
        loop = (_scan if eqn.primitive is jax.lax.scan_p else _while)(eqn.params, operands)
        return loop.locate(kind, at_fault)
    called = _called(eqn, operands)
    if called is None:
        return None
    try:
        fault = locate(*called, (kind,), at_fault)
    except Exception:  # a function that cannot be run on its own, as on a part of a mesh
        return None
    return None if fault is None or fault.eqn is None else (fault, None)


def _called(eqn: Equation, operands: Sequence[Value]) -> tuple[Jaxpr, Sequence[Value]] | None:
    """The function that an equation calls on its operands, with its arguments."""
    if eqn.primitive is jax.lax.cond_p:
        index, *given = operands
        branches = eqn.params["branches"]
        return _with_consts(branches[int(np.clip(index, 0, len(branches) - 1))], given)
    types = [_shape_and_dtype(typeof(x)) for x in operands]
    for closed in [close(inner) for inner in carried_functions(eqn.params)]:
        given = [_shape_and_dtype(type_of(v)) for v in closed.jaxpr.invars]
        same_results = len(closed.jaxpr.outvars) == len(eqn.outvars)
        if given == types and same_results:
            return _with_consts(closed, operands)
    return None


def _shape_and_dtype(aval: Any) -> tuple[Any, Any]:
    return getattr(aval, "shape", None), getattr(aval, "dtype", None)


def _with_consts(closed: ClosedJaxpr, args: Sequence[Value]) -> tuple[Jaxpr, list[Value]]:
    return convert_consts(closed), [*closed.consts, *args]


@dataclass(frozen=True)
class _Loop:
    """A scan or a while loop on values.

    Attributes:
      body: the function of a step.
      consts, carry, xs: its arguments: the same in each step, carried on, and a slice in each step.
      goes_on: from the carry and the number of steps done to whether there is another.
      advances: from the old and the new carry to the carry.
    """

    name: str
    body: ClosedJaxpr
    consts: Sequence[Value]
    carry: Sequence[Value]
    xs: Sequence[Value]
    length: int | None
    reverse: bool
    goes_on: Callable[[Value, Sequence[Value]], Value]
    advances: Callable[[Sequence[Value], Sequence[Value]], Sequence[Value]]

    def place(self, count: Any) -> Any:
        """Along the arrays, the place of the step that is done after `count` others."""
        return self.length - 1 - count if self.reverse and self.length is not None else count

    def args(self, count: Any, carry: Sequence[Value]) -> list[Value]:
        """The body's arguments in the step that is done after `count` others."""
        slices = [jax.lax.dynamic_index_in_dim(x, self.place(count), 0, False) for x in self.xs]
        return [*self.consts, *carry, *slices]

    def step(self, count: Value, carry: Sequence[Value]) -> tuple[list[Value], Sequence[Value]]:
        """One step: all results of the body, and the carry after it."""
        outs = eval_closed_jaxpr(self.body, self.args(count, carry))
        return outs, self.advances(carry, outs[: len(carry)])

    def locate(self, kind: str, at_fault: Sequence[int]) -> tuple[Fault, LoopStep] | None:
        """The fault in the first step that gives values of this kind where the loop does.

        A NaN may come of an infinity that an earlier step put into the carry, which then is at fault.
        """
        begins = {NAN: self.beginnings(NAN), INF: self.beginnings(INF)}
        steps = [int(begins[kind][i]) for i in at_fault if begins[kind][i] >= 0]
        if not steps:
            return None
        first = min(steps)
        fault = self.locate_in(first, kind, begins[kind] == first)
        earlier = [int(n) for n in begins[INF][: len(self.carry)] if 0 <= n < first]
        if kind == NAN and earlier:
            cause = self.locate_in(min(earlier), INF, begins[INF] == min(earlier))
            if cause is not None and cause[0].cause == "op":
                became = None if fault is None else fault[0].became or fault[0].eqn
                return replace(cause[0], became=became), cause[1]
        return fault

    def locate_in(
        self, count: int, kind: str, blamed: Sequence[bool]
    ) -> tuple[Fault, LoopStep] | None:
        """The fault in the step that is done after `count` others."""
        args = self.args(count, self.carry_after(count))
        positions = [i for i, there in enumerate(blamed) if there]
        fault = locate(*_with_consts(self.body, args), (kind,), positions)
        if fault is None or fault.eqn is None:
            return None
        if UNITS in function_of(self.body):
            return fault, LoopStep("while loop", None, None)
        return fault, LoopStep(self.name, int(self.place(count)), self.length)

    def beginnings(self, kind: str) -> np.ndarray:
        """For each result of the body, after how many steps it is first of this kind; -1 for never.

        A carried value counts where its kind was not there when the step began.
        """
        which = (NAN, INF).index(kind)
        num_outs, num_carry = len(self.body.jaxpr.outvars), len(self.carry)

        def run(state: Any) -> Any:
            count, carry, begins = state
            before = [marks_in(x)[which] for x in carry] + [False] * (num_outs - num_carry)
            outs, carry = self.step(count, carry)
            after = [marks_in(y)[which] for y in [*carry, *outs[num_carry:]]]
            new = jnp.array(after, bool) & ~jnp.array(before, bool) & (begins < 0)
            return count + 1, carry, jnp.where(new, count, begins)

        def going(state: Any) -> Value:
            count, carry, _ = state
            return self.goes_on(count, carry)

        def all_steps() -> Value:
            start = (jnp.int32(0), list(self.carry), jnp.full(num_outs, -1, jnp.int32))
            return jax.lax.while_loop(going, run, start)[2]

        return np.asarray(compiled_rounded(all_steps, ())())

    def carry_after(self, steps: int) -> Sequence[Value]:
        """What is carried after so many steps."""

        def step(_: Value, state: Any) -> Any:
            count, carry = state
            return count + 1, list(self.step(count, carry)[1])

        def run(steps: Value) -> Sequence[Value]:
            return jax.lax.fori_loop(0, steps, step, (jnp.int32(0), list(self.carry)))[1]

        return compiled_rounded(run, (jnp.int32(steps),))(jnp.int32(steps))


def _scan(params: dict[str, Any], operands: Sequence[Value]) -> _Loop:
    num_consts, num_carry, length, reverse, _ = scan_settings(params)
    consts, carry = operands[:num_consts], operands[num_consts : num_consts + num_carry]
    return _Loop(
        "scan",
        params["jaxpr"],
        consts,
        carry,
        operands[num_consts + num_carry :],
        length,
        reverse,
        lambda count, carry: count < length,
        lambda old, new: list(new),
    )


def _while(params: dict[str, Any], operands: Sequence[Value]) -> _Loop:
    num_tests, num_consts = params["cond_nconsts"], params["body_nconsts"]
    of_test, of_body = operands[:num_tests], operands[num_tests : num_tests + num_consts]

    def going(carry: Sequence[Value]) -> Value:
        return eval_closed_jaxpr(params["cond_jaxpr"], [*of_test, *carry])[0]

    def advances(old: Sequence[Value], new: Sequence[Value]) -> Sequence[Value]:
        """Under vmap the examples whose loops have ended stay as they are."""
        goes = going(old)
        if not jnp.ndim(goes):
            return list(new)
        fitted = [jnp.reshape(goes, goes.shape + (1,) * (jnp.ndim(x) - goes.ndim)) for x in old]
        return [jnp.where(go, y, x) for go, x, y in zip(fitted, old, new, strict=True)]

    return _Loop(
        "while loop",
        params["body_jaxpr"],
        of_body,
        operands[num_tests + num_consts :],
        (),
        None,
        False,
        lambda count, carry: jnp.any(going(carry)),
        advances,
    )
