"""Which residuals to keep: a minimum cut over bytes.

The forward program and that part of the backward program which depends on no cotangent form one
graph. A variable can be kept, at the cost of its bytes, or computed again from others, if its operation
is cheap or at a price; what the rest of the backward program reads must be there. The cheapest choice is
a minimum cut (as in PyTorch's AOTAutograd partitioner); SciPy finds it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from funcgrad._jax import variables
from funcgrad.partition.costs import is_cheap, price_of, size_in_bytes
from funcgrad.partition.plan import Cut, depending_only_on, joint_of, whole_backward
from funcgrad.partition.split import Split

UNCUTTABLE = 2**30
"""The capacity of what cannot be cut; all costs together stay below it."""


def cut_of(
    split: Split,
    free: Collection[Any],
    fixed: Collection[Any] = (),
    favoured: Collection[Any] = (),
) -> Cut:
    """The plan that keeps the fewest bytes, computing again what is cheap or worth it.

    Args:
      split: a jaxpr, cut in two by what the rules read.
      free: variables of its forward jaxpr that are kept anyway.
      fixed: of a loop's body, the inputs that are the same in each step; keeping what depends on
        them alone costs next to nothing.
      favoured: variables kept rather than others of their size.
    """
    joint = joint_of(split, whole_backward(split))
    once = depending_only_on(joint.equations, {*fixed, *joint.constants})
    costs = dict.fromkeys(once, 1) | {v: size_in_bytes(v.aval) - 1 for v in favoured}
    costs |= dict.fromkeys([*free, *joint.constants], 0)
    kept = minimum_cut(joint.equations, joint.targets, costs, price_of)
    return Cut(split, joint.keeping(kept, once))


def minimum_cut(
    eqns: Sequence[Any],
    targets: Sequence[Any],
    costs: Mapping[Any, int],
    price: Callable[[Any], float | None] = lambda eqn: 0.0 if is_cheap(eqn) else None,
) -> list[Any]:
    """The cheapest variables from which `targets` can be computed.

    Each variable is an edge whose capacity is its bytes; an equation that may be computed again joins
    its inputs' ends to its outputs' beginnings, which an edge of its price joins to the source. Of
    several minimum cuts, the one nearest to the targets: it computes least again.

    Args:
      eqns: in order.
      targets: variables that must be there.
      costs: of keeping some variables, in bytes; others cost their size.
      price: of computing an equation again, in bytes; None if it must not be.
    """
    # imported here: it takes a tenth of a second, and only loops and checkpoints need it
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    prices = {
        v: (eqn, cost)
        for eqn in eqns
        if (cost := price(eqn)) is not None
        for v in eqn.outvars
        if costs.get(v) != 0
    }
    order = _ancestors(targets, prices)
    if not order:
        return []
    cost = np.array([costs.get(v, size_in_bytes(v.aval)) for v in order])
    unit = min(1.0, UNCUTTABLE / 2 / max(1, cost.sum()))
    cost = np.ceil(cost * unit).astype(np.int32)
    source, sink = 2 * len(order), 2 * len(order) + 1
    edges = {(2 * i, 2 * i + 1): cost[i] for i in order.values()}
    for v, i in order.items():
        eqn, extra = prices.get(v, (None, None))
        capacity = UNCUTTABLE if extra is None else int(min(extra * unit, UNCUTTABLE))
        if capacity:
            edges[(source, 2 * i)] = capacity
        if eqn is not None:
            edges.update({(2 * order[u] + 1, 2 * i): UNCUTTABLE for u in variables(eqn.invars)})
    edges.update({(2 * order[v] + 1, sink): UNCUTTABLE for v in targets})
    rows, columns = zip(*edges, strict=True)
    shape = (sink + 1, sink + 1)
    capacity = csr_array((np.array(list(edges.values()), np.int32), (rows, columns)), shape=shape)
    flow = maximum_flow(capacity, source, sink).flow
    left = capacity - flow
    left.data = (left.data > 0).astype(np.int32)
    left.eliminate_zeros()
    reaching = set(breadth_first_order(csr_array(left.T), sink, return_predecessors=False).tolist())
    return [v for v, i in order.items() if 2 * i + 1 in reaching and 2 * i not in reaching]


def _ancestors(targets: Sequence[Any], producers: dict[Any, tuple[Any, float]]) -> dict[Any, int]:
    """The targets and what they can be computed from, numbered."""
    order: dict[Any, int] = {}
    waiting = list(targets)
    while waiting:
        v = waiting.pop()
        if v not in order:
            order[v] = len(order)
            if v in producers:
                waiting += variables(producers[v][0].invars)
    return order
