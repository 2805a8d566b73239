"""A traced program with its jitted calls opened, and who made each of its values."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
from jax import lax

from funcgrad import _jax
from funcgrad._jax import Atom, Equation, Value, Var, variables
from funcgrad.catching import CALL
from funcgrad.partition.costs import operations
from funcgrad.partition.plan import equations_between

JAX_FOLDER = os.path.dirname(jax.__file__) + os.sep


@dataclass(frozen=True)
class Spot:
    """Where an operation stands in the user's source.

    Attributes:
      where: ``file:line (function)`` of the user's frame, if there is one.
      scope: the name scopes around it, ``encoder/layer_0``.
    """

    where: str | None = None
    scope: str = ""

    def within(self, source: Any, function: str | None = None) -> Spot:
        """The place of an operation, by its source information, in a function that is called here.

        A function of JAX's is traced once and then taken from a cache, with the lines of its first
        caller. So the line in it is that of the call.
        """
        names = [scope.name for scope in _jax.scopes_of_source(source)]
        parts = [self.scope, *(name for name in names if not name.startswith(CALL))]
        own = function is None or is_of_user(function)
        where = _jax.where(source) if own else None
        return Spot(where or self.where, "/".join(filter(None, parts)))

    @property
    def line(self) -> str:
        """The file's name and the line: ``model.py:12``."""
        return "" if self.where is None else short_line(self.where)

    @property
    def function(self) -> str:
        """The name of the user's function that the operation stands in."""
        return (self.where or "").rpartition("(")[2].rstrip(")")


def short_line(where: str) -> str:
    """``model.py:12`` of ``/home/me/model.py:12:5 (f)``."""
    file, *numbers = where.partition(" ")[0].rsplit(os.sep, 1)[-1].split(":")
    return ":".join([file, *numbers[:1]])


def is_of_user(function: str) -> bool:
    """Whether a function, ``name at file:line``, is none of JAX's own."""
    _, known, place = function.partition(" at ")
    return bool(known) and not place.startswith(JAX_FOLDER)


@dataclass(frozen=True, eq=False)
class Step:
    """An equation of a flat program.

    Attributes:
      equation: with operands and results that are variables of the flat program.
      calls: the jitted calls around it that were opened, from the outside in.
    """

    equation: Equation
    calls: tuple[Equation, ...] = ()

    @cached_property
    def spot(self) -> Spot:
        """Where it stands."""
        spot, function = Spot(), None
        for eqn in (*self.calls, self.equation):
            spot = spot.within(eqn.source_info, function)
            function = _jax.called_function(eqn)
        return spot


@dataclass(frozen=True, eq=False)
class Flat:
    """A program with its jitted calls opened.

    Attributes:
      inputs: the variables of its arguments.
      constants: the values of the variables that it closes over.
      steps: its equations in order.
      results: its results.
    """

    inputs: Sequence[Var]
    constants: dict[Var, Value]
    steps: Sequence[Step]
    results: Sequence[Atom]

    @cached_property
    def producer(self) -> dict[Var, tuple[Step, int]]:
        """By variable, the step that makes it, and which of its results it is."""
        pairs = ((step, i, v) for step in self.steps for i, v in enumerate(step.equation.outvars))
        return {v: (step, i) for step, i, v in pairs}

    @property
    def equations(self) -> list[Equation]:
        """The equations."""
        return [step.equation for step in self.steps]


def flat_program(closed: Any, is_opened: Callable[[Equation], bool] = lambda _: True) -> Flat:
    """A closed jaxpr, with those jitted calls opened that `is_opened` says."""
    names: dict[Var, Atom] = {}
    jaxpr = closed.jaxpr
    steps = list(_opened(jaxpr.eqns, names, (), is_opened))
    constants = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    return Flat(list(jaxpr.invars), constants, steps, _jax.renamed(jaxpr.outvars, names))


def _opened(
    eqns: Sequence[Equation],
    names: dict[Var, Atom],
    calls: tuple[Equation, ...],
    is_opened: Callable[[Equation], bool],
) -> Iterator[Step]:
    for eqn in eqns:
        now = eqn.replace(invars=_jax.renamed(eqn.invars, names))
        if now.primitive is _jax.jit_p and is_opened(now):
            inner, results = _jax.equations_of_call(now)
            if inner != [now]:
                own: dict[Var, Atom] = {}
                yield from _opened(inner, own, (*calls, now), is_opened)
                names |= dict(zip(results, _jax.renamed(results.values(), own), strict=True))
                continue
        yield Step(now, calls)


# --- makers


@dataclass(frozen=True)
class Maker:
    """The operation that made a value.

    Attributes:
      op: its name.
      spot: where it stands.
      steps: the number of steps of the scan whose values are stacked in it; None if there is none.
    """

    op: str
    spot: Spot
    steps: int | None = None


MOVES = (
    lax.stop_gradient_p,
    _jax.checkpoint_name_p,
    lax.device_put_p,
    lax.optimization_barrier_p,
)
"""Operations whose results are the same values as their operands."""


def maker_of(v: Var, flat: Flat) -> Maker:
    """Who made a value of a flat program that is none of its inputs."""
    step, i = flat.producer[v]
    source: Any = step.equation.invars[i] if moves(step.equation) else None
    if source is not None and not _jax.is_literal(source) and source in flat.producer:
        return maker_of(source, flat)
    return _made_inside(step.equation, i, step.spot)


def moves(eqn: Equation) -> bool:
    """Whether an equation's results are the same values as its operands."""
    if eqn.primitive is lax.reduce_precision_p:  # in checkpoints, to the dtype that is there
        found = jax.numpy.finfo(_jax.type_of(eqn.outvars[0]).dtype)
        return eqn.params["mantissa_bits"] >= found.nmant
    return eqn.primitive in MOVES


def op_of(eqn: Equation) -> str:
    """The name of an equation's op, and whose rule the equation is of, if it is of one."""
    pulled_back = _jax.pulled_back_op(eqn.source_info)
    return f"{eqn.primitive} of {pulled_back}'s rule" if pulled_back else str(eqn.primitive)


def _made_inside(eqn: Equation, i: int, spot: Spot) -> Maker:
    """The operation that makes an equation's result number `i`, inside the function it carries."""
    steps = None
    if eqn.primitive is lax.scan_p:
        _, num_carry, length = scan_sizes(eqn)
        steps = length if i >= num_carry else None
    for jaxpr in _jax.inner_jaxprs(eqn.params):
        if len(jaxpr.outvars) != len(eqn.outvars):
            continue
        made = _producer_inside(jaxpr, i, eqn)
        if made is not None:
            inner, k = made
            spot_inside = spot.within(inner.source_info, _jax.called_function(eqn))
            found = _made_inside(inner, k, spot_inside)
            return Maker(found.op, found.spot, steps)
    return Maker(op_of(eqn), spot, steps)


def scan_sizes(eqn: Equation) -> tuple[int, int, int]:
    """The numbers of a scan's constants, carries and steps."""
    num_consts, num_carry, length, *_ = _jax.scan_settings(eqn.params)
    return num_consts, num_carry, length


def _producer_inside(jaxpr: Any, i: int, eqn: Equation) -> tuple[Equation, int] | None:
    """The equation of a carried function that makes its result number `i`; None for a filling."""
    producer = {out: (inner, k) for inner in jaxpr.eqns for k, out in enumerate(inner.outvars)}
    v: Any = _before_step(jaxpr, jaxpr.outvars[i], eqn)
    found: Any = None if _jax.is_literal(v) else producer.get(v)
    while found is not None and eqn.primitive is lax.while_p and (place := _written(found[0])):
        v = _before_step(jaxpr, found[0].invars[place], eqn)
        found = None if _jax.is_literal(v) else producer.get(v)
    if found is not None and found[0].primitive is lax.broadcast_in_dim_p:
        return None if all(map(_jax.is_literal, found[0].invars)) else found
    return found


def _before_step(jaxpr: Any, v: Atom, eqn: Equation) -> Atom:
    """The variable that made a loop's carry in the step before, if `v` is a carry that comes in."""
    if _jax.is_literal(v) or v not in jaxpr.invars:
        return v
    first, count = 0, 0
    if eqn.primitive is lax.scan_p:
        first, count, _ = scan_sizes(eqn)
    elif eqn.primitive is lax.while_p:
        first, count = eqn.params["body_nconsts"], len(jaxpr.outvars)
    carry = list(jaxpr.invars).index(v) - first
    return jaxpr.outvars[carry] if 0 <= carry < count else v


def _written(eqn: Equation) -> int | None:
    """Which operand of an equation is written to a place in another; None if it writes none."""
    writes = eqn.params.get("name") == "dynamic_update_index_in_dim"
    return 1 if writes or eqn.primitive is lax.dynamic_update_slice_p else None


# --- what it would cost to make a value again


class OperationsAgain:
    """From a kept value, about how many operations make it again from inputs and other kept values.

    Not a number if a loop of unknown length is among them.
    """

    def __init__(self, flat: Flat, kept: Sequence[Var]):
        self.flat = flat
        self.kept = kept
        self.known = {*flat.inputs, *flat.constants, *kept}

    def __call__(self, v: Var) -> float:
        needed: dict[int, Equation] = {}
        waiting = [v]
        while waiting:
            eqn = self.flat.producer[waiting.pop()][0].equation
            if id(eqn) not in needed:
                needed[id(eqn)] = eqn
                waiting += [u for u in variables(eqn.invars) if u not in self.known]
        if any(map(has_while, needed.values())):
            return math.nan
        last, i = self.flat.producer[v]
        if last.equation.primitive is not lax.scan_p:
            return operations(needed.values())
        others = [k for k in self.kept if k in last.equation.outvars and k is not v]
        inside = _operations_in_scan(last.equation, i, others)
        return operations(needed.values()) if inside is None else inside


def has_while(eqn: Equation) -> bool:
    """Whether there is a loop of unknown length in an equation, at any depth."""
    if eqn.primitive is lax.while_p:
        return True
    return any(has_while(e) for jaxpr in _jax.inner_jaxprs(eqn.params) for e in jaxpr.eqns)


def _operations_in_scan(eqn: Equation, i: int, others: Sequence[Var]) -> float | None:
    """The operations that make a stack again from the other stacks; None if the carry is needed."""
    jaxpr = eqn.params["jaxpr"].jaxpr
    num_consts, num_carry, length = scan_sizes(eqn)
    given = [*jaxpr.invars[:num_consts], *jaxpr.invars[num_consts + num_carry :]]
    places = [list(eqn.outvars).index(v) for v in others]
    known = {*given, *variables(jaxpr.outvars[k] for k in places if k >= num_carry)}
    v = jaxpr.outvars[i]
    if i < num_carry or _jax.is_literal(v):
        return None
    try:
        return operations(equations_between(jaxpr.eqns, known, [v])) * length
    except KeyError:
        return None
