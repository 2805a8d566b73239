"""Checkpointing within a budget of memory: which residuals to keep for the least computing again.

A minimum cut may compute anything again at a price of some bytes an operation. From keeping all to
keeping inputs only, a few prices give a few cuts, each with the memory that its backward program takes
at most and the operations that it repeats. Of those within the budget, the one that repeats least is
taken, and what the next larger one keeps is added as long as there is room.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from funcgrad import errors
from funcgrad._jax import variables
from funcgrad.partition.costs import CHEAP, operations, size_in_bytes
from funcgrad.partition.cut import minimum_cut
from funcgrad.partition.plan import Joint, Plan

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
PRICES = (*np.geomspace(10.0, 1e-4, 11), 0.0)
"""Bytes that one operation is worth: from 10 (to compute again is dear) to nothing."""


def parse_budget(budget: Any) -> int | float:
    """Bytes as an int, or a fraction as a float."""
    number = isinstance(budget, (int, float)) and not isinstance(budget, bool)
    if number and (budget >= 0 and (isinstance(budget, int) or budget <= 1)):
        return budget
    if isinstance(budget, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([A-Za-z]+)\s*", budget)
        if match and match[2].upper() in UNITS:
            return int(float(match[1]) * UNITS[match[2].upper()])
    raise errors.InputError(
        f"funcgrad.checkpoint was given budget={budget!r}. Pass bytes as an integer, a string such as "
        "'200MB' or '1.5GiB', or a float from 0.0 to 1.0: a fraction of what keeping everything takes."
    )


@dataclass(frozen=True)
class MinCut:
    """A policy of checkpoints: a minimum cut, within a budget if there is one.

    Called by ``jax.grad``, as policies are, it says to keep what is not cheap to compute again.
    """

    budget: int | float | None = None

    def __call__(self, primitive: Any, *avals: Any, **params: Any) -> bool:
        return primitive not in CHEAP

    def plan(self, joint: Joint, inputs: Sequence[Any]) -> Plan:
        """What to keep of a joint program, besides its inputs."""
        if self.budget is None:
            free = dict.fromkeys([*inputs, *joint.constants], 0)
            return joint.keeping(minimum_cut(joint.equations, joint.targets, free))
        return Search(joint, inputs).within(self.budget)


@dataclass(frozen=True)
class Estimate:
    """What a plan takes.

    Attributes:
      kept: bytes of the residuals that are neither inputs nor constants.
      peak: bytes that are alive at most during the backward program, residuals among them, inputs
        and results not.
      repeated: operations that are computed again, about.
    """

    kept: int
    peak: int
    repeated: float


class Search:
    """The plans of one joint program."""

    def __init__(self, joint: Joint, inputs: Sequence[Any]):
        self.joint = joint
        self.inputs = list(inputs)
        self.free = dict.fromkeys([*inputs, *joint.constants], 0)

    def everything(self) -> Plan:
        """The plan that computes nothing again."""
        return self.joint.keeping([*self.inputs, *self.joint.targets])

    def at(self, price: float) -> Plan:
        """The plan for which an operation is worth so many bytes."""

        def priced(eqn: Any) -> float | None:
            if eqn.effects:
                return None
            return price * operations([eqn]) / len(eqn.outvars)

        eqns, targets = self.joint.equations, self.joint.targets
        return self.joint.keeping(minimum_cut(eqns, targets, self.free, price=priced))

    def estimate(self, plan: Plan) -> Estimate:
        """What a plan takes."""
        kept = sum(size_in_bytes(v.aval) for v in plan.kept if v not in self.free)
        return Estimate(kept, peak_of(plan, self.free), operations(plan.replayed))

    def within(self, budget: int | float) -> Plan:
        """The plan that repeats least of those whose estimated peak is within the budget."""
        everything = self.everything()
        most = self.estimate(everything).peak
        limit = budget if isinstance(budget, int) else int(budget * most)
        if most <= limit:
            return everything
        plans = [everything, *map(self.at, PRICES)]
        plans += [self.thinned(plan, step) for plan in plans[1:] for step in (2, 3, 4)]
        pairs = [(self.estimate(plan), plan) for plan in plans]
        fitting = [pair for pair in pairs if pair[0].peak <= limit]
        if not fitting:
            smallest = min(estimate.peak for estimate, _ in pairs)
            raise errors.BudgetError(limit, smallest, most)
        best, plan = min(fitting, key=lambda pair: pair[0].repeated)
        larger = [pair for pair in pairs if pair[0].repeated < best.repeated]
        for _, more in sorted(larger, key=lambda pair: pair[0].peak):
            plan = self.filled(plan, more, limit)
        return plan

    def thinned(self, plan: Plan, step: int) -> Plan:
        """The plan that keeps, besides inputs, every so many of what this one keeps."""
        places = {v: i for i, eqn in enumerate(self.joint.equations) for v in eqn.outvars}
        kept = sorted((v for v in plan.kept if v in places), key=lambda v: places[v])
        return self.joint.keeping([*self.inputs, *kept[step - 1 :: step]])

    def filled(self, plan: Plan, more: Plan, limit: int) -> Plan:
        """The plan with as much kept of what `more` keeps as there is room for.

        What saves the most operations a byte comes first; how many of them, by bisection.
        """
        replayed = {v: eqn for eqn in plan.replayed for v in eqn.outvars}
        worth = {v: operations([replayed[v]]) for v in more.kept if v in replayed}
        ranked = sorted(worth, key=lambda v: -worth[v] / size_in_bytes(v.aval))

        def keeping(count: int) -> Plan:
            return self.joint.keeping([*self.inputs, *plan.kept, *ranked[:count]])

        low, high = 0, len(ranked)
        while low < high:
            middle = (low + high + 1) // 2
            if self.estimate(keeping(middle)).peak <= limit:
                low = middle
            else:
                high = middle - 1
        return keeping(low)


def peak_of(plan: Plan, free: Any) -> int:
    """Bytes alive at most while the backward program runs, in its order, inputs and results aside."""
    eqns = [e for again, eqn in plan.in_order() for e in (*again, eqn) if e is not None]
    last: dict[Any, int] = {}
    for i, eqn in enumerate(eqns):
        last.update(dict.fromkeys((*variables(eqn.invars), *eqn.outvars), i))
    ignored = {*free, *variables(plan.joint.results)}
    size = {v: size_in_bytes(v.aval) for v in (*last, *plan.kept, *plan.joint.cts)}
    alive = sum(size[v] for v in {*plan.kept, *plan.joint.cts} if v not in ignored)
    peak = alive
    ends: dict[int, list[Any]] = {}
    for v, i in last.items():
        if v not in ignored:
            ends.setdefault(i, []).append(v)
    for i, eqn in enumerate(eqns):
        alive += sum(size[v] for v in eqn.outvars if v not in ignored)
        peak = max(peak, alive)
        alive -= sum(size[v] for v in ends.get(i, ()))
    return peak
