"""The forward and the backward program of a split jaxpr as one, and plans of what to keep of it."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jax import lax

from funcgrad import _jax
from funcgrad._jax import variables
from funcgrad.partition.costs import size_in_bytes
from funcgrad.partition.split import Backward, Split

Delay = Callable[[list[Any], list[Any]], list[Any]]
"""Makes the first values available only when the second are."""


@dataclass(frozen=True, eq=False)
class Joint:
    """The forward and the backward program of a split jaxpr as one.

    Attributes:
      equations: of the forward program and of that part of the backward program which depends on
        no cotangent.
      targets: what the rest of the backward program reads of their variables.
      backward: the equations of the backward program that depend on cotangents.
      cts: the cotangents' variables.
      results: variables of the input cotangents.
      constants: values that the equations close over.
    """

    equations: tuple[Any, ...]
    targets: tuple[Any, ...]
    backward: tuple[Any, ...]
    cts: tuple[Any, ...]
    results: tuple[Any, ...]
    constants: dict[Any, Any]

    def keeping(self, kept: Sequence[Any], once: Collection[Any] = ()) -> Plan:
        """The plan that keeps these variables and computes the targets from them."""
        replayed = equations_between(self.equations, {*kept, *self.constants}, self.targets)
        read = {*self.targets, *(v for eqn in replayed for v in variables(eqn.invars))}
        kept = [v for v in kept if v not in self.constants and v in read]
        return Plan(self, tuple(kept), frozenset(once), tuple(replayed))


@dataclass(frozen=True, eq=False)
class Plan:
    """What is kept of a forward program, and how the backward program goes on from there.

    Attributes:
      joint: both programs.
      kept: variables whose values are kept.
      once: variables that are the same in each step of a loop.
      replayed: equations that compute, from those, what the backward program reads.
    """

    joint: Joint
    kept: tuple[Any, ...]
    once: frozenset[Any]
    replayed: tuple[Any, ...]

    def run_forward(
        self, known: dict[Any, Any], wanted: Sequence[Any], effects: bool = True
    ) -> list[Any]:
        """The values of variables of the forward program, and its effects."""
        equations = self.joint.equations
        known = {**self.joint.constants, **known}
        acting = [eqn for eqn in equations if effects and eqn.effects]
        targets = variables([*wanted, *(v for eqn in acting for v in eqn.invars)])
        needed = {*map(id, acting), *map(id, equations_between(equations, known, targets))}
        eqns = [eqn for eqn in equations if id(eqn) in needed]
        return _jax.eval_equations(eqns, known, wanted)

    def run_backward(
        self, kept: Sequence[Any], cts: Sequence[Any], delay: Delay | None = None
    ) -> list[Any]:
        """The input cotangents, from the kept values and the output cotangents.

        What is computed again is computed as late as possible; `delay` may tie it to the cotangents
        that then have arrived.
        """
        known = {**self.joint.constants, **dict(zip(self.kept, kept, strict=True))}
        arrived = dict(zip(self.joint.cts, cts, strict=True))
        everything = ChainMap(arrived, known)
        for again, eqn in self.in_order():
            given = [arrived[v] for v in variables(eqn.invars) if v in arrived] if eqn else []
            if again and delay is not None and given:
                tied = starts_of(again)
                values = delay([known[v] for v in tied], given)
                delayed = dict(zip(tied, values, strict=True))
                known |= _jax.values_of(again, ChainMap(delayed, known))
            else:
                known |= _jax.values_of(again, known)
            if eqn:
                arrived |= _jax.values_of([eqn], everything)
        return _jax.eval_equations((), {**known, **arrived}, self.joint.results)

    def in_order(self) -> Iterator[tuple[list[Any], Any]]:
        """The backward program's equations, each with those that are replayed just before it."""
        producer = {v: eqn for eqn in self.replayed for v in eqn.outvars}
        done: set[int] = set()
        for eqn in self.joint.backward:
            *again, eqn = _with_producers([eqn], producer, done)
            yield again, eqn
        last = [producer[v] for v in variables(self.joint.results) if v in producer]
        yield list(_with_producers(last, producer, done)), None


def starts_of(eqns: Sequence[Any]) -> list[Any]:
    """Variables on which, together, all these equations depend.

    What matrix products and convolutions read is not fused with them, and is left out if it can be.
    """
    produced = {v for eqn in eqns for v in eqn.outvars}
    reached: set[Any] = set()
    starts: list[Any] = []
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


def _with_producers(eqns: Sequence[Any], producer: dict[Any, Any], done: set[int]) -> Iterator[Any]:
    """Equations after those that they need, as far as they are not done yet."""
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


def joint_of(split: Split, program: Backward | None, like: Joint | None = None) -> Joint:
    """The joint program of a split jaxpr with one of its backward programs.

    Where it computes, before any cotangent is there, what the joint program `like` computes, it uses
    that one's variables.
    """
    forward = split.forward.closed.jaxpr
    constants = dict(zip(forward.invars, split.forward.consts, strict=False))
    if program is None:
        return Joint(tuple(forward.eqns), (), (), (), (), constants)
    backward = program.call.closed.jaxpr
    num_closed, num_leaves = len(program.call.consts), len(program.leaves)
    leaves = dict(zip(split.leaves, split.residual_variables(), strict=True))
    names = dict(
        zip(backward.invars[num_closed:], (leaves[i] for i in program.leaves), strict=False)
    )
    constants |= dict(zip(backward.invars, program.call.consts, strict=False))
    shared: dict[Any, Any] = {}
    if like is not None:
        named = {id(value): v for v, value in like.constants.items()}
        pairs = zip(backward.invars, program.call.consts, strict=False)
        names |= {v: named[id(value)] for v, value in pairs if id(value) in named}
        constants |= like.constants
        shared = {meaning(eqn): eqn for eqn in like.equations if not eqn.effects}
    cts = backward.invars[num_closed + num_leaves :]
    before, after = [], []
    dependent = set(cts)
    for eqn in backward.eqns:
        eqn = eqn.replace(invars=_jax.renamed(eqn.invars, names))
        if any(v in dependent for v in variables(eqn.invars)) or eqn.effects:
            dependent.update(eqn.outvars)
            after.append(eqn)
        elif shared and meaning(eqn) in shared:
            names |= dict(zip(eqn.outvars, shared[meaning(eqn)].outvars, strict=True))
        else:
            before.append(eqn)
    results = _jax.renamed(backward.outvars, names)
    read = [v for eqn in after for v in variables(eqn.invars)] + variables(results)
    targets = dict.fromkeys(v for v in read if v not in dependent and v not in constants)
    eqns = (*(forward.eqns if like is None else like.equations), *before)
    return Joint(eqns, tuple(targets), tuple(after), tuple(cts), tuple(results), constants)


def whole_backward(split: Split) -> Backward | None:
    """The backward program for all cotangents; None if nothing is differentiated."""
    return split.backward(tuple(split.present)) if any(split.present) else None


def meaning(eqn: Any) -> Any:
    """What equal equations have in common: primitive, operands and params."""
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


@dataclass(frozen=True, eq=False)
class Cut:
    """A split jaxpr with a plan, and how it is pulled back for each pattern of cotangents.

    What is kept is chosen for the pattern in which every cotangent arrives. A cotangent that does
    not arrive is not made zeros: zero times infinity would be no zero.

    Attributes:
      split: by what the rules read.
      plan: what is kept, for the pattern in which every cotangent arrives.
      variants: plans that keep the same, for other patterns, with the inputs that get a cotangent.
    """

    split: Split
    plan: Plan
    variants: dict[tuple[bool, ...], Variant | None] = field(default_factory=dict)

    def variant(self, arrived: tuple[bool, ...]) -> Variant | None:
        """The plan for a pattern of cotangents; None if it needs what was not kept."""
        if arrived in self.variants:
            return self.variants[arrived]
        program = self.split.backward(arrived)
        if arrived == tuple(self.split.present):
            assert program is not None
            found = Variant(self.plan, program.present)
        else:
            found = None if program is None else self.specialised(program)
        if program is None or not program.call.closes_over_tracer:
            self.variants[arrived] = found
        return found

    def specialised(self, program: Backward) -> Variant | None:
        """The plan with this backward program in the place of the one for all cotangents."""
        joint = joint_of(self.split, program, self.plan.joint)
        known = {*self.plan.kept, *joint.constants}
        try:
            replayed = equations_between(joint.equations, known, joint.targets)
        except KeyError:
            return None
        plan = Plan(joint, self.plan.kept, self.plan.once, tuple(replayed))
        return Variant(plan, program.present)

    def present_inputs(self, arrived: Sequence[bool]) -> tuple[bool, ...]:
        """Which differentiated inputs get a cotangent, by the outputs whose cotangents arrive."""
        if not any(arrived):
            return (False,) * self.split.num_inputs
        found = self.variant(tuple(arrived)) or self.variant(tuple(self.split.present))
        assert found is not None
        return found.present

    def pull_back(
        self, kept: Sequence[Any], cts: Sequence[Any], delay: Delay | None = None
    ) -> list[Any]:
        """Cotangents of the differentiated inputs, None where there is none."""
        if all(ct is None for ct in cts):
            return [None] * self.split.num_inputs
        found, given = self.resolved(cts)
        return found.by_input(found.plan.run_backward(kept, given, delay))

    def resolved(self, cts: Sequence[Any]) -> tuple[Variant, list[Any]]:
        """The plan for these cotangents, None for those that did not arrive, and what it takes."""
        found = self.variant(tuple(ct is not None for ct in cts))
        if found is None:
            cts = self.split.instantiated(cts)
            found = self.variant(tuple(self.split.present))
            assert found is not None
        return found, [ct for ct in cts if ct is not None]


@dataclass(frozen=True, eq=False)
class Variant:
    """A plan for one pattern of cotangents, and which differentiated inputs get one."""

    plan: Plan
    present: tuple[bool, ...]

    def by_input(self, results: Sequence[Any]) -> list[Any]:
        """The results by differentiated input, None where there is none."""
        found = iter(results)
        return [next(found) if present else None for present in self.present]


def equations_between(
    eqns: Sequence[Any], known: Collection[Any], targets: Sequence[Any]
) -> list[Any]:
    """The equations that compute `targets` from what is known, in order."""
    producer = {v: eqn for eqn in eqns for v in eqn.outvars}
    needed: set[int] = set()
    waiting = [v for v in targets if v not in known]
    while waiting:
        eqn = producer[waiting.pop()]
        if id(eqn) not in needed:
            needed.add(id(eqn))
            waiting += [v for v in variables(eqn.invars) if v not in known]
    return [eqn for eqn in eqns if id(eqn) in needed]


def depending_only_on(eqns: Sequence[Any], start: Collection[Any]) -> set[Any]:
    """All variables that can be computed from these alone, these included."""
    found = set(start)
    for eqn in eqns:
        if not eqn.effects and all(v in found for v in variables(eqn.invars)):
            found.update(eqn.outvars)
    return found
