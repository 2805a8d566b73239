"""Which residuals a loop's body should keep: a minimum cut over bytes.

The forward program and that part of the backward program which depends on no cotangent form one
graph. A variable can be kept, at the cost of its bytes, or computed again from others if its operation
is cheap; what the rest of the backward program reads must be there. The cheapest choice is a minimum
cut (as in PyTorch's AOTAutograd partitioner); SciPy finds it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax import lax

from funcgrad import _jax
from funcgrad._jax import variables
from funcgrad.partition import Split

CHEAP = frozenset(
    {
        *(lax.add_p, lax.sub_p, lax.mul_p, lax.neg_p, lax.max_p, lax.min_p, lax.abs_p, lax.sign_p),
        *(lax.square_p, lax.integer_pow_p, lax.clamp_p, lax.select_n_p, lax.copy_p, lax.iota_p),
        *(lax.eq_p, lax.ne_p, lax.lt_p, lax.le_p, lax.gt_p, lax.ge_p, lax.is_finite_p),
        *(lax.and_p, lax.or_p, lax.not_p, lax.xor_p, lax.convert_element_type_p),
        *(lax.reshape_p, lax.broadcast_in_dim_p, lax.squeeze_p, lax.transpose_p, lax.rev_p),
        *(lax.slice_p, lax.split_p, lax.concatenate_p, lax.pad_p, lax.stop_gradient_p),
    }
)
"""What may be computed again: arithmetic, comparisons, selection, and moving elements about. Matrix
products, convolutions, reductions, transcendental functions, sorts and random bits are kept."""

UNCUTTABLE = 2**30
"""The capacity of what cannot be cut; all costs together stay below it."""


@dataclass(frozen=True, eq=False)
class Plan:
    """What is kept of a forward program, and how the backward program goes on from there.

    Attributes:
      equations: of the forward program and of that part of the backward program which depends on
        no cotangent.
      kept: variables whose values are kept.
      once: variables that are the same in each step.
      replayed: equations that compute, from those, what the backward program reads.
      backward: the equations of the backward program that depend on cotangents.
      cts: the cotangents' variables.
      results: variables of the input cotangents.
      constants: values that the equations close over.
    """

    equations: tuple[Any, ...]
    kept: tuple[Any, ...]
    once: frozenset[Any]
    replayed: tuple[Any, ...]
    backward: tuple[Any, ...]
    cts: tuple[Any, ...]
    results: tuple[Any, ...]
    constants: dict[Any, Any]

    def run_forward(
        self, known: dict[Any, Any], wanted: Sequence[Any], effects: bool = True
    ) -> list[Any]:
        """The values of variables of the forward program, and its effects."""
        known = {**self.constants, **known}
        acting = [eqn for eqn in self.equations if effects and eqn.effects]
        targets = variables([*wanted, *(v for eqn in acting for v in eqn.invars)])
        needed = {*map(id, acting), *map(id, equations_between(self.equations, known, targets))}
        eqns = [eqn for eqn in self.equations if id(eqn) in needed]
        return _jax.eval_equations(eqns, known, wanted)

    def run_backward(self, kept: Sequence[Any], cts: Sequence[Any]) -> list[Any]:
        """The input cotangents, from the kept values and the output cotangents."""
        known = {**self.constants, **dict(zip(self.kept, kept, strict=True))}
        known.update(zip(self.cts, cts, strict=True))
        return _jax.eval_equations([*self.replayed, *self.backward], known, self.results)


def plan_of(split: Split, free: Collection[Any], fixed: Collection[Any]) -> Plan:
    """The plan that keeps the fewest bytes per step.

    Args:
      split: a loop's body, cut in two by what the rules read.
      free: variables of its forward jaxpr that exist for every step anyway.
      fixed: its inputs that are the same in each step; keeping what depends on them alone costs
        next to nothing.
    """
    forward = split.forward.closed.jaxpr
    program = split.backwards[tuple(split.present)]
    backward = program.call.closed.jaxpr
    num_closed, num_leaves = len(program.call.consts), len(program.leaves)
    leaves = dict(zip(split.leaves, split.residual_variables(), strict=True))
    renamed = dict(
        zip(backward.invars[num_closed:], (leaves[i] for i in program.leaves), strict=False)
    )
    constants = dict(zip(forward.invars, split.forward.consts, strict=False))
    constants |= dict(zip(backward.invars, program.call.consts, strict=False))
    cts = backward.invars[num_closed + num_leaves :]
    before, after = [], []
    dependent = set(cts)
    for eqn in backward.eqns:
        eqn = eqn.replace(invars=[_renamed(v, renamed) for v in eqn.invars])
        if any(v in dependent for v in variables(eqn.invars)) or eqn.effects:
            dependent.update(eqn.outvars)
            after.append(eqn)
        else:
            before.append(eqn)
    results = [_renamed(v, renamed) for v in backward.outvars]
    read = [v for eqn in after for v in variables(eqn.invars)] + variables(results)
    targets = [*dict.fromkeys(v for v in read if v not in dependent and v not in constants)]
    eqns = [*forward.eqns, *before]
    once = depending_only_on(eqns, {*fixed, *constants})
    kept = minimum_cut(eqns, targets, {*free, *constants}, once)
    replayed = equations_between(eqns, {*kept, *constants}, targets)
    kept = [v for v in kept if v not in constants]
    return Plan(
        tuple(eqns),
        tuple(kept),
        frozenset(once),
        tuple(replayed),
        tuple(after),
        tuple(cts),
        tuple(results),
        constants,
    )


def nothing_kept(split: Split) -> Plan:
    """The plan of a body of which nothing is differentiated."""
    forward = split.forward.closed.jaxpr
    constants = dict(zip(forward.invars, split.forward.consts, strict=False))
    return Plan(tuple(forward.eqns), (), frozenset(), (), (), (), (), constants)


def minimum_cut(
    eqns: Sequence[Any], targets: Sequence[Any], free: Collection[Any], once: Collection[Any]
) -> list[Any]:
    """The cheapest variables from which `targets` can be computed by cheap equations.

    Each variable is an edge whose capacity is its bytes; a cheap equation joins its inputs' ends to
    its outputs' beginnings. Of several minimum cuts, the one nearest to the targets: it computes
    least again.
    """
    # imported here: it takes a tenth of a second, and only loops need it
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    cheap = {v: eqn for eqn in eqns if is_cheap(eqn) for v in eqn.outvars if v not in free}
    order: dict[Any, int] = {}
    waiting = list(targets)
    while waiting:
        v = waiting.pop()
        if v not in order:
            order[v] = len(order)
            if v in cheap:
                waiting += variables(cheap[v].invars)
    if not order:
        return []
    cost = np.array([0 if v in free else 1 if v in once else _bytes(v.aval) for v in order])
    cost = np.ceil(cost * min(1.0, UNCUTTABLE / 2 / max(1, cost.sum()))).astype(np.int32)
    source, sink = 2 * len(order), 2 * len(order) + 1
    edges = {(2 * i, 2 * i + 1): cost[i] for i in order.values()}
    for v, i in order.items():
        if v in cheap:
            inputs = variables(cheap[v].invars)
            edges.update({(2 * order[u] + 1, 2 * i): UNCUTTABLE for u in inputs})
        else:
            edges[(source, 2 * i)] = UNCUTTABLE
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


def is_cheap(eqn: Any) -> bool:
    """Whether computing an equation again costs less than keeping its result."""
    if eqn.primitive is _jax.jit_p:
        return all(is_cheap(inner) for inner in eqn.params["jaxpr"].jaxpr.eqns)
    return eqn.primitive in CHEAP


def _renamed(v: Any, names: dict[Any, Any]) -> Any:
    return v if isinstance(v, _jax.Literal) else names.get(v, v)


def _bytes(aval: Any) -> int:
    return int(np.prod(aval.shape, dtype=np.int64)) * getattr(aval.dtype, "itemsize", 8) + 1
