"""A split jaxpr with a plan, and the plan that costs least: a minimum cut over bytes.

The forward program, and that part of the backward program which depends on no cotangent, form one
graph. A variable can be kept, at the cost of its bytes, or computed again from others, if the table of
prices allows it. The variables that the rest of the backward program reads must be there. The cheapest
choice is a minimum cut (as in PyTorch's AOTAutograd partitioner), which SciPy finds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from funcgrad import _jax, errors
from funcgrad._jax import Cotangent, Equation, Mask, Value, Var, variables
from funcgrad.choices import choices
from funcgrad.masks import both, filled, mask_of, only
from funcgrad.partition.costs import CHEAP_ONLY, Prices, quick, size_in_bytes, worthwhile
from funcgrad.partition.plan import (
    Delay,
    Plan,
    depending_only_on,
    equations_between,
    joint_of,
    joint_of_pattern,
)
from funcgrad.partition.split import Backward, Split, not_kept


@dataclass(frozen=True, eq=False)
class Cut:
    """A split jaxpr with a plan, and the way back for each pattern of cotangents.

    The kept variables are chosen for the pattern in which every cotangent arrives. A cotangent that
    does not arrive is not replaced by zeros: zero times infinity is not zero.

    Attributes:
      split: the split jaxpr.
      plan: the plan for the pattern in which every cotangent arrives.
      fixed: variables that depend on constants and fixed inputs alone.
      plans: plans that keep the same, by the pattern of cotangents.
    """

    split: Split
    plan: Plan
    fixed: frozenset[Var] = frozenset()
    plans: dict[Mask, Plan] = field(default_factory=dict)

    # --- forward

    @property
    def computed(self) -> list[Var]:
        """The kept variables that are not inputs."""
        inputs = {*self.split.inputs}
        return [v for v in self.plan.kept if v not in inputs]

    def run_forward(self, primals: Sequence[Value]) -> tuple[list[Value], list[Value]]:
        """The outputs, and the values of the kept variables that are not inputs."""
        known = dict(zip(self.split.inputs, primals, strict=True))
        outputs = self.split.outputs
        results = self.plan.compute(known, [*outputs, *self.computed])
        return results[: len(outputs)], results[len(outputs) :]

    def residuals(self, inputs: Mapping[Var, Value], computed: Sequence[Value]) -> list[Value]:
        """The values of all kept variables, from those of inputs and of the others."""
        found = {**inputs, **dict(zip(self.computed, computed, strict=True))}
        return [found[v] for v in self.plan.kept]

    # --- backward

    def taken(self, cts: Sequence[Cotangent]) -> list[Cotangent]:
        """The outputs' cotangents without those of outputs that carry no gradient."""
        return only(cts, self.split.present)

    def plan_for(self, arrived: Mask) -> Plan:
        """The plan for a pattern of cotangents."""
        if arrived == self.split.present:
            return self.plan
        if arrived in self.plans:
            return self.plans[arrived]
        program = self.split.backward(arrived)
        found = self.specialised(program)
        if not program.call.closes_over_tracer:
            self.plans[arrived] = found
        return found

    def specialised(self, program: Backward) -> Plan:
        """The plan with this backward program in the place of the one for all cotangents."""
        joint = joint_of_pattern(self.split, program, self.plan.joint)
        known, repeatable = {*self.plan.kept, *joint.constants}, joint.equations
        if joint.again is not None:  # dead code inside its calls may read what was not kept
            starts, jaxpr = [*{*known, *self.split.inputs}], self.split.forward.closed.jaxpr
            repeatable, _ = _jax.pruned(jaxpr, joint.again, starts, joint.targets)
        try:
            replayed = equations_between(repeatable, known, joint.targets)
        except KeyError as fault:
            raise errors.FuncgradError(not_kept(self.split)) from fault
        return Plan(joint, self.plan.kept, tuple(replayed))

    def present_inputs(self, arrived: Mask) -> Mask:
        """Which differentiated inputs get a cotangent, by the outputs whose cotangents arrive."""
        arrived = both(arrived, self.split.present)
        if not any(arrived):
            return (False,) * self.split.num_inputs
        return self.plan_for(arrived).joint.present

    def pull_back(
        self,
        kept: Sequence[Value],
        cts: Sequence[Cotangent],
        delay: Delay | None = None,
        loose: Collection[Var] = (),
    ) -> list[Cotangent]:
        """Cotangents of the differentiated inputs, None where there is none."""
        cts = self.taken(cts)
        if not any(mask_of(cts)):
            return [None] * self.split.num_inputs
        plan = self.plan_for(mask_of(cts))
        return plan.by_input(plan.run_backward(kept, filled(cts), delay, loose))


def cut_of(
    split: Split,
    free: Collection[Var],
    fixed: Collection[Var] = (),
    favoured: Collection[Var] = (),
    runs: int | None = None,
) -> Cut:
    """The plan that keeps the fewest bytes, where values worth computing again are not kept.

    What is worth it depends on the memory: first, only what is computed again in no time. If more is
    kept then than `Choices.room`, or if nobody knows how much, then what saves memory.

    Args:
      split: the split jaxpr.
      free: variables of its forward jaxpr that are kept anyway.
      fixed: inputs that are the same in each run of a jaxpr that runs many times. A variable that
        depends on these alone costs next to nothing.
      favoured: variables that are kept rather than others of their size.
      runs: how often the jaxpr runs before the way back; None if that is not known.
    """
    joint = joint_of(split)
    once = depending_only_on(joint.equations, {*fixed, *joint.constants})
    costs = dict.fromkeys(once, 1) | {v: size_in_bytes(v.aval) - 1 for v in favoured}
    costs |= dict.fromkeys([*free, *joint.constants], 0)
    prices = worthwhile() if runs is None else quick()
    kept = minimum_cut(joint.equations, joint.targets, costs, prices)
    size = sum(costs.get(v, size_in_bytes(v.aval)) for v in kept)
    if runs is not None and runs * size > choices().room:
        kept = minimum_cut(joint.equations, joint.targets, costs, worthwhile())
    return Cut(split, joint.keeping(kept), frozenset(once))


UNCUTTABLE = 2**30
"""The capacity of an edge that cannot be cut; all costs together stay below it."""


def minimum_cut(
    eqns: Sequence[Equation],
    targets: Sequence[Var],
    costs: Mapping[Var, int],
    prices: Prices = CHEAP_ONLY,
) -> list[Var]:
    """The cheapest variables from which `targets` can be computed.

    Of several minimum cuts, the one nearest to the targets: it computes least again.

    Args:
      eqns: in order.
      targets: variables that must be there.
      costs: of keeping some variables, in bytes; others cost their size.
      prices: of computing an equation again.
    """
    producers = {
        v: (eqn, price)
        for eqn in eqns
        if (price := prices.of(eqn)) is not None
        for v in eqn.outvars
        if costs.get(v) != 0
    }
    order = _ancestors(targets, producers)
    if not order:
        return []
    cost = np.array([costs.get(v, size_in_bytes(v.aval)) for v in order])
    edges = _edges(order, cost, producers, targets)
    reaching = _reaching_sink(edges, _sink(order))
    return [v for v, i in order.items() if 2 * i + 1 in reaching and 2 * i not in reaching]


Producers = Mapping[Var, tuple[Equation, float]]
"""The equations that may be computed again, with their prices, by the variables that they compute."""


def _ancestors(targets: Sequence[Var], producers: Producers) -> dict[Var, int]:
    """The targets and all variables that they can be computed from, numbered."""
    order: dict[Var, int] = {}
    waiting = list(targets)
    while waiting:
        v = waiting.pop()
        if v not in order:
            order[v] = len(order)
            if v in producers:
                waiting += variables(producers[v][0].invars)
    return order


def _sink(order: Mapping[Var, int]) -> int:
    return 2 * len(order) + 1


def _edges(
    order: Mapping[Var, int], cost: np.ndarray, producers: Producers, targets: Sequence[Var]
) -> dict[tuple[int, int], int]:
    """The graph's edges with their capacities.

    The variable number i is an edge from 2i to 2i + 1, whose capacity is its cost. An equation that
    may be computed again joins the ends of its inputs to the beginnings of its outputs. An edge of the
    equation's price joins the source to these beginnings.
    """
    unit = min(1.0, UNCUTTABLE / 2 / max(1, cost.sum()))
    cost = np.ceil(cost * unit).astype(np.int32)
    sink = _sink(order)
    source = sink - 1
    edges = {(2 * i, 2 * i + 1): cost[i] for i in order.values()}
    for v, i in order.items():
        eqn, price = producers.get(v, (None, None))
        capacity = UNCUTTABLE if price is None else int(min(price * unit, UNCUTTABLE))
        if capacity:
            edges[(source, 2 * i)] = capacity
        if eqn is not None:
            edges.update({(2 * order[u] + 1, 2 * i): UNCUTTABLE for u in variables(eqn.invars)})
    edges.update({(2 * order[v] + 1, sink): UNCUTTABLE for v in targets})
    return edges


def _reaching_sink(edges: Mapping[tuple[int, int], int], sink: int) -> set[int]:
    """The nodes from which, once the flow from source to sink is at most, more could reach the sink."""
    # imported here: it takes a tenth of a second, and only loops and checkpoints need it
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    rows, columns = zip(*edges, strict=True)
    shape = (sink + 1, sink + 1)
    capacity = csr_array((np.array(list(edges.values()), np.int32), (rows, columns)), shape=shape)
    left = capacity - maximum_flow(capacity, sink - 1, sink).flow
    left.data = (left.data > 0).astype(np.int32)
    left.eliminate_zeros()
    return set(breadth_first_order(csr_array(left.T), sink, return_predecessors=False).tolist())
