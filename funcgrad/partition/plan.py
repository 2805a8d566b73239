"""The forward and the backward program of a split jaxpr as one, and plans for it.

A joint program has the forward equations and those backward equations that need no cotangent
(`equations`), and then the backward equations that need one (`backward`). A plan keeps some variables
of `equations` (`kept`), and computes the others that `backward` reads from those (`replayed`).

    y = sin(x) * w          equations   s = sin(x); y = s * w; c = cos(x)
                            backward    ct_w = ct_y * s; t = ct_y * w; ct_x = t * c
                            targets     s, w, c

    keep w, s, c            replayed    nothing
    keep w, x               replayed    s = sin(x); c = cos(x)
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    Sequence,
)
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from jax import lax

from funcgrad import _jax
from funcgrad._jax import Atom, Equation, Mask, Value, Var, variables
from funcgrad.masks import spread
from funcgrad.partition.costs import size_in_bytes
from funcgrad.partition.split import Backward, Split

Delay = Callable[[list[Value], list[Value]], list[Value]]
"""Makes the first values available only when the second are."""


@dataclass(frozen=True, eq=False)
class Joint:
    """The forward and the backward program of a split jaxpr as one.

    Attributes:
      equations: of the forward program, and of that part of the backward program which depends on
        no cotangent.
      targets: the variables of these equations that the rest of the backward program reads.
      backward: the equations of the backward program that depend on cotangents.
      cts: the variables of the cotangents that arrive.
      results: the variables of the input cotangents that are not None.
      present: which differentiated inputs get a cotangent.
      constants: the values that the equations close over.
      again: the equations from which values are computed again, if other than `equations`: a policy
        parts an operation that carries a function in one that runs forward and one that runs again.
      unparted: the equations before a policy parted them; None if none did.
    """

    equations: tuple[Equation, ...]
    targets: tuple[Var, ...]
    backward: tuple[Equation, ...]
    cts: tuple[Var, ...]
    results: tuple[Atom, ...]
    present: Mask
    constants: dict[Var, Value]
    again: tuple[Equation, ...] | None = None
    unparted: tuple[Equation, ...] | None = None

    @property
    def repeatable(self) -> tuple[Equation, ...]:
        """The equations from which values are computed again."""
        return self.equations if self.again is None else self.again

    def keeping(self, kept: Sequence[Var]) -> Plan:
        """The plan that keeps these variables and computes the targets from them."""
        replayed = equations_between(self.equations, {*kept, *self.constants}, self.targets)
        read = {*self.targets, *(v for eqn in replayed for v in variables(eqn.invars))}
        kept = [v for v in kept if v not in self.constants and v in read]
        return Plan(self, tuple(kept), tuple(replayed))


@dataclass(frozen=True, eq=False)
class Plan:
    """The variables that a joint program keeps for its way back, and the equations that run again.

    Attributes:
      joint: both programs.
      kept: the variables whose values are kept.
      replayed: the equations that compute, from the kept values, the targets of the joint program.
    """

    joint: Joint
    kept: tuple[Var, ...]
    replayed: tuple[Equation, ...]

    def compute(
        self, known: Mapping[Var, Value], targets: Sequence[Atom], effects: bool = True
    ) -> list[Value]:
        """The values of targets in the forward program; run its effects, too."""
        equations = self.joint.equations
        known = {**self.joint.constants, **known}
        acting = [eqn for eqn in equations if effects and eqn.effects]
        read = variables([*targets, *(v for eqn in acting for v in eqn.invars)])
        needed = {*map(id, acting), *map(id, equations_between(equations, known, read))}
        eqns = [eqn for eqn in equations if id(eqn) in needed]
        return _jax.eval_equations(eqns, known, targets)

    def run_backward(
        self,
        kept: Sequence[Value],
        cts: Sequence[Value],
        delay: Delay | None = None,
        loose: Collection[Var] = (),
    ) -> list[Value]:
        """The results of the joint program, from the kept values and the cotangents that arrived.

        Each replayed equation runs as late as possible. `delay` may tie it to the cotangents that
        have arrived by then, but for its operands that are `loose`.
        """
        known = {**self.joint.constants, **dict(zip(self.kept, kept, strict=True))}
        arrived = dict(zip(self.joint.cts, cts, strict=True))
        everything = ChainMap(arrived, known)
        for again, eqn in self.in_order():
            given = [arrived[v] for v in variables(eqn.invars) if v in arrived] if eqn else []
            start: MutableMapping[Var, Value] = known
            if again and delay is not None and given:
                tied = [v for v in starts_of(again) if v not in loose]
                values = delay([known[v] for v in tied], given)
                start = ChainMap(dict(zip(tied, values, strict=True)), known)
            known |= _jax.values_of(again, start)
            if eqn:
                arrived |= _jax.values_of([eqn], everything)
        return _jax.eval_equations((), {**known, **arrived}, self.joint.results)

    def by_input(self, results: Sequence[Any]) -> list[Any]:
        """The results by differentiated input, None where there is none."""
        return spread(results, self.joint.present)

    def in_order(self) -> Iterator[tuple[list[Equation], Equation | None]]:
        """The backward program's equations, each with those that are replayed just before it."""
        producer = {v: eqn for eqn in self.replayed for v in eqn.outvars}
        done: set[int] = set()
        for eqn in self.joint.backward:
            *again, eqn = _with_producers([eqn], producer, done)
            yield again, eqn
        acting = [eqn for eqn in self.replayed if eqn.effects]
        last = [producer[v] for v in variables(self.joint.results) if v in producer]
        last += reversed(acting)  # the last is run first
        yield list(_with_producers(last, producer, done)), None


def starts_of(eqns: Sequence[Equation]) -> list[Var]:
    """A set of inputs such that every one of these equations depends on at least one of them.

    XLA does not fuse matrix products and convolutions with their operands: their inputs are left out
    where others do.
    """
    produced = {v for eqn in eqns for v in eqn.outvars}
    reached: set[Var] = set()
    starts: list[Var] = []
    for eqn in eqns:
        inputs = variables(eqn.invars)
        outside = [v for v in inputs if v not in produced]
        if eqn.primitive in (lax.dot_general_p, lax.conv_general_dilated_p):
            outside.sort(key=lambda v: size_in_bytes(v.aval))
            outside = [] if any(v in reached for v in inputs) else outside[:1]
        starts += [v for v in dict.fromkeys(outside) if v not in reached]
        reached.update(outside)
        if any(v in reached for v in inputs):
            reached.update(eqn.outvars)
    return starts


def _with_producers(
    eqns: Iterable[Equation], producer: Mapping[Var, Equation], done: set[int]
) -> Iterator[Equation]:
    """Equations, each after those that it needs, without those that are done."""
    stack = list(eqns)
    while stack:
        now = stack[-1]
        waiting = [
            producer[v]
            for v in variables(now.invars)
            if v in producer and id(producer[v]) not in done
        ]
        if waiting:
            stack += waiting
            continue
        stack.pop()
        if id(now) not in done:
            done.add(id(now))
            yield now


def joint_of(split: Split) -> Joint:
    """The joint program of a split jaxpr for the pattern in which every cotangent arrives."""
    equations = tuple(split.forward.closed.jaxpr.eqns)
    constants = split.forward.constants
    if not any(split.present):
        return Joint(equations, (), (), (), (), (False,) * split.num_inputs, constants)
    program = split.backward(split.present)
    parts = separate(program, residual_names(split, program), {})
    return join(program, equations, parts, {**constants, **program.call.constants})


def joint_of_pattern(split: Split, program: Backward, first: Joint) -> Joint:
    """The joint program for another pattern of cotangents, in the variables of the first one.

    A plan for the first program fixes which variables are kept. Where both programs compute the same
    value before any cotangent arrives, this one reads the first one's variable, so that the plan holds.
    """
    variable_of = {id(value): v for v, value in first.constants.items()}
    closed = program.call.constants
    names = residual_names(split, program)
    names |= {v: variable_of[id(x)] for v, x in closed.items() if id(x) in variable_of}
    written = first.equations if first.unparted is None else first.unparted
    shared = {meaning(eqn): eqn for eqn in written if not eqn.effects}
    parts = separate(program, names, shared)
    constants = {**split.forward.constants, **closed, **first.constants}
    joint = join(program, first.equations, parts, constants)
    if first.again is None:
        return joint
    return replace(joint, again=(*first.again, *parts.before))


def residual_names(split: Split, program: Backward) -> dict[Var, Atom]:
    """A backward program's variables for its residuals, as the forward program names them."""
    by_leaf = dict(zip(split.leaves, split.residual_variables, strict=True))
    residuals = [by_leaf[leaf] for leaf in program.leaves]
    return dict(zip(program.residual_variables, residuals, strict=True))


class Parts(NamedTuple):
    """A backward program's equations before and after the first cotangent, and its results."""

    before: list[Equation]
    after: list[Equation]
    results: list[Atom]


def separate(program: Backward, names: Mapping[Var, Atom], shared: Mapping[Any, Equation]) -> Parts:
    """Part the equations that depend on no cotangent from the others; rename variables.

    An equation that depends on no cotangent is left out if one of the same meaning is in `shared`, or
    came before: the meanings of those that are left are distinct, so that another program finds each.
    """
    jaxpr = program.call.closed.jaxpr
    names = dict(names)
    known = dict(shared)
    before, after = [], []
    dependent = set(program.ct_variables)
    for eqn in jaxpr.eqns:
        eqn = eqn.replace(invars=_jax.renamed(eqn.invars, names))
        if any(v in dependent for v in variables(eqn.invars)) or eqn.effects:
            dependent.update(eqn.outvars)
            after.append(eqn)
            continue
        first = known.setdefault(meaning(eqn), eqn)
        if first is eqn:
            before.append(eqn)
        else:
            names |= dict(zip(eqn.outvars, first.outvars, strict=True))
    return Parts(before, after, _jax.renamed(jaxpr.outvars, names))


def join(
    program: Backward,
    equations: Sequence[Equation],
    parts: Parts,
    constants: dict[Var, Value],
) -> Joint:
    """The joint program of forward equations and the parts of a backward program."""
    cts = program.ct_variables
    dependent = {*cts, *(v for eqn in parts.after for v in eqn.outvars)}
    read = [v for eqn in parts.after for v in variables(eqn.invars)] + variables(parts.results)
    targets = dict.fromkeys(v for v in read if v not in dependent and v not in constants)
    return Joint(
        (*equations, *parts.before),
        tuple(targets),
        tuple(parts.after),
        tuple(cts),
        tuple(parts.results),
        program.present,
        constants,
    )


def meaning(eqn: Equation) -> Any:
    """A key that equal equations share: primitive, operands and params."""
    operands = [
        (str(v.aval), np.asarray(v.val).tobytes()) if _jax.is_literal(v) else id(v)
        for v in eqn.invars
    ]
    params = [(name, _hashable(value)) for name, value in sorted(eqn.params.items())]
    return eqn.primitive, tuple(operands), tuple(params)


def _hashable(value: Any) -> Any:
    try:
        hash(value)
    except TypeError:
        return id(value)
    return value


def equations_between(
    eqns: Sequence[Equation], known: Collection[Var], targets: Iterable[Var]
) -> list[Equation]:
    """The equations that compute `targets` from known variables, in order."""
    producer = {v: eqn for eqn in eqns for v in eqn.outvars}
    needed: set[int] = set()
    waiting = [v for v in targets if v not in known]
    while waiting:
        eqn = producer[waiting.pop()]
        if id(eqn) not in needed:
            needed.add(id(eqn))
            waiting += [v for v in variables(eqn.invars) if v not in known]
    return [eqn for eqn in eqns if id(eqn) in needed]


def depending_only_on(eqns: Sequence[Equation], start: Collection[Var]) -> set[Var]:
    """All variables that can be computed from these alone, these included."""
    found = set(start)
    for eqn in eqns:
        if not eqn.effects and all(v in found for v in variables(eqn.invars)):
            found.update(eqn.outvars)
    return found
