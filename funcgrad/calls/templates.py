"""Jitted functions that JAX inlines: what running one records is known from its jaxpr.

``jax.numpy`` makes such a call of nearly every operation. A *template* has the nodes of the call, and
it says of each residual where its value will be. Where a program is traced, the jaxpr's equations are
copied into the trace, and the nodes are put on the tape: no operation is traced again. Where more must
be known than types (a reference, an effect, a call inside), there is none, and the operations are run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from funcgrad import _jax
from funcgrad._jax import Atom, Aval, Equation, Positions, Slot, Value, Var
from funcgrad.called import CalledJaxpr, rule_of
from funcgrad.keys import Op
from funcgrad.registry import Rule, Rules, ZeroRule
from funcgrad.rule_program import RuleProgram, program_of
from funcgrad.tape import Node, TapeTrace, TapeTracer


@dataclass(frozen=True)
class Place:
    """Where a value of a template is: among the call's operands or the copied jaxpr's results.

    Attributes:
      group: ``"operand"``, ``"result"``, or ``"number"`` for one that stands in the jaxpr.
      at: the position in the group, or the number.
    """

    group: str
    at: Any


@dataclass(frozen=True, eq=False)
class NodeTemplate:
    """A node whose slots count from those of the call's operands, and whose residuals are places."""

    op: Op
    params: dict[str, Any]
    operands: tuple[Slot, ...]
    outputs: tuple[Slot | None, ...]
    pullback: RuleProgram
    residuals: tuple[Place, ...]
    source: Any


@dataclass(frozen=True, eq=False)
class Template:
    """All that running an inlined function records.

    Attributes:
      jaxpr: the function's, which gives out each value that is an output or a residual, once.
      nodes: in the order in which their operations ran.
      avals: the types of the slots that are new.
      outputs: the place of each output.
      out_slots: the slot of each output; None where it is not differentiated.
    """

    jaxpr: _jax.Jaxpr
    nodes: tuple[NodeTemplate, ...]
    avals: tuple[Aval, ...]
    outputs: tuple[Place, ...]
    out_slots: tuple[Slot | None, ...]


def record_by_template(
    trace: TapeTrace, closed: _jax.ClosedJaxpr, tracers: Sequence[Value], primals: Sequence[Value]
) -> list[Value] | None:
    """Record the call of an inlined function by its template, and return its outputs.

    None where there is no template for it here: the function's operations must be run.
    """
    if type(trace) is not TapeTrace or trace.tape.observer is not None or trace.contents:
        return None
    differentiated = tuple(
        [isinstance(x, TapeTracer) and x._trace is trace for x in tracers]  # as TapeTrace.split
    )
    template = template_of(closed, differentiated, trace.rules)
    if template is None:
        return None
    results = _jax.copied_here(template.jaxpr, primals)
    if results is None:
        return None
    slots = [x.slot for x, there in zip(tracers, differentiated, strict=True) if there]
    slots += range(len(trace.tape.avals), len(trace.tape.avals) + len(template.avals))
    trace.tape.avals.extend(template.avals)
    here, mesh = _jax.current_source(), _jax.current_mesh()
    annotations = _jax.current_annotations()

    def value(place: Place) -> Value:
        if place.group == "operand":
            return primals[place.at]
        return results[place.at] if place.group == "result" else place.at

    for node in template.nodes:
        trace.tape.nodes.append(
            Node(
                node.op,
                node.params,
                tuple([slots[slot] for slot in node.operands]),
                tuple([None if slot is None else slots[slot] for slot in node.outputs]),
                node.pullback,
                tuple([value(place) for place in node.residuals]),
                _jax.source_within(here, node.source),
                mesh,
                annotations,
            )
        )
    outs: list[Value] = []
    for place, slot in zip(template.outputs, template.out_slots, strict=True):
        if place.group == "operand":
            outs.append(tracers[place.at])
        elif slot is None:
            outs.append(value(place))
        else:
            aval = trace.tape.avals[slots[slot]]
            out = TapeTracer(trace, aval, value(place), slots[slot])
            out._line_info = here
            outs.append(out)
    return outs


@_jax.weak_cache
def template_of(
    closed: _jax.ClosedJaxpr, differentiated: tuple[bool, ...], rules: Rules
) -> Template | None:
    """The template of an inlined function, None if its operations must be run to be recorded."""
    jaxpr = closed.jaxpr
    if closed.consts or not (_jax.can_be_copied(jaxpr) and _has_plain_types(jaxpr)):
        return None
    if rule_of(CalledJaxpr(closed, own_lines=False), rules, len(jaxpr.invars))[1] is not None:
        return None
    making = _Making(jaxpr, differentiated, rules)
    for eqn in jaxpr.eqns:
        if not making.add(eqn):
            return None
    return making.template()


def _has_plain_types(jaxpr: _jax.Jaxpr) -> bool:
    variables = (*jaxpr.invars, *(v for eqn in jaxpr.eqns for v in eqn.outvars))
    return all(_jax.is_plain_array_type(v.aval) for v in variables)


class _Making:
    """A template that is being made, equation by equation."""

    def __init__(self, jaxpr: _jax.Jaxpr, differentiated: Sequence[bool], rules: Rules):
        self.jaxpr = jaxpr
        self.rules = rules
        self.operands = {v: i for i, v in enumerate(jaxpr.invars)}
        moved = [v for v, there in zip(jaxpr.invars, differentiated, strict=True) if there]
        self.slots: dict[Var, Slot] = {v: i for i, v in enumerate(moved)}
        self.avals: list[Aval] = []
        self.first_new = len(moved)
        self.nodes: list[NodeTemplate] = []
        self.results: dict[Var, int] = {}

    def add(self, eqn: Equation) -> bool:
        """Add what an operation records; whether that is known."""
        slots = [None if _jax.is_literal(v) else self.slots.get(v) for v in eqn.invars]
        wanted = tuple([i for i, slot in enumerate(slots) if slot is not None])
        if not wanted:
            return True
        entry = self.rules.find(eqn.primitive)
        if isinstance(entry, ZeroRule):
            return True
        if not isinstance(entry, Rule) or entry.forward is not None:
            return False
        present = [_jax.is_inexact(v.aval) for v in eqn.outvars]
        if not any(present):
            return True
        program = self.program(entry, eqn, wanted)
        atoms = (*eqn.invars, *eqn.outvars)
        read: list[Any] = [atoms[i] for i in program.reads]
        if program.closes_over_tracer or any(map(_jax.is_dropped, read)):
            return False
        pairs = zip(eqn.outvars, present, strict=True)
        outputs = tuple([self.new_slot(v) if there else None for v, there in pairs])
        self.nodes.append(
            NodeTemplate(
                eqn.primitive,
                eqn.params,
                tuple([slot for slot in slots if slot is not None]),
                outputs,
                program,
                tuple(map(self.place, read)),
                eqn.source_info,
            )
        )
        return True

    def program(self, rule: Rule, eqn: Equation, wanted: Positions) -> RuleProgram:
        """The program of an operation's rule, for the types that it meets when it is run."""
        operands = [_jax.typeof(v.val) if _jax.is_literal(v) else v.aval for v in eqn.invars]
        outputs = [v.aval for v in eqn.outvars]
        multiple = eqn.primitive.multiple_results
        return program_of(rule, eqn.primitive, eqn.params, operands, outputs, wanted, multiple)

    def new_slot(self, v: Var) -> Slot:
        self.avals.append(v.aval)
        self.slots[v] = slot = self.first_new + len(self.avals) - 1
        return slot

    def place(self, v: Atom) -> Place:
        """Where a value is; it is given out if it is no operand."""
        if _jax.is_literal(v):
            return Place("number", v.val)
        if v in self.operands:
            return Place("operand", self.operands[v])
        return Place("result", self.results.setdefault(v, len(self.results)))

    def template(self) -> Template:
        outvars = self.jaxpr.outvars
        outputs = tuple(map(self.place, outvars))
        out_slots = tuple([None if _jax.is_literal(v) else self.slots.get(v) for v in outvars])
        jaxpr = self.jaxpr.replace(outvars=[*self.results])
        return Template(jaxpr, tuple(self.nodes), tuple(self.avals), outputs, out_slots)
