"""Which residuals to keep: a minimum cut over bytes.

The forward program and that part of the backward program which depends on no cotangent form one
graph. A variable can be kept, at the cost of its bytes, or computed again from others, if its operation
is cheap or at a price; what the rest of the backward program reads must be there. The cheapest choice is
a minimum cut (as in PyTorch's AOTAutograd partitioner); SciPy finds it.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from funcgrad import _jax
from funcgrad._jax import variables
from funcgrad.costs import is_cheap, size_in_bytes
from funcgrad.partition import Split

Delay = Callable[[list[Any], list[Any]], list[Any]]
"""Makes the first values available only when the second are."""

UNCUTTABLE = 2**30
"""The capacity of what cannot be cut; all costs together stay below it."""


@dataclass(frozen=True, eq=False)
class Joint:
    """The forward and the backward program of a split jaxpr as one.

    Attributes:
      equations: of the forward program and of that part of the backward program which depends on
        no cotangent.
      targets: what the rest of the backward program reads of their variables.
      backward: the equations of the backward program that depend on cotangents.
      cts: the cotangents' variables.
      results: variables of the input cotangents.
      constants: values that the equations close over.
    """

    equations: tuple[Any, ...]
    targets: tuple[Any, ...]
    backward: tuple[Any, ...]
    cts: tuple[Any, ...]
    results: tuple[Any, ...]
    constants: dict[Any, Any]

    def keeping(self, kept: Sequence[Any], once: Collection[Any] = ()) -> Plan:
        """The plan that keeps these variables and computes the targets from them."""
        replayed = equations_between(self.equations, {*kept, *self.constants}, self.targets)
        read = {*self.targets, *(v for eqn in replayed for v in variables(eqn.invars))}
        kept = [v for v in kept if v not in self.constants and v in read]
        return Plan(self, tuple(kept), frozenset(once), tuple(replayed))


@dataclass(frozen=True, eq=False)
class Plan:
    """What is kept of a forward program, and how the backward program goes on from there.

    Attributes:
      joint: both programs.
      kept: variables whose values are kept.
      once: variables that are the same in each step of a loop.
      replayed: equations that compute, from those, what the backward program reads.
    """

    joint: Joint
    kept: tuple[Any, ...]
    once: frozenset[Any]
    replayed: tuple[Any, ...]

    def run_forward(
        self, known: dict[Any, Any], wanted: Sequence[Any], effects: bool = True
    ) -> list[Any]:
        """The values of variables of the forward program, and its effects."""
        equations = self.joint.equations
        known = {**self.joint.constants, **known}
        acting = [eqn for eqn in equations if effects and eqn.effects]
        targets = variables([*wanted, *(v for eqn in acting for v in eqn.invars)])
        needed = {*map(id, acting), *map(id, equations_between(equations, known, targets))}
        eqns = [eqn for eqn in equations if id(eqn) in needed]
        return _jax.eval_equations(eqns, known, wanted)

    def run_backward(
        self, kept: Sequence[Any], cts: Sequence[Any], delay: Delay | None = None
    ) -> list[Any]:
        """The input cotangents, from the kept values and the output cotangents.

        What is computed again is computed as late as possible; `delay` may tie it to the cotangents
        that then have arrived.
        """
        known = {**self.joint.constants, **dict(zip(self.kept, kept, strict=True))}
        arrived = dict(zip(self.joint.cts, cts, strict=True))
        everything = ChainMap(arrived, known)
        for again, eqn in self.in_order():
            given = [arrived[v] for v in variables(eqn.invars) if v in arrived] if eqn else []
            if again and delay is not None and given:
                read = dict.fromkeys(v for e in again for v in variables(e.invars) if v in known)
                values = delay([known[v] for v in read], given)
                known |= _jax.values_of(again, dict(zip(read, values, strict=True)))
            else:
                known |= _jax.values_of(again, known)
            if eqn:
                arrived |= _jax.values_of([eqn], everything)
        return _jax.eval_equations((), {**known, **arrived}, self.joint.results)

    def in_order(self) -> Iterator[tuple[list[Any], Any]]:
        """The backward program's equations, each with those that are replayed just before it."""
        producer = {v: eqn for eqn in self.replayed for v in eqn.outvars}
        done: set[int] = set()
        for eqn in self.joint.backward:
            *again, eqn = _with_producers([eqn], producer, done)
            yield again, eqn
        last = [producer[v] for v in variables(self.joint.results) if v in producer]
        yield list(_with_producers(last, producer, done)), None


def _with_producers(eqns: Sequence[Any], producer: dict[Any, Any], done: set[int]) -> Iterator[Any]:
    """Equations after those that they need, as far as they are not done yet."""
    stack = list(eqns)
    while stack:
        now = stack[-1]
        waiting = [
            producer[v]
            for v in variables(now.invars)
            if v in producer and id(producer[v]) not in done
        ]
        if waiting:
            stack += waiting
            continue
        stack.pop()
        if id(now) not in done:
            done.add(id(now))
            yield now


def joint_of(split: Split) -> Joint:
    """The joint program of a jaxpr that has been cut in two by what the rules read."""
    forward = split.forward.closed.jaxpr
    constants = dict(zip(forward.invars, split.forward.consts, strict=False))
    if not any(split.present):
        return Joint(tuple(forward.eqns), (), (), (), (), constants)
    program = split.backwards[tuple(split.present)]
    backward = program.call.closed.jaxpr
    num_closed, num_leaves = len(program.call.consts), len(program.leaves)
    leaves = dict(zip(split.leaves, split.residual_variables(), strict=True))
    renamed = dict(
        zip(backward.invars[num_closed:], (leaves[i] for i in program.leaves), strict=False)
    )
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
    targets = dict.fromkeys(v for v in read if v not in dependent and v not in constants)
    eqns = (*forward.eqns, *before)
    return Joint(eqns, tuple(targets), tuple(after), tuple(cts), tuple(results), constants)


def plan_of(split: Split, free: Collection[Any], fixed: Collection[Any]) -> Plan:
    """The plan that keeps the fewest bytes and computes again only what is cheap.

    Args:
      split: a jaxpr, cut in two by what the rules read.
      free: variables of its forward jaxpr that are kept anyway.
      fixed: of a loop's body, the inputs that are the same in each step; keeping what depends on
        them alone costs next to nothing.
    """
    joint = joint_of(split)
    once = depending_only_on(joint.equations, {*fixed, *joint.constants})
    kept = minimum_cut(joint.equations, joint.targets, {*free, *joint.constants}, once)
    return joint.keeping(kept, once)


def minimum_cut(
    eqns: Sequence[Any],
    targets: Sequence[Any],
    free: Collection[Any],
    once: Collection[Any] = (),
    price: Callable[[Any], float | None] = lambda eqn: 0.0 if is_cheap(eqn) else None,
) -> list[Any]:
    """The cheapest variables from which `targets` can be computed.

    Each variable is an edge whose capacity is its bytes; an equation that may be computed again joins
    its inputs' ends to its outputs' beginnings, which an edge of its price joins to the source. Of
    several minimum cuts, the one nearest to the targets: it computes least again.

    Args:
      eqns: in order.
      targets: variables that must be there.
      free: variables that cost nothing to keep.
      once: variables that cost next to nothing to keep.
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
        if v not in free
    }
    order = _ancestors(targets, prices)
    if not order:
        return []
    cost = np.array([0 if v in free else 1 if v in once else size_in_bytes(v.aval) for v in order])
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


def _renamed(v: Any, names: dict[Any, Any]) -> Any:
    return v if isinstance(v, _jax.Literal) else names.get(v, v)
