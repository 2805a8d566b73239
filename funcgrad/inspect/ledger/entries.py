"""The entries of the ledger: arrays that are kept for the way back, and those that are not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from funcgrad import _jax
from funcgrad._jax import Aval, Equation, Var, variables
from funcgrad.calls.checkpoint import RematProgram
from funcgrad.calls.cond import BranchProgram
from funcgrad.calls.loop_body import LoopProgram
from funcgrad.calls.replayed import ReplayedProgram
from funcgrad.calls.scan import ScanProgram
from funcgrad.inspect.ledger.flat import Flat, OperationsAgain, maker_of, op_of
from funcgrad.inspect.ledger.walk import Ask, Visit, Walk, leaves_of
from funcgrad.partition.costs import operations
from funcgrad.partition.cut import Cut
from funcgrad.printing import size_of

KEPT, ARGUMENT, CONSTANT = "kept", "argument", "constant"
OFFLOADED, RECOMPUTED, PUT_OFF = "offloaded", "recomputed", "put off"
"""What happens to an array that a rule reads; see :class:`Residual`."""


@dataclass(frozen=True)
class Residual:
    """One array that rules read on the way back.

    Attributes:
      status: ``"kept"``; ``"argument"`` or ``"constant"``, kept but alive anyway; ``"offloaded"`` to
        another memory; ``"recomputed"``, not kept; or ``"put off"``, made on the way back by a scan and
        kept until the sum over its steps, which follows the scan.
      shape: its shape, steps included.
      dtype: its dtype.
      bytes: of the whole array, over all devices and steps; of what a while loop computes again, those
        of one step.
      bytes_per_device: the bytes that each device has of it.
      asked_by: the rules that read it.
      name: of an argument, its name: ``params['w']``.
      op: the operation that made it.
      where: ``file:line (function)`` of that operation.
      scope: the name scopes around that operation.
      steps: of how many steps of a scan it holds values.
      freed: the step of the way back after which no rule needs it; None for one that is alive anyway.
      other_bytes: how many bytes more the other choice would keep: negative for a kept array.
      other_operations: about how many operations more the other choice would take; not a number if that
        depends on the length of a while loop.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> ledger = funcgrad.inspect.residuals(lambda w, x: jnp.tanh(w * x), jnp.ones(3), jnp.ones(3))
      >>> for residual in ledger.residuals:
      ...     print(residual.status, residual.name or residual.op, residual.shape, residual.bytes)
      argument w (3,) 12
      argument x (3,) 12
      kept tanh (3,) 12
    """

    status: str
    shape: tuple[int, ...]
    dtype: Any
    bytes: int
    bytes_per_device: int
    asked_by: tuple[Ask, ...]
    name: str = ""
    op: str = ""
    where: str | None = None
    scope: str = ""
    steps: int | None = None
    freed: int | None = None
    other_bytes: int = 0
    other_operations: float = 0.0

    @property
    def bytes_per_step(self) -> int:
        """The bytes of one step of a scan; all bytes of an array of no scan."""
        return self.bytes // max(1, self.steps or 1)

    @property
    def type(self) -> str:
        """Its dtype and shape: ``float32[8,128]``."""
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"

    @property
    def otherwise(self) -> str:
        """The other choice, in words."""
        more = f"{abs(self.other_operations):.2g} operations"
        if math.isnan(self.other_operations):
            more = "the steps of a while loop"
        if self.status == KEPT:
            return f"again: {more}"
        if self.status == RECOMPUTED:
            return f"keep: {self.other_bytes:,} B, {more} fewer"
        if self.status == OFFLOADED:
            return f"keep on the device: {self.other_bytes:,} B; again: {more}"
        if self.status == PUT_OFF:
            return f"in the loop: {self.other_operations:.2g} additions"
        return ""


# --- arrays that are kept


def kept_arrays(
    flat: Flat, walk: Walk, names: Sequence[str], shardings: Sequence[Any] | None
) -> list[Residual]:
    """The arrays that a pullback keeps, the results of its forward program; each once.

    Args:
      flat: the forward program.
      walk: the way back, whose leaves they are.
      names: of the program's inputs.
      shardings: of the results, where they are known.
    """
    leaves: dict[Var, list[int]] = {}
    numbers: list[Residual] = []
    for leaf, v in enumerate(flat.results):
        if _jax.is_literal(v):
            numbers.append(_entry(CONSTANT, v.aval, tuple(walk.asks(leaf))))
        else:
            leaves.setdefault(v, []).append(leaf)
    name_of = dict(zip(flat.inputs, names, strict=True))
    kept = [v for v in leaves if v in flat.producer]
    again = OperationsAgain(flat, kept)
    found: list[Residual] = []
    for v, places in leaves.items():
        asks = tuple(dict.fromkeys(ask for leaf in places for ask in walk.asks(leaf)))
        if v in flat.producer:
            entry = replace(_made(v, flat, asks), other_operations=again(v))
        elif v in name_of:
            entry = replace(_entry(ARGUMENT, v.aval, asks), name=name_of[v])
        else:
            entry = _entry(CONSTANT, v.aval, asks)
        if shardings is not None:
            local = shardings[places[0]].shard_shape(entry.shape)
            entry = replace(entry, bytes_per_device=math.prod(local) * entry.dtype.itemsize)
        found.append(entry)
    return [*found, *numbers]


def _made(v: Var, flat: Flat, asks: tuple[Ask, ...]) -> Residual:
    """The entry of an array that the way forward makes."""
    maker = maker_of(v, flat)
    status = OFFLOADED if any(ask.waits for ask in asks) else KEPT
    entry = _entry(status, v.aval, asks)
    return replace(
        entry,
        op=maker.op,
        where=maker.spot.where,
        scope=maker.spot.scope,
        steps=maker.steps,
        freed=max((ask.step for ask in asks), default=None),
        other_bytes=entry.bytes if status == OFFLOADED else -entry.bytes,
    )


def _entry(status: str, aval: Any, asks: tuple[Ask, ...]) -> Residual:
    """The entry of an array of which nothing is known but its type, and who reads it."""
    total = size_of(aval)
    return Residual(status, aval.shape, aval.dtype, total, total, asks)


# --- arrays that are not kept


def other_arrays(walk: Walk) -> Iterator[Residual]:
    """The arrays that rules read and nobody keeps: those computed again, and those put off."""
    for visit in walk.all():
        program = visit.node.pullback
        if isinstance(program, ReplayedProgram):
            program = program.replay
        if isinstance(program, RematProgram):
            yield from _recomputed(visit, "body", program.cut, visit.times)
        elif isinstance(program, LoopProgram):
            yield from _recomputed(visit, "body", program.cut, _steps_inside(visit))
        elif isinstance(program, BranchProgram):
            for i, branch in enumerate(program.branches):
                yield from _recomputed(visit, f"branch {i}", branch, visit.times)
        if isinstance(program, ScanProgram):
            yield from _put_off(visit, program)


def _steps_inside(visit: Visit) -> int | None:
    walk = visit.inner["body"]
    return walk.visits[0].times if walk.visits else visit.times


def _recomputed(visit: Visit, name: str, cut: Cut, times: int | None) -> Iterator[Residual]:
    """The residuals of a call that its plan computes again."""
    walk, kept = visit.inner[name], {*cut.plan.kept, *cut.plan.joint.constants, *cut.split.inputs}
    producer = {v: eqn for eqn in cut.plan.joint.repeatable for v in eqn.outvars}
    for v, leaves in leaves_of(cut).items():
        if v in kept or v not in producer:
            continue
        asks = tuple(dict.fromkeys(ask for leaf in leaves for ask in walk.asks(leaf)))
        asks = tuple(replace(ask, step=visit.last) for ask in asks)
        entry = _not_kept(RECOMPUTED, v.aval, producer[v], visit, asks, times)
        cost = operations([producer[v]]) * (times or 1)
        yield replace(entry, other_bytes=entry.bytes, other_operations=-cost)


def _not_kept(
    status: str, aval: Aval, eqn: Equation, visit: Visit, asks: tuple[Ask, ...], times: int | None
) -> Residual:
    """The entry of an array that an equation in a call makes, `times` times; once if that is unknown."""
    spot = visit.spot.within(eqn.source_info, visit.function)
    entry, count = _entry(status, aval, asks), 1 if times is None else times
    return replace(
        entry,
        shape=entry.shape if count == 1 else (count, *entry.shape),
        bytes=entry.bytes * count,
        bytes_per_device=entry.bytes * count,
        op=op_of(eqn),
        where=spot.where,
        scope=spot.scope,
        steps=None if count == 1 else count,
    )


def _put_off(visit: Visit, program: ScanProgram) -> Iterator[Residual]:
    """What a backward scan stacks for sums that follow it, if every cotangent arrives."""
    sums = program.deferral(program.cut.split.present)
    equations = (*sums.plan.joint.equations, *sums.plan.joint.backward)
    made = {v: eqn for eqn in equations for v in eqn.outvars}
    for v in sums.stacked:
        terms = [t for s in sums.sums if s for t in s.late if v in variables(t.operands)]
        asks = tuple(
            Ask(_pulled_back(term.eqn), "a sum over the steps", "factor", visit.spot, visit.last)
            for term in terms
        )
        # loops around this one use the memory again
        eqn = made.get(v, terms[0].eqn)
        entry = _not_kept(PUT_OFF, v.aval, eqn, visit, asks, program.division.length)
        if v not in made:  # the cotangent of a carry: the step that follows has made it
            entry = replace(entry, op=str(visit.node.op))
        additions = sum(math.prod(_jax.type_of(term.result).shape) for term in terms)
        more = float(additions * program.division.length * (visit.times or 1))
        entry = replace(entry, freed=visit.last)
        yield replace(entry, other_bytes=-entry.bytes, other_operations=more)


def _pulled_back(eqn: Equation) -> str:
    return _jax.pulled_back_op(eqn.source_info) or str(eqn.primitive)
