"""The body of a loop, cut in two: what scan and while_loop have in common."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import jax

from funcgrad import _jax
from funcgrad.partition.cut import cut_of
from funcgrad.partition.plan import Cut, Plan
from funcgrad.partition.split import StagedPullback, split_of
from funcgrad.registry import Rules
from funcgrad.tape import FrozenTape


@dataclass(frozen=True)
class Division:
    """How a body's inputs divide: constants, carries, and what is scanned over."""

    num_consts: int
    num_carry: int
    in_order: ClassVar[bool] = False
    """Whether what is kept of the step before is at hand too."""

    def divide(self, operands: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
        """Constants, carries, and what is scanned over."""
        first_x = self.num_consts + self.num_carry
        return (
            list(operands[: self.num_consts]),
            list(operands[self.num_consts : first_x]),
            list(operands[first_x:]),
        )


def cut_body(
    closed: _jax.ClosedJaxpr, differentiated: tuple[bool, ...], rules: Rules, division: Division
) -> tuple[Cut, tuple[bool, ...]]:
    """Split a body for the carries that turn out to be differentiated, and plan what to keep.

    A carry is differentiated if its initial value is, or if the body makes it depend on something
    that is: a fixpoint.
    """
    first, end = division.num_consts, division.num_consts + division.num_carry
    wanted = list(differentiated)
    while True:
        split = split_of(closed, tuple(wanted), rules)
        carries = [a or b for a, b in zip(wanted[first:end], split.present, strict=False)]
        if carries == wanted[first:end]:
            break
        wanted[first:end] = carries
    jaxpr = split.forward.closed.jaxpr
    consts, carries, xs = division.divide(split.inputs)
    outs = jaxpr.outvars[: len(split.slots)]
    ys = _jax.variables(outs[division.num_carry :])
    carry_outs = outs[: division.num_carry]
    behind = [v for v, out in zip(carries, carry_outs, strict=True) if out in ys]
    ahead = [out for v, out in zip(carries, carry_outs, strict=True) if v in ys]
    favoured = _jax.variables(carry_outs) if division.in_order else []
    free = [*consts, *xs, *ys, *behind, *_jax.variables(ahead)]
    return cut_of(split, free, consts, favoured), tuple(wanted)


@dataclass(frozen=True)
class Shift:
    """How a kept carry is another variable of the step before it, or of the step after it.

    Attributes:
      source: that variable, whose values of all steps are there.
      carry: which carry it is: at one end there is no such step, but its value before or after the loop.
      ahead: it is of the step after.
    """

    source: Any
    carry: int
    ahead: bool


@dataclass(frozen=True, eq=False)
class LoopProgram(StagedPullback):
    """A loop's forward program, and its backward program as the node's pullback.

    Attributes:
      cut: the body, cut in two.
      wanted: which of the body's inputs are differentiated.
      differentiated: which of the loop's operands are.
    """

    cut: Cut
    wanted: tuple[bool, ...]
    differentiated: tuple[bool, ...]
    division: Division
    programs: dict[Any, Any] = field(default_factory=dict)

    @property
    def closes_over_tracer(self) -> bool:
        """Whether no cache may keep this."""
        return self.cut.split.closes_over_tracer

    @property
    def inner(self) -> dict[str, FrozenTape]:
        """The body's tape."""
        return {"body": self.cut.split.tape}

    @property
    def plan(self) -> Plan:
        """Which of the body's values are kept."""
        return self.cut.plan

    @cached_property
    def variables(self) -> tuple[list[Any], list[Any], list[Any], list[Any], list[Any]]:
        """The body's variables: constants, carries in, xs, carries out, ys."""
        split = self.cut.split
        jaxpr = split.forward.closed.jaxpr
        outs = jaxpr.outvars[: len(split.slots)]
        num_carry = self.division.num_carry
        return *self.division.divide(split.inputs), outs[:num_carry], outs[num_carry:]

    @property
    def carried(self) -> list[bool]:
        """Which carries are differentiated."""
        return self.division.divide(self.wanted)[1]

    @cached_property
    def kept_once(self) -> list[Any]:
        """Kept variables that are computed from the constants, before the loop."""
        consts, *_ = self.variables
        return [v for v in self.plan.kept if v in self.plan.once and v not in consts]

    @cached_property
    def stacked(self) -> list[Any]:
        """Kept variables that only stacking keeps."""
        consts, _, xs, _, ys = self.variables
        known = {*consts, *xs, *self.kept_once, *_jax.variables(ys), *self.shifted}
        return [v for v in self.plan.kept if v not in known]

    @cached_property
    def shifted(self) -> dict[Any, Shift]:
        """Kept carries that the steps before have as a `ys` or keep, or the steps after as a `ys`."""
        if not self.division.in_order:
            return {}
        consts, carries, xs, carry_outs, ys = self.variables
        of_steps = {*_jax.variables(ys)}
        kept = {*self.plan.kept} - {*consts, *xs, *self.kept_once, *of_steps}
        found: dict[Any, Shift] = {}
        for i, (v, out) in enumerate(zip(carries, carry_outs, strict=True)):
            if _is_one_of(out, kept) and v in of_steps:
                found[out] = Shift(v, i, ahead=True)
        there = of_steps | kept - {*carries, *found}
        for i, (v, out) in enumerate(zip(carries, carry_outs, strict=True)):
            if v in kept and _is_one_of(out, there):
                found[v] = Shift(out, i, ahead=False)
        return found

    def start_back(self, cts: Sequence[Any]) -> tuple[list[bool], list[Any]]:
        """Which constants get a cotangent in some step, and the carries' cotangents to start from.

        There is none where none flows, in any step: a fixpoint, from the loop's outputs' cotangents.
        """
        _, carry_avals, _ = self.division.divide(self.cut.split.input_avals)
        arrived = [ct is not None for ct in cts]
        while True:
            in_body = [a and b for a, b in zip(arrived, self.cut.split.present, strict=True)]
            found = iter(self.cut.present_inputs(in_body))
            inputs = [next(found) if wanted else False for wanted in self.wanted]
            consts, carries, _ = self.division.divide(inputs)
            more = [a or b for a, b in zip(arrived, carries, strict=False)]
            if more == arrived[: len(more)]:
                break
            arrived[: len(more)] = more
        ct_carry = [
            _jax.strong_zeros(aval) if flows and ct is None else ct
            for ct, aval, flows in zip(cts, carry_avals, arrived, strict=False)
        ]
        return consts, ct_carry

    def cts_in_step(self, ct_carry: Sequence[Any], ct_ys: Sequence[Any]) -> list[Any]:
        """The cotangents of the body's outputs, those that it does not take left out."""
        return [
            ct if slot is not None else None
            for ct, slot in zip([*ct_carry, *ct_ys], self.cut.split.slots, strict=True)
        ]

    def after_step(
        self, cts: tuple[list[Any], list[Any]], results: Sequence[Any]
    ) -> tuple[list[Any], list[Any], list[Any]]:
        """Cotangents of constants so far and of the carries before a step, and of xs.

        Takes the former two after the step, and what the step gives for the differentiated inputs.
        """
        ct_consts, ct_carry = cts
        new_consts, new_carry, ct_xs = self.of_inputs(results)
        _, carry_avals, _ = self.division.divide(self.cut.split.input_avals)
        ct_consts = [
            old if new is None else jax.lax.add(old, new)
            for old, new in zip(ct_consts, new_consts, strict=True)
        ]
        new_carry = [
            _jax.strong_zeros(aval) if new is None and old is not None else new
            for old, new, aval in zip(ct_carry, new_carry, carry_avals, strict=True)
        ]
        return ct_consts, new_carry, ct_xs

    def of_wanted(self, everything: Sequence[Any]) -> list[Any]:
        """Of something for each of the body's inputs, that for the differentiated ones."""
        return [x for x, wanted in zip(everything, self.wanted, strict=True) if wanted]

    def of_inputs(self, results: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
        """What there is for each differentiated input, divided; None for the others."""
        found = iter(results)
        return self.division.divide([next(found) if wanted else None for wanted in self.wanted])


def _is_one_of(v: Any, there: Collection[Any]) -> bool:
    return not _jax.is_literal(v) and v in there
