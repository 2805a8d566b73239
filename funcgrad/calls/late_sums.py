"""Sums over the steps of a backward scan, computed from all steps at once, after the loop.

The cotangent of a loop's constant is a sum over the steps. For the weights W of an LSTM, whose step
computes z = a @ W from the old state and the input, a backward step t does, written plainly:

    b_t = ...                   the cotangent of z
    ct_W += a_t^T @ b_t         reads and writes a matrix as large as W, at each step

Put off, the step stacks the small b_t instead (a_t, a kept value, has a stack already), and one product
follows the loop:

    stack b_t
    ct_W = sum_t a_t^T @ b_t = A^T @ B          with A and B all rows of all steps

The sum is taken apart into its *terms*. A term can be late if one of the operations in `step_sums.SUMS`
computes it, maybe followed by operations that are linear. A late term pays where its stacks are much
smaller than the sum (`late_worth`), and may take only the memory that the cut has saved (`room`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import islice
from typing import NamedTuple

from jax import lax

from funcgrad import _jax
from funcgrad._jax import Atom, Aval, Cotangent, Equation, Value, Var, is_literal, read, variables
from funcgrad.calls.step_sums import SUMS, can_be_late, linear_operand
from funcgrad.choices import choices
from funcgrad.masks import only, select
from funcgrad.partition.costs import size_in_bytes
from funcgrad.partition.plan import Joint, Plan, equations_between, meaning
from funcgrad.partition.split import Split
from funcgrad.partition.work import length_of
from funcgrad.tape import LeafIndex

# --- terms


class Linear(NamedTuple):
    """An equation that is linear in one operand, and the result of it that is read."""

    eqn: Equation
    operand: Var
    result: Var

    def __call__(self, value: Value) -> Value:
        return _jax.values_of([self.eqn], {self.operand: value})[self.result]


@dataclass(frozen=True, eq=False)
class Term:
    """A term of a sum: in each step, the value of a variable with a linear tail applied to it.

    Attributes:
      variable: the variable that the tail starts from.
      tail: the linear equations that lead from the variable to the sum.
    """

    variable: Atom
    tail: tuple[Linear, ...]

    @property
    def result(self) -> Atom:
        """The variable that a step adds to the sum."""
        return self.tail[-1].result if self.tail else self.variable

    def after(self, value: Value) -> Value:
        """The tail applied to a value of the variable, or to a sum of such values."""
        for linear in self.tail:
            value = linear(value)
        return value


@dataclass(frozen=True, eq=False)
class LateTerm(Term):
    """A term that can be put off.

    Attributes:
      eqn: the equation that computes the variable in a step, one of `SUMS`.
    """

    eqn: Equation

    @property
    def operands(self) -> list[Atom]:
        """The operands that the sum over all steps reads."""
        return self.eqn.invars[SUMS[self.eqn.primitive].first :]

    def of_all_steps(self, stacks: Mapping[Var, Value], known: Mapping[Var, Value]) -> Value:
        """The sum over all steps; `known` has the values that are the same in each step."""
        stacked = tuple(not is_literal(v) and v in stacks for v in self.operands)
        values = read(self.operands, {**known, **stacks})
        return self.after(SUMS[self.eqn.primitive].total(self.eqn, values, stacked))


def terms_of(sums: Sequence[Atom | None], joint: Joint) -> list[list[Term]]:
    """The terms of each sum, as far as it can be taken apart; none in the place of None."""
    backward = {v: eqn for eqn in joint.backward for v in eqn.outvars}
    everything = {v: eqn for eqn in joint.equations for v in eqn.outvars} | backward
    return [[] if v is None else list(_terms(v, backward, everything)) for v in sums]


def _terms(
    total: Atom, backward: Mapping[Var, Equation], everything: Mapping[Var, Equation]
) -> Iterator[Term]:
    waiting: list[tuple[Atom, tuple[Linear, ...]]] = [(total, ())]
    while waiting:
        v, tail = waiting.pop()
        eqn = None if is_literal(v) else backward.get(v)
        if eqn is None or is_literal(v):
            yield Term(v, tail)
        elif eqn.primitive in (lax.add_p, _jax.add_any_p) and _is_plain_sum(eqn):
            waiting += [(operand, tail) for operand in eqn.invars]
        elif (operand := linear_operand(eqn)) is not None:
            waiting.append((operand, (Linear(eqn, operand, v), *tail)))
        elif can_be_late(eqn, everything):
            yield LateTerm(v, tail, eqn)
        else:
            yield Term(v, tail)


def _is_plain_sum(eqn: Equation) -> bool:
    """Whether an addition's operands have the shape and the type of the sum."""
    out, *operands = map(_jax.type_of, (*eqn.outvars, *eqn.invars))
    return all((aval.shape, aval.dtype) == (out.shape, out.dtype) for aval in operands)


# --- sums


@dataclass(frozen=True, eq=False)
class Sum:
    """How one cotangent is summed over the steps.

    Attributes:
      aval: its type.
      now: terms that each step adds up.
      late: terms that are put off.
    """

    aval: Aval
    now: tuple[Term, ...]
    late: tuple[LateTerm, ...]

    def start(self) -> Cotangent:
        """Zeros to add to; None if no step adds anything."""
        return _jax.strong_zeros(self.aval) if self.now else None

    def of_step(self, values: Sequence[Value]) -> Cotangent:
        """The term that a step adds, from the values of its terms' variables; None if there is none."""
        terms = [term.after(value) for term, value in zip(self.now, values, strict=True)]
        return reduce(_jax.add_cotangents, terms) if terms else None

    def end(
        self, added: Cotangent, stacks: Mapping[Var, Value], known: Mapping[Var, Value]
    ) -> Value:
        """The sum over all steps, from the sum that the steps have `added` up and from stacks."""
        late = [term.of_all_steps(stacks, known) for term in self.late]
        return reduce(_jax.add_cotangents, late if added is None else [added, *late])


@dataclass(frozen=True, eq=False)
class Deferral:
    """A step of the backward scan, and the sums that are left for the end of the scan.

    Attributes:
      plan: the plan of a step. Its results are the cotangents that are not summed, the terms that the
        step adds up, and the variables that the step stacks.
      sums: how each cotangent is summed, None for one that is not.
      stacked: the variables that the step gives out to be stacked.
    """

    plan: Plan
    sums: tuple[Sum | None, ...]
    stacked: tuple[Var, ...]

    @property
    def kept(self) -> tuple[Var, ...]:
        """The kept variables that a step reads."""
        return self.plan.kept

    @property
    def read_late(self) -> set[Var]:
        """The variables whose values of all steps, or of the loop, the late sums read."""
        late = (term for total in self.sums if total for term in total.late)
        return {v for term in late for v in variables(term.operands)}

    def start(self) -> list[Cotangent]:
        """The values that sums start from, by differentiated input."""
        return self.plan.by_input([total and total.start() for total in self.sums])

    def pull_back(
        self, kept: Sequence[Value], cts: Sequence[Value]
    ) -> tuple[list[Cotangent], list[Value]]:
        """A step's cotangents by differentiated input, and the values to be stacked."""
        values = iter(self.plan.run_backward(kept, cts))
        results = []
        for total in self.sums:
            terms = list(islice(values, 1 if total is None else len(total.now)))
            results.append(terms[0] if total is None else total.of_step(terms))
        return self.plan.by_input(results), list(values)

    def end(
        self, added: Sequence[Cotangent], stacks: Mapping[Var, Value], known: Mapping[Var, Value]
    ) -> list[Cotangent]:
        """By differentiated input, the sum over all steps, or the cotangent if it is not summed."""
        sums = self.plan.by_input(self.sums)
        return [
            x if total is None else total.end(x, stacks, known)
            for total, x in zip(sums, added, strict=True)
        ]


# --- which sums are put off


@dataclass(frozen=True)
class Available:
    """The values that a late term may read, and the memory that it may take.

    Attributes:
      stacks: variables whose values of all steps are there.
      known: variables that are the same in each step and are there after the loop.
      length: the number of steps.
      room: how many bytes more a step may stack. The bytes that a term no longer adds up come on top,
        once.
    """

    stacks: frozenset[Var]
    known: frozenset[Var]
    length: int
    room: float


def deferral_of(plan: Plan, summed: Sequence[bool], available: Available) -> Deferral:
    """Put off the terms of a backward scan for which that pays.

    Args:
      plan: the plan of a step of the backward scan.
      summed: by differentiated input, whether its cotangents are added up over the steps.
      available: the values and the memory for late terms.
    """
    is_sum = select(summed, plan.joint.present)
    taken_apart = without_repeats(opened(plan, is_sum))
    joint = taken_apart.joint
    groups = terms_of(only(joint.results, is_sum), joint)
    late = [term for group in groups for term in group if isinstance(term, LateTerm)]
    chosen, stacked = choose(late, available)
    if chosen:
        plan = taken_apart
    sums, results = [], []
    for v, add_up, group in zip(plan.joint.results, is_sum, groups, strict=True):
        total = sum_of(v, group, chosen) if add_up else None
        sums.append(total)
        results += [v] if total is None else [term.variable for term in total.now]
    step = with_results(plan, [*results, *stacked])
    return Deferral(step, tuple(sums), tuple(stacked))


def sum_of(v: Atom, terms: Sequence[Term], chosen: Sequence[LateTerm]) -> Sum:
    """How a cotangent is summed, if the chosen terms are late; if none is, it is not taken apart."""
    late = tuple(term for term in chosen if term in terms)
    now = tuple(term for term in terms if term not in late) if late else (Term(v, ()),)
    return Sum(v.aval, now, late)


def choose(terms: Sequence[LateTerm], available: Available) -> tuple[list[LateTerm], list[Var]]:
    """Which terms to put off, and which variables to stack for them.

    Terms that need the same stacks go together. Those that gain most for their cost come first.
    """
    stacks, room = available.stacks, available.room * length_of(available.length)
    chosen: list[LateTerm] = []
    stacked: list[Var] = []
    while True:
        waiting = [term for term in terms if term not in chosen]
        groups = by_missing_stacks(waiting, stacks, available.known)
        best, missing = 1 / choices().late_worth, None
        for candidate, alike in groups.items():
            cost, gain = _bytes(candidate), _bytes(term.result for term in alike)
            fits = not cost or cost * length_of(available.length) <= room + gain
            if fits and cost <= best * gain:
                best, missing = cost / gain, candidate
        if missing is None:
            return chosen, stacked
        alike = groups[missing]
        room -= length_of(available.length) * _bytes(missing) - _bytes(
            term.result for term in alike
        )
        chosen += alike
        operands = variables(v for term in alike for v in term.operands)
        stacked += [v for v in dict.fromkeys(operands) if v in missing]
        stacks = stacks | missing


def by_missing_stacks(
    terms: Sequence[LateTerm], stacks: Collection[Var], known: Collection[Var]
) -> dict[frozenset[Var], list[LateTerm]]:
    """Terms by the variables that have to be stacked for them."""
    groups: dict[frozenset[Var], list[LateTerm]] = {}
    for term in terms:
        varying = [v for v in variables(term.operands) if v not in known]
        if varying:
            missing = frozenset(v for v in varying if v not in stacks)
            groups.setdefault(missing, []).append(term)
    return groups


def bytes_without_cut(split: Split, known: Collection[Var]) -> int:
    """About how many bytes a step would keep if each op kept its own derivative, as in `jax.grad`.

    We assume that a unary op keeps its derivative and any other op its operands, each counted once.
    """
    by_leaf = dict(zip(split.leaves, split.residual_variables, strict=True))
    shared: set[Var] = set()
    total = 0
    for node in split.tape.nodes:
        leaves = [r.index for r in node.residuals if isinstance(r, LeafIndex)]
        kept = {*variables(by_leaf[i] for i in leaves if i in by_leaf)} - {*known}
        if len(node.operands) == 1:
            total += _bytes(kept)
        else:
            shared |= kept
    return total + _bytes(shared)


def _bytes(atoms: Iterable[Atom]) -> int:
    return sum(size_in_bytes(v.aval) for v in atoms)


# --- programs of a step, rewritten


def opened(plan: Plan, is_sum: Sequence[bool]) -> Plan:
    """The plan with those jitted calls inlined that compute terms of sums."""
    closed: set[int] = set()
    while True:
        joint = plan.joint
        groups = terms_of(select(joint.results, is_sum), joint)
        sources = {*variables(term.variable for group in groups for term in group)}
        calls = {
            id(eqn)
            for eqn in joint.backward
            if eqn.primitive is _jax.jit_p and not sources.isdisjoint(eqn.outvars)
        }
        if not calls - closed:
            return plan
        plan, remaining = inlined(plan, calls - closed)
        closed |= remaining


def inlined(plan: Plan, calls: Collection[int]) -> tuple[Plan, set[int]]:
    """The plan with these calls of its backward program inlined, and those that cannot be, by id."""
    names: dict[Var, Atom] = {}
    remaining: set[int] = set()
    eqns = []
    for eqn in plan.joint.backward:
        now = eqn.replace(invars=_jax.renamed(eqn.invars, names))
        if id(eqn) not in calls:
            eqns.append(now)
            continue
        inner, results = _jax.equations_of_call(now)
        remaining |= {id(e) for e in inner if e is now}
        eqns += inner
        names |= results
    return _with_backward(plan, eqns, names), remaining


def without_repeats(plan: Plan) -> Plan:
    """The plan whose backward program computes nothing twice."""
    names: dict[Var, Atom] = {}
    found: dict[object, Equation] = {}
    eqns = []
    for eqn in plan.joint.backward:
        eqn = eqn.replace(invars=_jax.renamed(eqn.invars, names))
        first = eqn if eqn.effects else found.setdefault(meaning(eqn), eqn)
        if first is eqn:
            eqns.append(eqn)
        else:
            names |= dict(zip(eqn.outvars, first.outvars, strict=True))
    return _with_backward(plan, eqns, names)


def _with_backward(plan: Plan, eqns: Sequence[Equation], names: Mapping[Var, Atom]) -> Plan:
    """The plan with other backward equations, and with other names for some results."""
    results = tuple(_jax.renamed(plan.joint.results, names))
    return replace(plan, joint=replace(plan.joint, backward=tuple(eqns), results=results))


def with_results(plan: Plan, results: Sequence[Atom]) -> Plan:
    """The plan with other results, without the equations that these do not need."""
    joint = plan.joint
    made = {v for eqn in joint.backward for v in eqn.outvars}
    acting = [eqn for eqn in joint.backward if eqn.effects]
    asked = variables([*results, *(v for eqn in acting for v in eqn.invars)])
    known = {v for eqn in joint.backward for v in variables(eqn.invars)} - made
    between = equations_between(joint.backward, known, [v for v in asked if v in made])
    needed = {*map(id, acting), *map(id, between)}
    backward = tuple(eqn for eqn in joint.backward if id(eqn) in needed)
    needed_vars = {*asked, *(v for eqn in backward for v in variables(eqn.invars))}
    replayed = [v for eqn in plan.replayed for v in eqn.outvars]
    targets = tuple(v for v in (*plan.kept, *replayed) if v in needed_vars)
    reduced = replace(joint, results=tuple(results), backward=backward, targets=targets)
    return reduced.keeping(plan.kept)
