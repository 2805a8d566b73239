"""Which residuals to keep: a minimum cut over bytes.

The forward program, and that part of the backward program which depends on no cotangent, form one
graph. A variable can be kept, at the cost of its bytes, or computed again from others, if the table of
prices allows it. What the rest of the backward program reads must be there. The cheapest choice is a
minimum cut (as in PyTorch's AOTAutograd partitioner), which SciPy finds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from funcgrad._jax import Equation, Var, variables
from funcgrad.partition.costs import CHEAP_ONLY, WORTHWHILE, Prices, size_in_bytes
from funcgrad.partition.plan import Cut, depending_only_on, joint_of
from funcgrad.partition.split import Split

UNCUTTABLE = 2**30
"""The capacity of an edge that cannot be cut; all costs together stay below it."""


def cut_of(
    split: Split,
    free: Collection[Var],
    fixed: Collection[Var] = (),
    favoured: Collection[Var] = (),
) -> Cut:
    """The plan that keeps the fewest bytes and computes again what is worth computing again.

    Args:
      split: a jaxpr, split by what the rules read.
      free: variables of its forward jaxpr that are kept anyway.
      fixed: inputs that are the same in each run of a jaxpr that runs many times. A variable that
        depends on these alone costs next to nothing.
      favoured: variables that are kept rather than others of their size.
    """
    joint = joint_of(split)
    once = depending_only_on(joint.equations, {*fixed, *joint.constants})
    costs = dict.fromkeys(once, 1) | {v: size_in_bytes(v.aval) - 1 for v in favoured}
    costs |= dict.fromkeys([*free, *joint.constants], 0)
    kept = minimum_cut(joint.equations, joint.targets, costs, WORTHWHILE)
    return Cut(split, joint.keeping(kept), frozenset(once))


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
