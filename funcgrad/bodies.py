"""The body of a loop, cut in two: what scan and while_loop have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax

from funcgrad import _jax
from funcgrad.mincut import Plan, plan_of
from funcgrad.partition import Split, StagedPullback, split_of
from funcgrad.registry import Rules


@dataclass(frozen=True)
class Division:
    """How a body's inputs divide: constants, carries, and what is scanned over."""

    num_consts: int
    num_carry: int

    def divide(self, operands: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
        """Constants, carries, and what is scanned over."""
        first_x = self.num_consts + self.num_carry
        return (
            list(operands[: self.num_consts]),
            list(operands[self.num_consts : first_x]),
            list(operands[first_x:]),
        )


def split_body(
    closed: _jax.ClosedJaxpr, differentiated: tuple[bool, ...], rules: Rules, division: Division
) -> tuple[Split, Plan, tuple[bool, ...]]:
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
    consts, carries, xs = division.divide(jaxpr.invars[len(split.forward.consts) :])
    outs = jaxpr.outvars[: len(split.slots)]
    ys = _jax.variables(outs[division.num_carry :])
    shifted = [v for v, out in zip(carries, outs, strict=False) if out in ys]
    free = [*consts, *xs, *ys, *shifted]
    return split, plan_of(split, free, consts), tuple(wanted)


@dataclass(frozen=True, eq=False)
class LoopProgram(StagedPullback):
    """A loop's forward program, and its backward program as the node's pullback.

    Attributes:
      split: the body, cut in two.
      plan: which of its values are kept.
      wanted: which of the body's inputs are differentiated.
      differentiated: which of the loop's operands are.
    """

    split: Split
    plan: Plan
    wanted: tuple[bool, ...]
    differentiated: tuple[bool, ...]
    division: Division
    programs: dict[Any, Any] = field(default_factory=dict)

    @property
    def closes_over_tracer(self) -> bool:
        """Whether no cache may keep this."""
        return self.split.closes_over_tracer

    @cached_property
    def variables(self) -> tuple[list[Any], list[Any], list[Any], list[Any], list[Any]]:
        """The body's variables: constants, carries in, xs, carries out, ys."""
        jaxpr = self.split.forward.closed.jaxpr
        inputs = jaxpr.invars[len(self.split.forward.consts) :]
        outs = jaxpr.outvars[: len(self.split.slots)]
        num_carry = self.division.num_carry
        return *self.division.divide(inputs), outs[:num_carry], outs[num_carry:]

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
    def shifted(self) -> dict[Any, Any]:
        """Kept carries that are a `ys` of the step before, and that `ys`."""
        _, carries, _, carry_outs, ys = self.variables
        there = _jax.variables(ys)
        pairs = zip(carries, carry_outs, strict=True)
        return {v: out for v, out in pairs if out in there and v in self.plan.kept}

    def zero_consts(self) -> list[Any]:
        """Where cotangents of constants add up; None for one that is not differentiated."""
        avals, *_ = self.division.divide(self.split.input_avals)
        wanted, *_ = self.division.divide(self.wanted)
        return [
            _jax.zeros(_jax.strong(aval)) if want else None
            for aval, want in zip(avals, wanted, strict=True)
        ]

    def fill_carry(self, ct_carry: Sequence[Any]) -> list[Any]:
        """Cotangents of the differentiated carries, zeros where none arrived."""
        _, avals, _ = self.division.divide(self.split.input_avals)
        return [
            zeros_if_none(ct, aval) if wanted else None
            for ct, aval, wanted in zip(ct_carry, avals, self.carried, strict=True)
        ]

    def step_back(
        self, kept: Sequence[Any], cts: tuple[list[Any], list[Any]], ct_ys: list[Any]
    ) -> tuple[list[Any], list[Any], list[Any]]:
        """One step of the backward loop, from the values that are kept of the step.

        Takes the cotangents of constants so far and of the carries after the step; returns the same
        before the step, and the cotangents of xs.
        """
        split = self.split
        ct_consts, ct_carry = cts
        ct_outs = [
            zeros_if_none(ct, split.tape.avals[slot])
            for ct, slot in zip([*ct_carry, *ct_ys], split.slots, strict=True)
            if slot is not None
        ]
        there = split.backwards[tuple(split.present)].present
        found = iter(self.plan.run_backward(kept, ct_outs))
        in_order = iter([next(found) if present else None for present in there])
        results = [next(in_order) if wanted else None for wanted in self.wanted]
        new_consts, new_carry, ct_xs = self.division.divide(results)
        ct_consts = [
            old if new is None else jax.lax.add(old, new)
            for old, new in zip(ct_consts, new_consts, strict=True)
        ]
        return ct_consts, self.fill_carry(new_carry), ct_xs


def zeros_if_none(ct: Any, aval: Any) -> Any:
    """A cotangent that did not arrive, made zeros of its type."""
    return _jax.zeros(_jax.strong(aval)) if ct is None else ct
