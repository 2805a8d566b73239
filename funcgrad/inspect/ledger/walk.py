"""The way back as a tree of visits: which rule asks for which array, and at which step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from funcgrad import _jax
from funcgrad._jax import Equation, Var, variables
from funcgrad.calls.checkpoint import RematProgram
from funcgrad.calls.cond import BranchProgram
from funcgrad.calls.custom import CustomVjpProgram, TangentProgram
from funcgrad.calls.jit import SplitProgram
from funcgrad.calls.replayed import ReplayedProgram
from funcgrad.calls.scan import ScanProgram
from funcgrad.calls.shard_map import ShardPullback
from funcgrad.calls.while_loop import WhileProgram
from funcgrad.inspect.ledger.flat import Spot
from funcgrad.partition.cut import Cut
from funcgrad.rule_program import RuleProgram
from funcgrad.tape import FrozenTape, LeafIndex, Node


@dataclass(frozen=True)
class Ask:
    """A rule that reads an array on the way back.

    Attributes:
      op: the op that the rule pulls back.
      rule: the rule's name and place; who else reads it, if that is no rule.
      operand: what the array is to the op: ``operand 0``, ``output 0``.
      spot: where the op stands.
      step: the step of the way back after which it is not needed here any more.
      through: how the rule gets its value from the array, if it does not read the array itself.
      waits: the memory in which the array waits, if it is another than the device's.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> ledger = funcgrad.inspect.residuals(jnp.tanh, jnp.ones(3))
      >>> [ask] = ledger.residuals[0].asked_by
      >>> print(ask.op, ask.operand)  # the rule of tanh reads its output: ct (1 - out²)
      tanh output 0
    """

    op: str
    rule: str
    operand: str
    spot: Spot
    step: int
    through: str = ""
    waits: str = ""

    def __str__(self) -> str:
        through = f", {self.through}" if self.through else ""
        line = f" at {self.spot.line}" if self.spot.line else ""
        return f"{self.op} ({self.operand}{through}){line}"


@dataclass(frozen=True, eq=False)
class Visit:
    """A node of the tape, as the walk back comes to it.

    Attributes:
      node: the node.
      spot: where the op stands.
      last: the step of the way back with which the visit ends; those of nodes inside come before.
      inner: the walks over the tapes inside, by name.
      times: how often the steps of the loops around are taken; None if that is known only at run time.
    """

    node: Node
    spot: Spot
    last: int
    inner: dict[str, Walk] = field(default_factory=dict)
    times: int | None = 1

    @property
    def op(self) -> str:
        """The op's name."""
        return str(self.node.op).partition(" at ")[0]

    @property
    def function(self) -> str | None:
        """The function that the op calls, ``name at file:line``; None if it calls none by name."""
        return _function_of(self.node)


@dataclass(frozen=True, eq=False)
class Walk:
    """The visits of a tape's nodes, in the order of the way forward."""

    visits: Sequence[Visit]

    @cached_property
    def readers(self) -> dict[int, list[tuple[Visit, int]]]:
        """By leaf of the tape, the nodes that read it, and as which of their residuals."""
        found: dict[int, list[tuple[Visit, int]]] = {}
        for visit in self.visits:
            for i, residual in enumerate(visit.node.residuals):
                if isinstance(residual, LeafIndex):
                    found.setdefault(residual.index, []).append((visit, i))
        return found

    def all(self) -> Iterator[Visit]:
        """All visits, each followed by those inside it."""
        for visit in self.visits:
            yield visit
            for walk in visit.inner.values():
                yield from walk.all()

    def asks(self, leaf: int) -> Iterator[Ask]:
        """Who reads a leaf of the tape."""
        for visit, i in self.readers.get(leaf, ()):
            yield from asks_of(visit, i)


def walk_of(tape: FrozenTape) -> Walk:
    """The walk over a tape; its steps are numbered from 1."""
    return _walked(tape, iter(range(1, 1 << 62)), Spot(), None, 1)


def _walked(
    tape: FrozenTape, steps: Iterator[int], around: Spot, function: str | None, times: int | None
) -> Walk:
    visits = []
    for node in reversed(tape.nodes):
        spot = around.within(node.source, function)
        tapes = node.pullback.inner
        called = _function_of(node)
        more = _times(node, times)
        inner = {
            name: _walked(tapes[name], steps, spot, called, more) for name in reversed([*tapes])
        }
        ends = [walk.visits[0].last for walk in inner.values() if walk.visits]
        visits.append(Visit(node, spot, max(ends) if ends else next(steps), inner, times))
    return Walk(visits[::-1])


def _function_of(node: Node) -> str | None:
    return str(node.op) if " at " in str(node.op) else None


def _times(node: Node, times: int | None) -> int | None:
    if isinstance(node.pullback, WhileProgram):
        return None
    if isinstance(node.pullback, ScanProgram):
        return None if times is None else times * node.pullback.division.length
    return times


# --- who asks for a residual


def asks_of(visit: Visit, i: int) -> Iterator[Ask]:
    """The rules that read residual number `i` of a node."""
    program = visit.node.pullback
    if isinstance(program, RuleProgram):
        rule = program.signature.rule
        kind, k = program.reasons[i]
        yield Ask(visit.op, f"{rule.name} at {rule.source}", f"{kind} {k}", visit.spot, visit.last)
    elif isinstance(program, SplitProgram):
        yield from visit.inner["body"].asks(program.split.leaves[i])
    elif isinstance(program, TangentProgram):
        yield from visit.inner["tangents"].asks(i)
    elif isinstance(program, ShardPullback):
        yield from _until(visit, visit.inner["body"].asks(i))
    elif isinstance(program, (RematProgram, ReplayedProgram, ScanProgram, WhileProgram)):
        yield from _until(visit, _asks_of_plan(visit, i))
    elif isinstance(program, BranchProgram):
        yield from _until(visit, _asks_of_branches(visit, program, i))
    else:
        by = "the user's backward" if isinstance(program, CustomVjpProgram) else "its pullback"
        yield Ask(visit.op, by, f"residual {i}", visit.spot, visit.last)


def _until(visit: Visit, asks: Iterator[Ask]) -> Iterator[Ask]:
    """Asks from inside a call that keeps all its residuals until it ends."""
    return (replace(ask, step=visit.last) for ask in asks)


def _asks_of_plan(visit: Visit, i: int) -> Iterator[Ask]:
    program = visit.node.pullback
    walk = visit.inner["body"]
    if isinstance(program, ReplayedProgram):
        program = program.replay
    if isinstance(program, RematProgram):
        v = program.plan.kept[i]
        moved = program.moved.get(v)
        waits = "" if moved is None else moved.elsewhere
        for ask in asks_of_variable(walk, program.cut, v):
            yield replace(ask, waits=waits or ask.waits)
    elif isinstance(program, ScanProgram):
        kept = [*program.plan.kept, *program.storage.shifted]  # then the ends of shifted carries
        yield from asks_of_variable(walk, program.cut, kept[i])
    elif isinstance(program, WhileProgram):
        yield from _asks_of_while(visit, program, i)


def _asks_of_while(visit: Visit, program: WhileProgram, i: int) -> Iterator[Ask]:
    """See ``WhileProgram.unpack`` for the order of the residuals."""
    walk = visit.inner["body"]
    fixed = [*(program.body.consts[k] for k in program.consts_read), *program.storage.once]
    first_recent = len(fixed) + program.num_marks
    if i < len(fixed):
        yield from asks_of_variable(walk, program.cut, fixed[i])
    elif i >= first_recent:
        yield from asks_of_variable(walk, program.cut, program.storage.stacked[i - first_recent])
    else:
        what = "snapshots of a carry" if i >= len(fixed) + 3 else "the count of steps and snapshots"
        yield Ask(visit.op, "the loop's way back", what, visit.spot, visit.last)


def _asks_of_branches(visit: Visit, program: BranchProgram, i: int) -> Iterator[Ask]:
    if i == 0:
        yield Ask(visit.op, "the switch on the way back", "operand 0", visit.spot, visit.last)
    first_of_pool = 1 + len(program.operands_read)
    for k, branch in enumerate(program.branches):
        walk = visit.inner[f"branch {k}"]
        if 0 < i < first_of_pool:
            v = branch.split.inputs[program.operands_read[i - 1]]
            if v in branch.plan.kept:
                yield from asks_of_variable(walk, branch, v)
        elif i >= first_of_pool:
            places = dict(zip(program.pool_positions(branch), branch.computed, strict=True))
            if i - first_of_pool in places:
                yield from asks_of_variable(walk, branch, places[i - first_of_pool])


def asks_of_variable(walk: Walk, cut: Cut, v: Var) -> Iterator[Ask]:
    """The rules that read a kept variable of a plan, or what is computed from it."""
    leaves = leaves_of(cut)
    for leaf in leaves.get(v, ()):
        yield from walk.asks(leaf)
    for u, through in _derived(cut, v, leaves).items():
        for leaf in leaves[u]:
            yield from (replace(ask, through=through) for ask in walk.asks(leaf))


def leaves_of(cut: Cut) -> dict[Var, list[int]]:
    """By variable of the forward jaxpr, the leaves of the tape that have its value."""
    found: dict[Var, list[int]] = {}
    for leaf, v in zip(cut.split.leaves, cut.split.residual_variables, strict=True):
        if not _jax.is_literal(v):
            found.setdefault(v, []).append(leaf)
    return found


def _derived(cut: Cut, v: Var, leaves: dict[Var, list[int]]) -> dict[Var, str]:
    """The residuals that a kept variable stands for: computed from it again, or it from them."""
    found: dict[Var, str] = {}
    ahead = equations_ahead(cut)
    made = {u: eqn for eqn in ahead for u in eqn.outvars}
    if v in made:
        waiting, name = [v], str(made[v].primitive)
        while waiting:
            for u in variables(made[waiting.pop()].invars):
                if u in leaves:
                    found[u] = f"as the {name} that its rule computes"
                elif u in made:
                    waiting.append(u)
    reached = {v}
    for eqn in cut.plan.replayed:
        if not reached.isdisjoint(variables(eqn.invars)):
            reached.update(eqn.outvars)
    again = [u for u in leaves if u in reached and u is not v]
    return {**dict.fromkeys(again, "computed again from it"), **found}


def equations_ahead(cut: Cut) -> list[Equation]:
    """The equations of rules that depend on no cotangent, which may run before the way back."""
    forward = {id(eqn) for eqn in cut.split.forward.closed.jaxpr.eqns}
    return [eqn for eqn in cut.plan.joint.equations if id(eqn) not in forward]
