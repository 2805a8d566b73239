"""Policies of checkpoints by minimum cuts, and budgets that reach into the bodies of scans.

What a scan keeps for its way back is its length times what a step keeps. Where the budget of a function
is less, each scan in it gets a body that is a checkpoint of its own. A body's plan is one of `LEVELS`,
from one that keeps nearly everything to one that keeps the carries alone, as ``jax.checkpoint`` of the
body does. All bodies have the same level: the same price for the bytes of all steps. Bisection finds the
first level that fits.

    within the budget          the function's plan         a body's plan
    all that the steps keep    computes other things       none: the scan's own minimum cut
                               again, or whole scans
    what a level keeps         computes other things       computes some of a step again
                               again, no scan

No operation of a body runs more than twice: a scan whose steps are computed again is never run again
itself. For scans inside of a body it is the same, one level further down: either the whole inner scan is
computed again in each step, or its steps are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from funcgrad import _jax
from funcgrad._jax import Aval, Jaxpr, Mask, Primitive, variables
from funcgrad.partition.budget import (
    BYTES_PER_OPERATION,
    LEVELS,
    STEPS_BETWEEN,
    Estimate,
    Search,
    too_little,
)
from funcgrad.partition.costs import CHEAP, operations
from funcgrad.partition.plan import Joint, Plan, joint_of
from funcgrad.partition.split import Split, split_of
from funcgrad.partition.work import length_of
from funcgrad.registry import Rules


@dataclass(frozen=True)
class Way:
    """A way to checkpoint a function.

    Attributes:
      split: the split of the function, or of one that computes the same.
      plan: what is kept.
      estimate: the memory and the operations that this takes.
      everything: the memory that keeping everything takes.
    """

    split: Split
    plan: Plan
    estimate: Estimate
    everything: Estimate


class CutPolicy:
    """A policy of checkpoints that chooses what to keep by minimum cuts.

    ``jax.grad`` calls it, as it calls policies. It then keeps every result that is not cheap to compute
    again.
    """

    def __call__(self, primitive: Primitive, *avals: Aval, **params: Any) -> bool:
        return primitive not in CHEAP

    def way(self, jaxpr: Jaxpr, split: Callable[[Jaxpr], Split]) -> Way:
        """The way to checkpoint a function.

        Args:
          jaxpr: the function.
          split: splits it, or another that computes the same.
        """
        raise NotImplementedError


def splitting(differentiated: Mask, rules: Rules) -> Callable[[Jaxpr], Split]:
    """The function that splits a jaxpr by these rules."""
    return lambda jaxpr: split_of(_jax.closed_once(jaxpr), differentiated, rules)


@dataclass(frozen=True)
class MinCut(CutPolicy):
    """A minimum cut, within a budget if there is one: bytes, or a fraction of keeping everything."""

    budget: int | float | None = None

    def way(self, jaxpr: Jaxpr, split: Callable[[Jaxpr], Split]) -> Way:
        whole = split(jaxpr)
        search = Search(joint_of(whole), whole.inputs)
        everything = search.estimate(search.everything())
        if self.budget is None:
            plan = search.cheap()
            return Way(whole, plan, search.estimate(plan), everything)
        limit = self.budget
        if not isinstance(limit, int):
            limit = int(limit * everything.peak)
        ways: list[Way] = []
        plan = search.fitting(limit)
        if plan is not None:
            ways.append(Way(whole, plan, search.estimate(plan), everything))
            if not ways[0].estimate.repeated:
                return ways[0]
        levels = Levels(jaxpr, split, search.joint)
        smallest = search.smallest()
        if levels.exist:
            ways += levels.fitting(limit, everything)
            smallest = min(smallest, levels.at(LEVELS - 1)[1].smallest())
        if not ways:
            raise too_little(limit, smallest, everything.peak)
        return min(ways, key=lambda way: way.estimate.repeated)


@dataclass(frozen=True)
class OfSteps(CutPolicy):
    """The policy of a scan's body.

    Attributes:
      level: which of the plans of :meth:`Search.between` it has.
      steps: how often the body runs before the way back begins.
    """

    level: int
    steps: int

    def way(self, jaxpr: Jaxpr, split: Callable[[Jaxpr], Split]) -> Way:
        whole = split(jaxpr)
        plain = Search(joint_of(whole), whole.inputs, variables(whole.outputs))
        everything = plain.estimate(plain.everything())
        searches = [(whole, plain)]
        levels = Levels(jaxpr, split, plain.joint, self.steps)
        if levels.exist:
            searches.append(levels.at(self.level, outputs=True))
        ways: list[Way] = []
        for found, search in searches:
            plan = search.between(self.level)
            ways.append(Way(found, plan, search.estimate(plan), everything))
        return min(ways, key=self.cost)

    def cost(self, way: Way) -> float:
        """The bytes that a way takes in all steps, and its operations at their price in bytes."""
        estimate = way.estimate
        price = BYTES_PER_OPERATION[self.level // STEPS_BETWEEN]
        return self.steps * (estimate.kept + price * estimate.repeated) + estimate.peak


@dataclass(frozen=True)
class Levels:
    """The same function with checkpoints for the bodies of its scans, by their level.

    Attributes:
      jaxpr: the function.
      split: splits it.
      plain: its joint program without these checkpoints.
      steps: how often the function runs before the way back begins.
    """

    jaxpr: Jaxpr
    split: Callable[[Jaxpr], Split]
    plain: Joint
    steps: int = 1

    @property
    def exist(self) -> bool:
        """Whether there is a scan."""
        return any(self.plain.present) and self.checkpointed(0) is not self.jaxpr

    def checkpointed(self, level: int) -> Jaxpr:
        """The function with checkpoints of a level."""

        def policy_for(length: Any) -> OfSteps:
            return OfSteps(level, self.steps * max(1, length_of(length)))

        return _jax.with_bodies_checkpointed(self.jaxpr, policy_for)

    def at(self, level: int, outputs: bool = False) -> tuple[Split, Search]:
        """Its split at a level, and its plans.

        Args:
          level: of the bodies' plans.
          outputs: whether the function's results are kept for nothing.
        """
        split = self.split(self.checkpointed(level))
        joint = joint_of(split)
        lasting = [eqn for eqn in joint.equations if _jax.runs_loop(eqn, is_cut)]
        more = max(0.0, operations_of(joint) - operations_of(self.plain))
        given = variables(split.outputs) if outputs else ()
        return split, Search(joint, split.inputs, given, lasting, more)

    def fitting(self, limit: int, everything: Estimate) -> list[Way]:
        """Ways to stay within so many bytes, of functions that take so much if all is kept."""
        ways: list[Way] = []
        low, high = 0, LEVELS  # levels from `high` on fit
        level = LEVELS - 1
        while low < high:
            split, search = self.at(level)
            plan = search.fitting(limit)
            if plan is None:
                low = level + 1
            else:
                ways.append(Way(split, plan, search.estimate(plan), everything))
                high = level
            level = (low + high) // 2
        return ways


def is_cut(body: Jaxpr) -> bool:
    """Whether a loop's body is one that a tape made: any other is a checkpoint or has no gradient."""
    return not _jax.is_checkpoint(body)


def operations_of(joint: Joint) -> float:
    """The operations of a function and of its gradient."""
    return operations(joint.equations) + operations(joint.backward)
