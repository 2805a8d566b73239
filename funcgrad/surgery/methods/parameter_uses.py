"""Which operations read a function's parameters, at any depth.

A parameter is followed from the arguments through what only arranges its elements anew (transposes,
reshapes, casts) and into calls. Each operation that reads it otherwise is a *use*.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jax import lax

from funcgrad import _jax
from funcgrad._jax import Var
from funcgrad.places.program import Block, Place, is_entered


@dataclass(frozen=True)
class View:
    """A parameter's elements in some arrangement.

    Attributes:
      leaf: the number of the parameter among the function's leaves.
      shape: the shape, before `axes` are exchanged.
      axes: which axis of `shape` each axis is.
      path: the reshapes that led here; of two views of one leaf with the same path and shape the
        elements have the same order.
      steps: for each scan around, from the outside in, whether the scan goes over the parameter.
    """

    leaf: int
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    path: tuple[Any, ...] = ()
    steps: tuple[bool, ...] = ()

    @classmethod
    def of(cls, leaf: int, shape: Sequence[int], **others: Any) -> View:
        """A parameter as it is."""
        return cls(leaf, tuple(shape), tuple(range(len(shape))), **others)

    def transposed(self, permutation: Sequence[int]) -> View:
        """The view with its axes exchanged."""
        return replace(self, axes=tuple(self.axes[i] for i in permutation))

    def reshaped(self, shape: Sequence[int]) -> View:
        """The view with another shape."""
        path = (*self.path, (self.shape, self.axes))
        return View.of(self.leaf, shape, path=path, steps=self.steps)

    def in_scan(self, over: bool) -> View:
        """The view in a scan, which goes over its first axis or gives it to each step."""
        inner = self.reshaped(self.shape_now[1:]) if over else self
        return replace(inner, steps=(*self.steps, over))

    @property
    def shape_now(self) -> tuple[int, ...]:
        """The shape, as an operation sees it."""
        return tuple(self.shape[axis] for axis in self.axes)


DATA = "data"
"""What depends on other arguments than the parameters."""

Known = dict[Var, Any]
"""Of a variable a view, DATA, or None for what is computed otherwise from parameters alone."""


@dataclass(frozen=True)
class Use:
    """An operation that reads a parameter.

    Attributes:
      place: the operation.
      operand: which of its operands the parameter is.
      view: how the parameter's elements are arranged there.
      others: of its operands, which depend on the data.
      alone: whether no other operand is a parameter.
    """

    place: Place
    operand: int
    view: View
    others: tuple[bool, ...] = ()
    alone: bool = True

    @property
    def is_small(self) -> bool:
        """Whether the parameter's cotangent is at most as large as an activation: the result.

        Copies of a parameter, as a bias has for each position, are as large as what they are added to.
        """
        sizes = [math.prod(aval.shape) for aval in self.place.outputs]
        copied = self.place.op is lax.broadcast_in_dim_p
        return (copied or any(self.others)) and max(sizes) >= math.prod(self.view.shape)


@dataclass
class Uses:
    """All uses of parameters in a program.

    Attributes:
      known: in the order of the program.
      lost: by leaf, the call in words into or out of which the parameter is not followed.
    """

    known: list[Use] = field(default_factory=list)
    lost: dict[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, program: Block, leaves: Mapping[int, Any]) -> Uses:
        """Follow parameters through a program.

        Args:
          program: a traced function.
          leaves: the types of the parameters, by their positions among the function's arguments.
        """
        arguments = program.jaxpr.invars
        known: Known = dict.fromkeys([*program.jaxpr.constvars, *arguments], DATA)
        known.update((arguments[i], View.of(i, aval.shape)) for i, aval in leaves.items())
        uses = cls()
        uses.lose(uses.block(program, known), "the function's result")
        return uses

    def lose(self, found: Sequence[Any], where: str) -> list[Any]:
        """What is known, with data in the place of parameters, which are followed no further."""
        self.lost.update((view.leaf, where) for view in found if isinstance(view, View))
        return [DATA if isinstance(one, View) else one for one in found]

    def block(self, block: Block, known: Known) -> list[Any]:
        """What is known of a block's results, from what is known of what it is given."""
        for i, place in enumerate(block.places):
            operands = [_known(atom, known) for atom in place.equation.invars]
            found = self.place(place, block.inner.get(i, ()), operands)
            known.update(zip(place.equation.outvars, found, strict=True))
        return [_known(atom, known) for atom in block.jaxpr.outvars]

    def place(self, place: Place, blocks: Sequence[Block], operands: Sequence[Any]) -> list[Any]:
        """What is known of an operation's results."""
        if all(map(_jax.is_dropped, place.equation.outvars)):
            return [None] * len(place.outputs)
        views = {i: view for i, view in enumerate(operands) if isinstance(view, View)}
        if blocks and is_entered(place.equation):
            return self.call(place, blocks, operands)
        if len(views) == 1 and DATA not in operands and place.op in ARRANGING:
            (view,) = views.values()
            arranged = ARRANGING[place.op](view, place)
            if arranged is not None:
                return [arranged]
        others = tuple(one == DATA for one in operands)
        self.known += [Use(place, i, view, others, len(views) == 1) for i, view in views.items()]
        return [DATA if any(others) else None] * len(place.outputs)

    def call(self, place: Place, blocks: Sequence[Block], operands: Sequence[Any]) -> list[Any]:
        """What is known of a call's results. Parameters are followed into all but while loops."""
        if place.op is lax.while_p:
            self.lose(operands, str(place))
            return [DATA] * len(place.outputs)
        if place.op is lax.scan_p:
            results = self.block(blocks[0], _given(blocks[0], self.entering_scan(place, operands)))
            return self.leaving(place, results)
        if place.op is lax.cond_p:
            found = [self.block(block, _given(block, operands[1:])) for block in blocks]
            results = [self.leaving(place, of_branch) for of_branch in found]
            return [DATA if DATA in of_each else None for of_each in zip(*results, strict=True)]
        return self.block(blocks[0], _given(blocks[0], operands))

    def leaving(self, place: Place, found: Sequence[Any]) -> list[Any]:
        """What is known of a call's results; those that nothing reads lose no parameter."""
        read = place.block.read_outside([place])
        results = zip(found, place.equation.outvars, strict=True)
        return self.lose([one if v in read else DATA for one, v in results], str(place))

    def entering_scan(self, place: Place, operands: Sequence[Any]) -> list[Any]:
        """What is known in a scan's body of its constants, carries and slices; carries are data."""
        num_consts, num_carry, *_ = _jax.scan_settings(place.params)
        first_slice = num_consts + num_carry
        self.lose(operands[num_consts:first_slice], str(place))
        return [
            one.in_scan(over=i >= first_slice) if isinstance(one, View) else one
            for i, one in enumerate(
                [*operands[:num_consts], *[DATA] * num_carry, *operands[first_slice:]]
            )
        ]


def _known(atom: Any, known: Known) -> Any:
    return None if _jax.is_literal(atom) else known.get(atom)


def _given(block: Block, operands: Sequence[Any]) -> Known:
    """What is known of what a block is given: its constants are data."""
    arguments = zip(block.jaxpr.invars, operands, strict=True)
    return {**dict.fromkeys(block.jaxpr.constvars, DATA), **dict(arguments)}


# --- what only arranges a parameter's elements anew


def _transposed(view: View, place: Place) -> View | None:
    return view.transposed(place.params["permutation"])


def _reshaped(view: View, place: Place) -> View | None:
    return view.reshaped(place.outputs[0].shape)


def _broadcast(view: View, place: Place) -> View | None:
    """New axes of size 1 arrange; larger ones make copies, which are used."""
    (out,) = place.outputs
    return view.reshaped(out.shape) if math.prod(out.shape) == math.prod(view.shape) else None


def _same(view: View, place: Place) -> View | None:
    (before,), (after,) = place.operands, place.outputs
    same_kind = _jax.is_complex(before) == _jax.is_complex(after)
    return view if _jax.is_inexact(after) and same_kind else None


ARRANGING: dict[Any, Callable[[View, Place], View | None]] = {
    lax.transpose_p: _transposed,
    lax.reshape_p: _reshaped,
    lax.squeeze_p: _reshaped,
    lax.broadcast_in_dim_p: _broadcast,
    lax.convert_element_type_p: _same,
    lax.copy_p: _same,
}
