"""Checkpointing within a budget of memory: which residuals to keep for the least computing again.

A minimum cut may compute any operation again at a price in bytes. A few prices give a few plans, from
one that keeps everything to one that keeps the inputs only. Each plan has an estimate: the memory that
its backward program takes at most, and the operations that it repeats. Of the plans within the budget
the search takes the one that repeats least. Then it adds variables that the next larger plans keep, as
long as there is room.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jax import lax

from funcgrad import _jax, errors
from funcgrad._jax import Equation, Jaxpr, Var, inner_jaxprs, variables
from funcgrad.partition.costs import Prices, operations, size_in_bytes
from funcgrad.partition.cut import minimum_cut
from funcgrad.partition.plan import Joint, Plan

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
BYTES_PER_OPERATION = (*np.geomspace(10.0, 1e-4, 11), 0.0)
"""The prices of one operation that are tried: from 10 bytes (computing again is dear) to nothing."""

STEPS_BETWEEN = 8
"""Into how many steps the way from one price to the next is divided."""

LEVELS = (len(BYTES_PER_OPERATION) - 1) * STEPS_BETWEEN + 1
"""How many plans :meth:`Search.between` knows."""


def parse_budget(budget: Any) -> int | float:
    """Bytes as an int, or a fraction as a float."""
    number = isinstance(budget, (int, float)) and not isinstance(budget, bool)
    if number and (budget >= 0 and (isinstance(budget, int) or budget <= 1)):
        return budget
    if isinstance(budget, str) and (found := parse_bytes(budget)) is not None:
        return found
    raise errors.InputError(
        f"funcgrad.checkpoint was given budget={budget!r}. Pass bytes as an integer, a string such as "
        "'200MB' or '1.5GiB', or a float from 0.0 to 1.0: a fraction of what keeping everything takes."
    )


def parse_bytes(text: str) -> int | None:
    """The bytes that a string such as ``"200MB"`` means; None if it means none."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([A-Za-z]+)\s*", text)
    if match is None or match[2].upper() not in UNITS:
        return None
    return int(float(match[1]) * UNITS[match[2].upper()])


@dataclass(frozen=True)
class Estimate:
    """The memory and the operations that a plan takes.

    Attributes:
      kept: bytes of the residuals that are neither inputs nor constants.
      peak: bytes that are alive at most during the backward program, residuals included, inputs and
        results left out.
      repeated: operations that are computed again, about.
    """

    kept: int
    peak: int
    repeated: float


class Search:
    """The plans of one joint program.

    Attributes:
      joint: the joint program.
      free: variables that are kept for nothing.
      lasting: operations that are not computed again: what they give out is kept.
      more: operations that are computed again inside of operations, whatever the plan.
    """

    def __init__(
        self,
        joint: Joint,
        inputs: Sequence[Var],
        outputs: Sequence[Var] = (),
        lasting: Sequence[Equation] = (),
        more: float = 0.0,
    ):
        self.joint = joint
        self.free = dict.fromkeys([*inputs, *outputs, *joint.constants], 0)
        self.lasting = {id(eqn) for eqn in lasting}
        self.more = more
        self.start = [*inputs, *outputs, *(v for eqn in lasting for v in eqn.outvars)]

    def everything(self) -> Plan:
        """The plan that computes nothing again."""
        return self.keeping(self.joint.targets)

    def keeping(self, kept: Iterable[Var]) -> Plan:
        """The plan that keeps these variables, and those that every plan may read."""
        return self.joint.keeping([*dict.fromkeys([*self.start, *kept])])

    def cheap(self) -> Plan:
        """The plan that computes cheap operations again, and no other."""
        return self.joint.keeping(minimum_cut(self.joint.equations, self.joint.targets, self.free))

    def at(self, price: float) -> Plan:
        """The plan for which computing one operation again costs so many bytes."""
        eqns = [eqn for eqn in self.joint.equations if id(eqn) not in self.lasting]
        kept = minimum_cut(eqns, self.joint.targets, self.free, Prices.at(price))
        return self.joint.keeping(kept)

    def estimate(self, plan: Plan) -> Estimate:
        """The memory and the operations that a plan takes."""
        kept = sum(size_in_bytes(v.aval) for v in plan.kept if v not in self.free)
        return Estimate(kept, peak_of(plan, self.free), self.more + operations(plan.replayed))

    @cached_property
    def plans(self) -> list[tuple[Estimate, Plan]]:
        """The plans that are looked at, with their estimates."""
        plans = [self.everything(), *map(self.at, BYTES_PER_OPERATION)]
        plans += [self.thinned(plan, step) for plan in plans[1:] for step in (2, 3, 4)]
        return [(self.estimate(plan), plan) for plan in plans]

    def smallest(self) -> int:
        """The smallest budget within which there is a plan."""
        return min(estimate.peak for estimate, _ in self.plans)

    def fitting(self, limit: int) -> Plan | None:
        """The plan that repeats least of those whose estimated peak is within so many bytes.

        None if there is no such plan.
        """
        everything = self.everything()
        if self.estimate(everything).peak <= limit:
            return everything
        fitting = [pair for pair in self.plans if pair[0].peak <= limit]
        if not fitting:
            return None
        best, plan = min(fitting, key=lambda pair: pair[0].repeated)
        larger = [pair for pair in self.plans if pair[0].repeated < best.repeated]
        for _, more in sorted(larger, key=lambda pair: pair[0].peak):
            plan = self.filled(plan, more, limit)
        return plan

    def thinned(self, plan: Plan, step: int) -> Plan:
        """The plan that keeps, besides inputs, one in `step` of the variables that this one keeps."""
        computed_at = {v: i for i, eqn in enumerate(self.joint.equations) for v in eqn.outvars}
        kept = sorted((v for v in plan.kept if v in computed_at), key=lambda v: computed_at[v])
        return self.keeping(kept[step - 1 :: step])

    def filled(self, plan: Plan, more: Plan, limit: int) -> Plan:
        """The plan with as many of the variables that `more` keeps as there is room for.

        Bisection finds how many of them fit.
        """
        ranked = self.ranked(plan, more)

        def keeping(count: int) -> Plan:
            return self.keeping([*plan.kept, *ranked[:count]])

        low, high = 0, len(ranked)
        while low < high:
            middle = (low + high + 1) // 2
            if self.estimate(keeping(middle)).peak <= limit:
                low = middle
            else:
                high = middle - 1
        return keeping(low)

    def between(self, level: int) -> Plan:
        """One of `LEVELS` plans, each of which keeps less and repeats more than the one before.

        The plans for two neighbouring prices are joined by plans that keep, besides what the cheaper
        one keeps, a share of what the dearer one keeps more.
        """
        index, part = divmod(level, STEPS_BETWEEN)
        plan = self.at(BYTES_PER_OPERATION[index])
        if not part:
            return plan
        less = self.at(BYTES_PER_OPERATION[index + 1])
        sizes = {v: size_in_bytes(v.aval) for v in self.ranked(less, plan)}
        room = (1 - part / STEPS_BETWEEN) * sum(sizes.values())
        more: list[Var] = []
        for v, size in sizes.items():
            if size <= room:
                more.append(v)
                room -= size
        return self.keeping([*less.kept, *more])

    def ranked(self, plan: Plan, more: Plan) -> list[Var]:
        """The variables that `more` keeps besides: first those that save most operations a byte."""
        replayed = {v: eqn for eqn in plan.replayed for v in eqn.outvars}
        worth = {v: operations([replayed[v]]) for v in more.kept if v in replayed}
        return sorted(worth, key=lambda v: -worth[v] / size_in_bytes(v.aval))


def too_little(limit: int, smallest: int, most: int) -> errors.BudgetError:
    """The error that says that a budget is too small."""
    return errors.BudgetError(
        f"funcgrad.checkpoint was to keep the backward pass within {limit:,} bytes. The "
        f"smallest possible budget for this function is {smallest:,} bytes (keeping everything "
        f"takes {most:,}). Raise the budget, or checkpoint smaller parts of the function one by one."
    )


def peak_of(plan: Plan, free: Collection[Var]) -> int:
    """The most bytes alive while the backward program runs, in its order, inputs and results aside."""
    eqns = [e for again, eqn in plan.in_order() for e in (*again, eqn) if e is not None]
    ignored = {*free, *variables(plan.joint.results)}
    alive = sum(_sizes({*plan.kept, *plan.joint.cts} - ignored))
    return _most_alive(eqns, ignored, alive, _peak_of_a_step)


def peak_of_jaxpr(jaxpr: Jaxpr, results: bool = True) -> int:
    """The most bytes alive while a program runs, in its order, its inputs aside.

    What an operation's own programs take is counted, such as a step of a loop; what XLA saves when it
    makes one loop of several operations is not.
    """
    ignored = {*jaxpr.invars, *jaxpr.constvars, *(() if results else variables(jaxpr.outvars))}
    return _most_alive(jaxpr.eqns, ignored, 0, _peak_inside)


def _peak_of_a_step(eqn: Equation) -> int:
    """What an operation that runs a loop takes inside; of any other, XLA fuses most."""
    return _peak_inside(eqn) if _jax.runs_loop(eqn) else 0


def _peak_inside(eqn: Equation) -> int:
    inner = inner_jaxprs(eqn.params)
    if eqn.primitive is lax.scan_p:
        return _elements_of_a_step(eqn) + peak_of_jaxpr(inner[0], results=False)
    return max((peak_of_jaxpr(jaxpr, results=False) for jaxpr in inner), default=0)


def _elements_of_a_step(scan: Equation) -> int:
    """The bytes of the elements of `xs` that a step is given: a product reads a copy of them."""
    num_consts, num_carry, *_ = _jax.scan_settings(scan.params)
    (body,) = inner_jaxprs(scan.params)
    return sum(_sizes(body.invars[num_consts + num_carry :]))


def _most_alive(
    eqns: Sequence[Equation],
    ignored: Collection[Var],
    alive: int,
    inside: Callable[[Equation], int] = lambda eqn: 0,
) -> int:
    """The most bytes alive during these equations; `alive` is what is alive before the first."""
    ending = _last_uses(eqns, ignored)
    peak = alive
    for i, eqn in enumerate(eqns):
        alive += sum(_sizes(v for v in eqn.outvars if v not in ignored))
        peak = max(peak, alive + inside(eqn))
        alive -= sum(_sizes(ending.get(i, ())))
    return peak


def _sizes(vs: Iterable[Var]) -> Iterator[int]:
    return (size_in_bytes(v.aval) for v in vs)


def _last_uses(eqns: Sequence[Equation], ignored: Collection[Var]) -> dict[int, list[Var]]:
    """By equation, the variables that no later equation uses."""
    last: dict[Var, int] = {}
    for i, eqn in enumerate(eqns):
        last.update(dict.fromkeys((*variables(eqn.invars), *eqn.outvars), i))
    ending: dict[int, list[Var]] = {}
    for v, i in last.items():
        if v not in ignored:
            ending.setdefault(i, []).append(v)
    return ending
