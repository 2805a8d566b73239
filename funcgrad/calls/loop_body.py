"""The body of a loop, cut in two: the common part of scan and while_loop.

A body is a function of the loop's constants, of the carries, and of one element of each `xs`. It
gives the next carries and one element of each `ys`. The cut says which of its variables the backward
loop needs. Where their values lie:

| a kept variable                                  | its values                                   |
|--------------------------------------------------|----------------------------------------------|
| is a constant, an element of an `xs` or a `ys`   | are at hand: the loop's operands and results |
| depends on constants alone                       | are computed before the loop: `Storage.once`    |
| is a carry that the neighbouring step stacks     | are read from that stack: `Storage.shifted`     |
| is any other                                     | are stacked: `Storage.stacked`                  |

An example, `h, y = tanh(h @ w + x), h**2`: the backward step needs w (a constant), the old h and the
new h. The new h is stacked. The old h is the new h of the step before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from funcgrad import _jax
from funcgrad._jax import Atom, Cotangent, Mask, Var, variables
from funcgrad.fusion import WRITTEN, Fusion
from funcgrad.masks import either, mask_of, only, spread
from funcgrad.partition.cut import Cut, cut_of
from funcgrad.partition.plan import Plan
from funcgrad.partition.split import Split, StagedPullback, split_of
from funcgrad.registry import Rules
from funcgrad.tape import FrozenTape


class Divided(NamedTuple):
    """Something for each of a body's inputs, or of a loop's operands, by their kind."""

    consts: list[Any]
    carries: list[Any]
    xs: list[Any]


@dataclass(frozen=True)
class Division:
    """How a body's inputs divide into constants, carries, and elements of `xs`.

    Attributes:
      in_order: whether a backward step can read its neighbours' values from the stacks.
    """

    num_consts: int
    num_carry: int
    in_order: ClassVar[bool] = False

    @property
    def steps(self) -> int | None:
        """How many steps are kept at a time, for the costs of keeping; None if nobody knows."""
        return None

    def divide(self, operands: Sequence[Any]) -> Divided:
        """Divide something that there is for each input."""
        first_x = self.num_consts + self.num_carry
        return Divided(
            list(operands[: self.num_consts]),
            list(operands[self.num_consts : first_x]),
            list(operands[first_x:]),
        )


class BodyVariables(NamedTuple):
    """The variables of a body's inputs and outputs, by their kind."""

    consts: list[Var]
    carries: list[Var]
    xs: list[Var]
    carries_out: list[Atom]
    ys: list[Atom]


def variables_of(split: Split, division: Division) -> BodyVariables:
    """The variables of a body that has been split."""
    outs = split.outputs
    num_carry = division.num_carry
    return BodyVariables(*division.divide(split.inputs), outs[:num_carry], outs[num_carry:])


def cut_body(
    closed: _jax.ClosedJaxpr, differentiated: Mask, rules: Rules, division: Division
) -> tuple[Cut, Mask]:
    """Split and cut a body; also return which of its inputs are differentiated.

    A carry is differentiated if its initial value is, or if the body makes the carry depend on
    something that is. We iterate until the set stops growing.
    """
    consts, carries, xs = division.divide(differentiated)
    while True:
        inputs = (*consts, *carries, *xs)
        split = split_of(closed, inputs, rules)
        more = either(carries, split.present[: division.num_carry])
        if more == tuple(carries):
            return cut_of_body(split, division), inputs
        carries = more


def cut_of_body(split: Split, division: Division) -> Cut:
    """The cut of a body: values at hand, in this step or in a neighbouring one, are kept for nothing."""
    body = variables_of(split, division)
    ys = variables(body.ys)
    pairs = list(zip(body.carries, body.carries_out, strict=True))
    behind = [v for v, out in pairs if out in ys]
    ahead = variables([out for v, out in pairs if v in ys])
    favoured = variables(body.carries_out) if division.in_order else []
    free = [*body.consts, *body.xs, *ys, *behind, *ahead]
    return cut_of(split, free, body.consts, favoured, division.steps)


class Shift(NamedTuple):
    """How a kept carry is read from the stack of a variable of the neighbouring step.

    Attributes:
      neighbour: the neighbouring step's variable that has the same value. There is a stack of it.
      carry: which carry it is. The first or the last step has no such neighbour: it reads this carry
        before or after the loop.
      ahead: whether the neighbour is the step after.
    """

    neighbour: Var
    carry: int
    ahead: bool


@dataclass(frozen=True, eq=False)
class Storage:
    """Where the values of a plan's kept variables lie; see the table at the top of this file.

    Attributes:
      once: kept variables that depend on constants alone. They are computed before the loop.
      shifted: kept carries that need no stack of their own: the neighbouring step already stacks the
        same value.
      stacked: kept variables that must be stacked: no constant, `xs`, `ys` or neighbouring step
        holds them.
      per_step: variables of which there is a stack: the stacked ones, the `xs` and the `ys`.
    """

    once: tuple[Var, ...]
    shifted: dict[Var, Shift]
    stacked: tuple[Var, ...]
    per_step: frozenset[Var]


def storage_of(cut: Cut, body: BodyVariables, in_order: bool) -> Storage:
    """Where the values of a cut's kept variables are to lie."""
    plan, ys = cut.plan, variables(body.ys)
    once = tuple(v for v in plan.kept if v in cut.fixed and v not in body.consts)
    at_hand = {*body.consts, *body.xs, *once, *ys}
    shifted = shifted_of({*plan.kept} - at_hand, body) if in_order else {}
    stacked = tuple(v for v in plan.kept if v not in at_hand and v not in shifted)
    per_step = frozenset({*body.xs, *stacked, *ys} - {*body.consts, *once})
    return Storage(once, shifted, stacked, per_step)


def shifted_of(kept: set[Var], body: BodyVariables) -> dict[Var, Shift]:
    """The kept carries that a neighbouring step has: first those of the step after, then before."""
    ys = {*variables(body.ys)}
    found: dict[Var, Shift] = {}
    pairs = list(enumerate(zip(body.carries, body.carries_out, strict=True)))
    for i, (v, out) in pairs:
        if not _jax.is_literal(out) and out in kept and v in ys:
            found[out] = Shift(v, i, ahead=True)
    there = ys | kept - {*body.carries, *found}
    for i, (v, out) in pairs:
        if v in kept and not _jax.is_literal(out) and out in there:
            found[v] = Shift(out, i, ahead=False)
    return found


@dataclass(frozen=True, eq=False)
class LoopProgram(StagedPullback):
    """A loop's forward program, and its backward program as the node's pullback.

    Attributes:
      cut: the body, cut in two.
      inside: which of the body's inputs are differentiated.
      differentiated: which of the loop's operands are: not a carry that only becomes differentiated.
      division: how both divide.
    """

    fusion: ClassVar[Fusion] = WRITTEN

    cut: Cut
    inside: Mask
    differentiated: Mask
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
        """The plan of which of the body's values are kept."""
        return self.cut.plan

    @cached_property
    def body(self) -> BodyVariables:
        """The body's variables."""
        return variables_of(self.cut.split, self.division)

    @cached_property
    def storage(self) -> Storage:
        """Where the values of the plan's kept variables lie."""
        return storage_of(self.cut, self.body, self.division.in_order)

    @property
    def carried(self) -> Mask:
        """Which carries are differentiated."""
        return tuple(self.division.divide(self.inside).carries)

    @property
    def present(self) -> Mask:
        """Which of the loop's outputs carry a gradient."""
        return *self.carried, *self.cut.split.present[self.division.num_carry :]

    @cached_property
    def ct_avals(self) -> Divided:
        """The types of cotangents of the body's inputs."""
        return self.division.divide([_jax.strong(aval) for aval in self.cut.split.input_avals])

    # --- one step back

    def reached(self, arrived: Mask) -> tuple[Mask, Mask]:
        """Which constants and carries get a cotangent in some step, if these outputs get one.

        A constant or carry gets a cotangent if any step sends it one. We iterate until the set stops
        growing.
        """
        carries, ys = arrived[: self.division.num_carry], arrived[self.division.num_carry :]
        while True:
            inputs = self.of_inputs(self.cut.present_inputs((*carries, *ys)))
            more = either(carries, map(bool, inputs.carries))
            if more == carries:
                return tuple(map(bool, inputs.consts)), carries
            carries = more

    def start_back(self, cts: Sequence[Cotangent]) -> tuple[Mask, list[Cotangent]]:
        """Which constants get a cotangent in some step, and the carries' cotangents to start from."""
        consts, carries = self.reached(mask_of(cts))
        given = cts[: self.division.num_carry]
        return consts, _jax.instantiated(given, only(self.ct_avals.carries, carries))

    def after_step(
        self, ct_consts: Sequence[Cotangent], ct_carry: Sequence[Cotangent], results: Sequence[Any]
    ) -> Divided:
        """The cotangents after a backward step.

        Args:
          ct_consts: the constants' cotangents, added up over the steps that are done.
          ct_carry: the cotangents of the carries that leave the step.
          results: the step's cotangents of the differentiated inputs.

        Returns:
          The constants' cotangents added up so far, those of the carries that enter the step, and
          those of the elements of `xs`.
        """
        new = self.of_inputs(results)
        ct_consts = [
            old if more is None else _jax.add_cotangents(old, more)
            for old, more in zip(ct_consts, new.consts, strict=True)
        ]
        avals = only(self.ct_avals.carries, mask_of(ct_carry))
        return Divided(ct_consts, _jax.instantiated(new.carries, avals), new.xs)

    def of_inputs(self, results: Sequence[Any]) -> Divided:
        """Something for each differentiated input, divided; None for the other inputs."""
        return self.division.divide(spread(results, self.inside))
