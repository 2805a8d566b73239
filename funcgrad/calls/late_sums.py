"""What a backward scan adds up over its steps, computed from all steps at once, after the loop.

The cotangent of a loop's constant is a sum over the steps. Where a step's term is a product, as for
the weights of a recurrent network, sum_t a_t^T b_t is one product of the stacked a and b: b is stacked
instead of a matrix being added to at each step. Sums, scatters and updated slices are put off alike,
where what has to be stacked is smaller than what is no longer added up, and fits in the bytes that the
cut has saved.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import islice
from typing import Any

import jax
import numpy as np
from jax import lax

from funcgrad import _jax
from funcgrad._jax import is_literal, read, variables
from funcgrad.partition.costs import size_in_bytes
from funcgrad.partition.plan import Joint, Plan, Variant, equations_between, meaning
from funcgrad.partition.split import Split
from funcgrad.tape import Place

WORTH = 4
"""How many times the size of what is stacked a term must have to be put off. Products of many rows
are quick in the loop too: with a batch of 128 putting them off gained nothing for an LSTM."""


@dataclass(frozen=True, eq=False)
class Term:
    """A variable of a step, and the linear operations that lead from it to the sum it is part of.

    Attributes:
      variable: what the tail begins with.
      tail: equations, each with the result of it that is read.
    """

    variable: Any
    tail: tuple[tuple[Any, Any], ...]

    @property
    def result(self) -> Any:
        """What a step adds."""
        return self.tail[-1][1] if self.tail else self.variable

    def after(self, value: Any) -> Any:
        """What the tail makes of a value of the variable, or of a sum of such."""
        for eqn, result in self.tail:
            value = _jax.values_of([eqn], {eqn.invars[_linear_in(eqn)]: value})[result]
        return value


@dataclass(frozen=True, eq=False)
class LateTerm(Term):
    """A term that can be put off: its variable, summed over the steps, is computed from stacks."""

    core: Any

    @property
    def operands(self) -> list[Any]:
        """Variables whose values of all steps the sum takes."""
        return variables(self.core.invars[SUMS[self.core.primitive][0] :])

    def of_all_steps(self, stacks: Mapping[Any, Any], known: Mapping[Any, Any]) -> Any:
        """The sum over the steps; `known` has what is the same in each step."""
        first, sum_of = SUMS[self.core.primitive]
        operands = self.core.invars[first:]
        stacked = [not is_literal(v) and v in stacks for v in operands]
        values = read(operands, {**known, **stacks})
        return self.after(sum_of(self.core, values, stacked))


@dataclass(frozen=True, eq=False)
class Sum:
    """How a cotangent is summed over the steps.

    Attributes:
      aval: its type.
      now: terms that each step adds up.
      late: terms that are put off.
    """

    aval: Any
    now: tuple[Term, ...]
    late: tuple[LateTerm, ...]

    def start(self) -> Any:
        """Zeros for what the steps add up; None if that is nothing."""
        return _jax.strong_zeros(self.aval) if self.now else None

    def of_step(self, values: Sequence[Any]) -> Any:
        """What a step adds, from the values of its terms' variables."""
        terms = [term.after(value) for term, value in zip(self.now, values, strict=True)]
        return reduce(lax.add, terms) if terms else None

    def end(self, added: Any, stacks: Mapping[Any, Any], known: Mapping[Any, Any]) -> Any:
        """The sum over all steps, from what these have added up and from stacks."""
        late = [term.of_all_steps(stacks, known) for term in self.late]
        return reduce(lax.add, late if added is None else [added, *late])


@dataclass(frozen=True, eq=False)
class Deferral:
    """A step of the backward scan, and what is left for the end of it.

    Attributes:
      variant: the plan of a step; its results are what is not summed, the terms of the sums, and what
        is to be stacked.
      sums: for each result how it is summed, None if it is not.
      stacked: variables that the step gives out to be stacked.
    """

    variant: Variant
    sums: tuple[Sum | None, ...]
    stacked: tuple[Any, ...]

    @property
    def kept(self) -> tuple[Any, ...]:
        """The kept variables that a step reads."""
        return self.variant.plan.kept

    def start(self) -> list[Any]:
        """What sums start from, by differentiated input."""
        return self.variant.by_input([s and s.start() for s in self.sums])

    def pull_back(self, kept: Sequence[Any], cts: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """What a step gives, by differentiated input, and what is to be stacked."""
        values = iter(self.variant.plan.run_backward(kept, cts))
        results = []
        for total in self.sums:
            terms = list(islice(values, 1 if total is None else len(total.now)))
            results.append(terms[0] if total is None else total.of_step(terms))
        return self.variant.by_input(results), list(values)

    def end(
        self, added: Sequence[Any], stacks: Mapping[Any, Any], known: Mapping[Any, Any]
    ) -> list[Any]:
        """The sums over all steps, and what is no sum as it is, by differentiated input."""
        sums = self.variant.by_input(self.sums)
        return [
            x if total is None else total.end(x, stacks, known)
            for total, x in zip(sums, added, strict=True)
        ]


def deferral_of(
    variant: Variant,
    summed: Sequence[bool],
    stacks: Collection[Any],
    known: Collection[Any],
    length: int,
    room: float,
) -> Deferral:
    """What to put off.

    Args:
      variant: the plan of a step of the backward scan.
      summed: by differentiated input, whether its cotangents are added up over the steps.
      stacks: variables whose values of all steps are there.
      known: variables that are the same in each step and are there after the loop.
      length: the number of steps.
      room: how many bytes more a step may stack; what a term no longer adds up comes on top, once.
    """
    is_sum = [s for s, present in zip(summed, variant.present, strict=True) if present]
    plan = without_repeats(opened(variant.plan, is_sum))
    pairs = list(zip(plan.joint.results, is_sum, strict=True))
    groups = terms_of([v if add_up else None for v, add_up in pairs], plan.joint)
    every = [term for group in groups for term in group if isinstance(term, LateTerm)]
    chosen, stacked = choose(every, {*stacks}, {*known}, length, room * length)
    if not chosen:
        plan = variant.plan
        pairs = list(zip(plan.joint.results, is_sum, strict=True))
    sums, results = [], []
    for (v, add_up), group in zip(pairs, groups, strict=True):
        late = tuple(term for term in chosen if term in group)
        now = [term for term in group if term not in late] if late else [Term(v, ())]
        sums.append(Sum(v.aval, tuple(now), late) if add_up else None)
        results += [term.variable for term in now] if add_up else [v]
    rest = _with_results(plan, [*results, *stacked])
    return Deferral(Variant(rest, variant.present), tuple(sums), tuple(stacked))


def opened(plan: Plan, is_sum: Sequence[bool]) -> Plan:
    """The plan with the jitted calls inlined that terms of sums come from."""
    closed: set[int] = set()
    while True:
        joint = plan.joint
        producer = {v: eqn for eqn in joint.backward for v in eqn.outvars}
        sums = [v for v, add_up in zip(joint.results, is_sum, strict=True) if add_up]
        terms = [term.variable for group in terms_of(sums, joint) for term in group]
        sources = {id(producer[v]) for v in variables(terms) if v in producer}
        calls = {id(e) for e in joint.backward if e.primitive is _jax.jit_p} & sources - closed
        if not calls:
            return plan
        names: dict[Any, Any] = {}
        eqns = []
        for eqn in joint.backward:
            now = eqn.replace(invars=_jax.renamed(eqn.invars, names))
            if id(eqn) not in calls:
                eqns.append(now)
                continue
            inner, results = _jax.equations_of_call(now)
            closed |= {id(e) for e in inner if e is now}
            eqns += inner
            names |= results
        results = tuple(_jax.renamed(joint.results, names))
        plan = replace(plan, joint=replace(joint, backward=tuple(eqns), results=results))


def without_repeats(plan: Plan) -> Plan:
    """The plan with what its backward program computes twice computed once."""
    joint = plan.joint
    names: dict[Any, Any] = {}
    found: dict[Any, Any] = {}
    eqns = []
    for eqn in joint.backward:
        eqn = eqn.replace(invars=_jax.renamed(eqn.invars, names))
        first = eqn if eqn.effects else found.setdefault(meaning(eqn), eqn)
        if first is eqn:
            eqns.append(eqn)
        else:
            names |= dict(zip(eqn.outvars, first.outvars, strict=True))
    results = tuple(_jax.renamed(joint.results, names))
    return replace(plan, joint=replace(joint, backward=tuple(eqns), results=results))


def terms_of(sums: Sequence[Any], joint: Joint) -> list[list[Term]]:
    """The terms of each sum, as far as it can be taken apart; none of one that is None."""
    backward = {v: eqn for eqn in joint.backward for v in eqn.outvars}
    everything = {v: eqn for eqn in joint.equations for v in eqn.outvars} | backward
    return [[] if v is None else list(_terms(v, backward, everything)) for v in sums]


def _terms(total: Any, backward: dict[Any, Any], everything: dict[Any, Any]) -> Iterator[Term]:
    waiting: list[tuple[Any, tuple[tuple[Any, Any], ...]]] = [(total, ())]
    while waiting:
        v, tail = waiting.pop()
        eqn = None if is_literal(v) else backward.get(v)
        if eqn is None:
            yield Term(v, tail)
        elif eqn.primitive in (lax.add_p, _jax.add_any_p) and _is_plain_sum(eqn):
            waiting += [(operand, tail) for operand in eqn.invars]
        elif (operand := _linear_in(eqn)) is not None:
            waiting.append((eqn.invars[operand], ((eqn, v), *tail)))
        elif eqn.primitive in SUMS and _can_be_late(eqn, everything):
            yield LateTerm(v, tail, eqn)
        else:
            yield Term(v, tail)


def choose(
    terms: Sequence[LateTerm], stacks: set[Any], known: set[Any], length: int, room: float
) -> tuple[list[LateTerm], list[Any]]:
    """Which terms to put off, and which variables to stack for them.

    Terms that need the same stacks go together; those that gain most for what they cost come first.
    """
    chosen: list[LateTerm] = []
    stacked: list[Any] = []
    while True:
        groups: dict[frozenset[Any], list[LateTerm]] = {}
        for term in terms:
            varying = [v for v in term.operands if v not in known]
            if term not in chosen and varying:
                missing = frozenset(v for v in varying if v not in stacks)
                groups.setdefault(missing, []).append(term)
        best, new = 1 / WORTH, None
        for missing, alike in groups.items():
            cost, gain = sum(map(_size, missing)), sum(_size(term.result) for term in alike)
            fits = not cost or cost * length <= room + gain
            if fits and cost <= best * gain:
                best, new = cost / gain, missing
        if new is None:
            return chosen, stacked
        room -= length * sum(map(_size, new)) - sum(_size(term.result) for term in groups[new])
        chosen += groups[new]
        read = [v for term in groups[new] for v in term.operands]
        stacked += [v for v in dict.fromkeys(read) if v in new]
        stacks = stacks | new


def bytes_without_cut(split: Split, known: Collection[Any]) -> int:
    """About what a step would keep if each op kept its own derivative, as `jax.grad` does.

    An op of one operand keeps its derivative; of more, the operands, each of which is kept once.
    """
    by_leaf = dict(zip(split.leaves, split.residual_variables(), strict=True))
    shared: set[Any] = set()
    total = 0
    for node in split.tape.nodes:
        places = [r.index for r in node.residuals if isinstance(r, Place)]
        read = {*variables(by_leaf[i] for i in places if i in by_leaf)} - {*known}
        if len(node.operands) == 1:
            total += sum(map(_size, read))
        else:
            shared |= read
    return total + sum(map(_size, shared))


def _size(v: Any) -> int:
    return size_in_bytes(v.aval)


def _wide(dtype: Any) -> Any:
    """The type to add many numbers in."""
    return np.float32 if jax.numpy.finfo(dtype).bits < 32 else dtype


def _with_results(plan: Plan, results: Sequence[Any]) -> Plan:
    """The plan with other results, without what they do not need."""
    joint = plan.joint
    made = {v for eqn in joint.backward for v in eqn.outvars}
    acting = [eqn for eqn in joint.backward if eqn.effects]
    wanted = variables([*results, *(v for eqn in acting for v in eqn.invars)])
    known = {v for eqn in joint.backward for v in variables(eqn.invars)} - made
    between = equations_between(joint.backward, known, [v for v in wanted if v in made])
    needed = {*map(id, acting), *map(id, between)}
    backward = tuple(eqn for eqn in joint.backward if id(eqn) in needed)
    read = {*wanted, *(v for eqn in backward for v in variables(eqn.invars))}
    replayed = [v for eqn in plan.replayed for v in eqn.outvars]
    targets = tuple(v for v in (*plan.kept, *replayed) if v in read)
    reduced = replace(joint, results=tuple(results), backward=backward, targets=targets)
    return reduced.keeping(plan.kept, plan.once)


def _is_plain_sum(eqn: Any) -> bool:
    """Whether an addition's operands have the shape and the type of the sum."""
    out = eqn.outvars[0].aval
    return all((v.aval.shape, v.aval.dtype) == (out.shape, out.dtype) for v in eqn.invars)


def _linear_in(eqn: Any) -> int | None:
    """The operand in which an equation is linear, all others being literals; None if there is none."""
    inputs = [i for i, v in enumerate(eqn.invars) if not is_literal(v)]
    if len(inputs) != 1 or not jax.numpy.issubdtype(eqn.invars[inputs[0]].aval.dtype, np.inexact):
        return None
    divides = eqn.primitive is lax.div_p and inputs == [0]
    pads = eqn.primitive is lax.pad_p and inputs == [0] and not eqn.invars[1].val
    return inputs[0] if eqn.primitive in LINEAR or divides or pads else None


def _can_be_late(eqn: Any, producer: Mapping[Any, Any]) -> bool:
    """Whether an operation of `SUMS` is not sharded, and writes into zeros if into anything."""
    if eqn.params.get("out_sharding") is not None:
        return False
    if not SUMS[eqn.primitive][0]:
        return True
    into = eqn.invars[0]
    made = None if is_literal(into) else producer.get(into)
    if made is None or made.primitive is not lax.broadcast_in_dim_p:
        return False
    value = made.invars[0]
    return is_literal(value) and not value.val


# --- how each is summed: sum over t of op(.., x_t, ..)


def dot_general_sum(eqn: Any, values: Sequence[Any], stacked: Sequence[bool]) -> Any:
    """sum_t dot(x_t, y_t): the steps are one more axis to contract over."""
    x, y = values
    params = dict(eqn.params)
    if not all(stacked):
        x, y = (v.sum(0) if there else v for v, there in zip(values, stacked, strict=True))
        return lax.dot_general(x, y, **params)
    (x_summed, y_summed), batch = params.pop("dimension_numbers")
    x_batch, y_batch = ([axis + 1 for axis in axes] for axes in batch)
    pairs = [(i + 1, j + 1) for i, j in zip(x_summed, y_summed, strict=True)]
    if (1, 1) in pairs:  # steps and rows are one axis, which costs no transposition
        x, y = (v.reshape(v.shape[0] * v.shape[1], *v.shape[2:]) for v in (x, y))
        pairs = [(i - 1, j - 1) for i, j in pairs]
        x_batch, y_batch = ([axis - 1 for axis in axes] for axes in (x_batch, y_batch))
    else:
        pairs = [(0, 0), *pairs]
    summed = [i for i, _ in pairs], [j for _, j in pairs]
    return lax.dot_general(x, y, (summed, (x_batch, y_batch)), **params)


def reduce_sum_sum(eqn: Any, values: Sequence[Any], stacked: Sequence[bool]) -> Any:
    """sum_t sum(x_t)"""
    return values[0].sum((0, *(axis + 1 for axis in eqn.params["axes"])))


def scatter_add_sum(eqn: Any, values: Sequence[Any], stacked: Sequence[bool]) -> Any:
    """sum_t scatter(0, i_t, u_t): the steps are one more axis of indices and updates."""
    indices, updates = values
    dims = eqn.params["dimension_numbers"]
    if all(stacked):
        dims = dims._replace(
            update_window_dims=tuple(i + 1 for i in dims.update_window_dims),
            scatter_indices_batching_dims=tuple(i + 1 for i in dims.scatter_indices_batching_dims),
        )
    else:
        updates = updates.sum(0)
    return _scattered(eqn, indices, updates, dims, eqn.params["mode"])


def dynamic_update_slice_sum(eqn: Any, values: Sequence[Any], stacked: Sequence[bool]) -> Any:
    """sum_t of zeros in which u_t stands at i_t: a scatter of whole windows."""
    updates, *starts = values
    axes = tuple(range(len(starts)))
    columns = [jax.numpy.broadcast_to(start, updates.shape[:1]) for start in starts]
    dims = lax.ScatterDimensionNumbers(tuple(i + 1 for i in axes), (), axes)
    indices = jax.numpy.stack(columns, axis=-1)
    return _scattered(eqn, indices, updates, dims, lax.GatherScatterMode.CLIP)


def _scattered(eqn: Any, indices: Any, updates: Any, dims: Any, mode: Any) -> Any:
    aval = eqn.outvars[0].aval
    into = _jax.strong_zeros(aval).astype(_wide(aval.dtype))
    total = lax.scatter_add(into, indices, updates.astype(into.dtype), dims, mode=mode)
    return total.astype(aval.dtype)


SUMS: dict[Any, tuple[int, Callable[..., Any]]] = {
    lax.dot_general_p: (0, dot_general_sum),
    lax.reduce_sum_p: (0, reduce_sum_sum),
    lax.scatter_add_p: (1, scatter_add_sum),
    lax.dynamic_update_slice_p: (1, dynamic_update_slice_sum),
}
"""How operations are summed over the steps, and from which operand on: zeros are before it."""

LINEAR = frozenset(
    {
        *(lax.transpose_p, lax.reshape_p, lax.squeeze_p, lax.neg_p, lax.mul_p),
        *(lax.broadcast_in_dim_p, lax.convert_element_type_p, lax.slice_p, lax.split_p, lax.rev_p),
    }
)
"""What may be done after the sum: linear in one operand, if the others are literals."""
