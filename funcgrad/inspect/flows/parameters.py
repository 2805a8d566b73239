"""Which layer a parameter belongs to: the one that reads it, found in the traced function."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from jax import lax

from funcgrad import _jax
from funcgrad._jax import Var
from funcgrad.calls.scan import ScanSettings
from funcgrad.inspect.flows.layers import Group, in_order, is_measured, shape_of
from funcgrad.places.program import Block, Place, is_entered

SAME = {lax.convert_element_type_p, lax.copy_p}
"""Operations that leave the axes of a parameter where they are."""


@dataclass(frozen=True)
class Parameter:
    """A parameter, and the rows that its gradient is shown in.

    Attributes:
      name: where it stands in the arguments: ``params['w']``.
      leaf: its number among the leaves.
      shape: its shape.
      steps: how many of its leading axes are steps of scans, of which each is a row.
    """

    name: str
    leaf: int
    shape: tuple[int, ...]
    steps: int

    @property
    def size(self) -> int:
        """How many elements belong to each row."""
        return math.prod(self.shape[self.steps :])


@dataclass(frozen=True, eq=False)
class Read:
    """An operation that reads a parameter, or what is computed of it alone before any layer.

    Attributes:
      place: the operation.
      group: the layer; None outside all layers.
      steps: the scans that give it a slice in each step, from the outside in.
      shared: the loops that give it the whole parameter in each step.
    """

    place: Place
    group: Group | None
    steps: tuple[Place, ...]
    shared: tuple[Place, ...]


@dataclass(frozen=True, eq=False)
class Reader:
    """Finds what reads a parameter, from the layer of each operation."""

    layer_of: dict[Place, Group] = field(default_factory=dict)

    @classmethod
    def of(cls, groups: Sequence[Group]) -> Reader:
        """An operation in several layers belongs to the innermost, the one of fewest operations."""
        sites = [(group, group.site.places) for group in groups if group.site is not None]
        sites.sort(key=lambda both: -len(both[1]))
        return cls({place: group for group, places in sites for place in places})

    def reads(
        self,
        block: Block,
        v: Var,
        steps: tuple[Place, ...] = (),
        shared: tuple[Place, ...] = (),
        moved: bool = False,
    ) -> Iterator[Read]:
        """What reads a variable, inside calls too; `moved` says that its axes are no longer its own."""
        for place in block.readers.get(v, ()):
            group = self.layer_of.get(place)
            if is_entered(place.equation):
                for inner, argument, kind in _entering(place, v):
                    sliced = kind == "steps" and not moved
                    more = (place,) if kind else ()
                    yield from self.reads(
                        inner,
                        argument,
                        (*steps, *(more if sliced else ())),
                        (*shared, *(() if sliced else more)),
                        moved,
                    )
            elif group is None and _is_of_one(place):
                moving = moved or place.op not in SAME
                for out in place.equation.outvars:
                    yield from self.reads(block, out, steps, shared, moving)
            else:
                yield Read(place, group, steps, shared)


def _is_of_one(place: Place) -> bool:
    """Whether an operation computes one value of one other, as a cast or a transposition does."""
    return len(place.reads) == 1 and len(place.equation.outvars) == 1


def _entering(call: Place, v: Var) -> Iterator[tuple[Block, Var, str]]:
    """The arguments of a call's functions that begin as a variable, and whether a loop slices it."""
    for inner in call.block.inner_of(call):
        for i, (operand, argument) in enumerate(
            zip(inner.operands, inner.jaxpr.invars, strict=True)
        ):
            if operand is v:
                yield inner, argument, _kind(call, i)


def _kind(call: Place, position: int) -> str:
    """What a loop does with an operand: gives each step a slice or the whole; empty for other calls."""
    if call.op is lax.scan_p:
        settings = ScanSettings(*_jax.scan_settings(call.params))
        return "steps" if position >= settings.num_consts + settings.num_carry else "whole"
    return "whole" if call.op is lax.while_p else ""


def parameters_of(
    program: Block, groups: Sequence[Group], names: Sequence[str]
) -> tuple[list[Group], dict[Group, list[Parameter]]]:
    """The groups, with one more for each parameter that belongs to no layer, and their parameters."""
    reader = Reader.of(groups)
    found: dict[Group, list[Parameter]] = {}
    added = []
    for leaf, (v, name) in enumerate(zip(program.jaxpr.invars, names, strict=True)):
        if not is_measured(v.aval):
            continue
        reads = sorted(reader.reads(program, v), key=lambda read: read.place.position)
        group, why = _owner(reads)
        if group is None:
            group = Group(f"{name} ({why})", "", None, _position(reads))
            added.append(group)
        own = Parameter(name, leaf, shape_of(v), len(group.lengths))
        found.setdefault(group, []).append(own)
    return in_order([*groups, *added]), found


def _position(reads: Sequence[Read]) -> float:
    """Before the first operation that reads a parameter, or the loop around that; at the end if none."""
    return min(p.position - 0.5 for p in (*reads[0].shared, reads[0].place)) if reads else math.inf


def _owner(reads: Sequence[Read]) -> tuple[Group | None, str]:
    """The only layer that reads a parameter, or else why there is none."""
    if not reads:
        return None, "never read"
    by: list[Any] = list(dict.fromkeys(read.group for read in reads if read.group is not None))
    if not by:
        return None, "read outside all layers"
    if len(by) > 1:
        return None, f"read by {len(by)} layers"
    (group,) = by
    loops = {call for call in _calls(group) if call.op in (lax.scan_p, lax.while_p)}
    own = [read for read in reads if read.group is group]
    if any(loops.intersection(read.shared) for read in own):
        return None, "read in each step of a loop"
    if any(not loops.issubset(read.steps) for read in own):
        return None, "read in each step of a loop"
    return group, ""


def _calls(group: Group) -> list[Place]:
    assert group.site is not None
    call = group.site.block.call
    return [] if call is None else [*call.calls, call]
