"""A traced function as a list of places: its operations, at any depth, with where each stands."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from jax import lax

from funcgrad import _jax
from funcgrad._jax import Atom, Aval, Equation, Jaxpr, Primitive, Value, Var
from funcgrad.catching import CALL


@dataclass(frozen=True, eq=False)
class Place:
    """One operation of a traced function, and where it stands.

    Attributes:
      equation: the operation, with its operands and results.
      block: the jaxpr that it stands in.
      position: its number among all operations of the function.
      scopes: the name scopes around it, from the outside in, those around its block included.
    """

    equation: Equation
    block: Block
    position: int
    scopes: tuple[Any, ...]

    @property
    def op(self) -> Primitive:
        """The primitive."""
        return self.equation.primitive

    @property
    def params(self) -> dict[str, Any]:
        """The operation's static parameters."""
        return self.equation.params

    @property
    def scope(self) -> str:
        """The name scopes around the operation: ``encoder/layer_0``."""
        return "/".join(scope.name for scope in self.scopes if not scope.name.startswith(CALL))

    @property
    def name(self) -> str | None:
        """The name that ``jax.ad_checkpoint.checkpoint_name`` gave to the value; None without one."""
        return self.params["name"] if self.op is _jax.checkpoint_name_p else None

    @property
    def function(self) -> str | None:
        """The function that the operation calls, ``name at file:line``; None if it calls none."""
        return _jax.called_function(self.equation)

    @property
    def operands(self) -> list[Aval]:
        """The types of the operands."""
        return [v.aval for v in self.equation.invars]

    @property
    def outputs(self) -> list[Aval]:
        """The types of the results."""
        return [v.aval for v in self.equation.outvars]

    @property
    def where(self) -> str | None:
        """``file:line (function)`` of the operation in the user's source."""
        return _jax.where(self.equation.source_info)

    @property
    def in_brackets(self) -> str:
        """That in brackets, after a space; empty where no line of the user's is known."""
        return f" ({self.where})" if self.where else ""

    @cached_property
    def frames(self) -> list[_jax.Frame]:
        """The user's frames around the operation, from the inside out."""
        return _jax.user_frames(self.equation.source_info)

    @property
    def lines(self) -> list[tuple[str, int, str]]:
        """File, line and function of each of these."""
        return [(frame.file, frame.span[0], frame.function) for frame in self.frames]

    @property
    def reads(self) -> list[Var]:
        """The variables that the operation reads."""
        return _jax.variables(self.equation.invars)

    @property
    def calls(self) -> list[Place]:
        """The calls around the operation, from the outside in."""
        return [] if self.block.call is None else [*self.block.call.calls, self.block.call]

    @property
    def sealed(self) -> Place | None:
        """The call around the operation that is not entered; None if all are."""
        return next((call for call in self.calls if not is_entered(call.equation)), None)

    def __str__(self) -> str:
        scope = f"{self.scope}: " if self.scope else ""
        types = ", ".join(aval.str_short() for aval in self.outputs)
        return f"{scope}{self.op} -> {types}{self.in_brackets}"

    __repr__ = __str__


@dataclass(frozen=True, eq=False)
class Block:
    """A jaxpr of a traced function: the function itself, or one that an operation carries.

    Attributes:
      jaxpr: the equations.
      consts: the values of the jaxpr's constants.
      call: the operation that carries the jaxpr; None for the function itself.
      kind: what the operation does with the jaxpr: ``"scan"``, ``"branch 1"``.
      places: the places in it.
      inner: the blocks of each of its places that carries jaxprs, by the place's index.
      tests: the conditions of while loops, likewise; they are not differentiated.
    """

    jaxpr: Jaxpr
    consts: Sequence[Value]
    call: Place | None = None
    kind: str = ""
    places: list[Place] = field(default_factory=list)
    inner: dict[int, list[Block]] = field(default_factory=dict)
    tests: dict[int, Block] = field(default_factory=dict)

    def walk(self) -> Iterator[Place]:
        """All places, each followed by those inside it."""
        for i, place in enumerate(self.places):
            yield place
            for block in self.inner.get(i, ()):
                yield from block.walk()

    @property
    def given(self) -> list[Var]:
        """The variables that no place of the block computes: its constants and arguments."""
        return [*self.jaxpr.constvars, *self.jaxpr.invars]

    @property
    def axes(self) -> tuple[str, ...]:
        """What the leading axes of a tapped value of the block count, from the outside in.

        ``"step"`` for each scan around it, ``"device"`` for a shard_map.
        """
        around = () if self.call is None else self.call.block.axes
        own = {"scan": ("step",), SHARDS: ("device",)}
        return (*around, *own.get(self.kind, ()))

    @property
    def variables(self) -> list[Var]:
        """All variables of the block: those that are given and those that its places compute."""
        return [*self.given, *(v for place in self.places for v in place.equation.outvars)]

    @property
    def uses(self) -> Iterator[tuple[Place | Block, Sequence[Atom]]]:
        """What reads values of the block: its places, and the block itself, which returns some."""
        for place in self.places:
            yield place, place.equation.invars
        yield self, self.jaxpr.outvars

    def leaving(self, places: Iterable[Place]) -> tuple[Var, ...]:
        """The values that some of the block's places compute and others read, or that leave the block.

        If some of them are floating-point, only those: the others are indices and masks.
        """
        found = self.read_outside(places)
        return tuple(v for v in found if _jax.is_inexact(v.aval)) or found

    def read_outside(self, places: Iterable[Place]) -> tuple[Var, ...]:
        """All values that some of the block's places compute, and others read or the block returns."""
        own = self._own(places)
        returned = set(_jax.variables(self.jaxpr.outvars))
        return tuple(
            v
            for place in own.values()
            for v in place.equation.outvars
            if v in returned or any(p.position not in own for p in self.readers.get(v, ()))
        )

    def entering(self, places: Iterable[Place]) -> tuple[Var, ...]:
        """The values that some of the block's places read and none of them computes, in that order."""
        own = self._own(places).values()
        made = {v for place in own for v in place.equation.outvars}
        return tuple(dict.fromkeys(v for place in own for v in place.reads if v not in made))

    @cached_property
    def readers(self) -> dict[Var, list[Place]]:
        """By variable, the block's places that read it."""
        found: dict[Var, list[Place]] = {}
        for place in self.places:
            for v in dict.fromkeys(place.reads):
                found.setdefault(v, []).append(place)
        return found

    @cached_property
    def makers(self) -> dict[Var, Place]:
        """By variable, the block's place that computes it."""
        return {v: place for place in self.places for v in place.equation.outvars}

    def inner_of(self, place: Place) -> list[Block]:
        """The blocks of the functions that one of the block's places carries."""
        index = bisect_left(self.places, place.position, key=lambda other: other.position)
        return self.inner.get(index, [])

    def _own(self, places: Iterable[Place]) -> dict[int, Place]:
        """Those of some places that stand in the block, by position, in the order of the program."""
        return {p.position: p for p in sorted(places, key=lambda p: p.position) if p.block is self}

    @property
    def operands(self) -> list[Any]:
        """The operands of the call that the block's arguments begin as, in their order."""
        assert self.call is not None
        operands = self.call.equation.invars
        return [operands[i] for i in operands_entering(self.kind, self.call.params, len(operands))]


def operands_entering(kind: str, params: Mapping[str, Any], count: int) -> list[int]:
    """Which of a call's `count` operands the arguments of a jaxpr begin as that it carries."""
    if kind.startswith("branch"):
        return [*range(1, count)]
    num_tests = params.get("cond_nconsts", 0)
    if kind == TEST:
        return [*range(num_tests), *range(num_tests + params["body_nconsts"], count)]
    return [*range(num_tests, count)]


SHARDS = "shard_map"
"""The kind of what a shard_map runs on each device."""

TEST = "test"
"""The kind of a while loop's condition."""


Carried = Callable[[dict[str, Any]], Sequence[tuple[str, Any]]]
"""From an operation's params, the jaxprs that it carries, each with its kind."""


def _branches(params: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(f"branch {i}", branch) for i, branch in enumerate(params["branches"])]


ENTERED: dict[Primitive, Carried] = {
    _jax.jit_p: lambda params: [("jit", params["jaxpr"])],
    _jax.remat_p: lambda params: [("checkpoint", params["jaxpr"])],
    lax.scan_p: lambda params: [("scan", params["jaxpr"])],
    lax.while_p: lambda params: [("while", params["body_jaxpr"])],
    lax.cond_p: _branches,
    **{call: lambda params: [("call", params["call_jaxpr"])] for call in _jax.PLAIN_CALLS},
}
"""The calls whose functions can be tapped and edited inside."""


def is_entered(eqn: Equation) -> bool:
    """Whether a call's function can be tapped and edited inside."""
    return eqn.primitive in ENTERED and not is_vmapped_loop(eqn)


def is_vmapped_loop(eqn: Equation) -> bool:
    """Whether an operation is a while loop whose examples end at different steps.

    Where an example has ended, its last step computes what the function does not return.
    """
    return eqn.primitive is lax.while_p and bool(eqn.params["cond_jaxpr"].out_avals[0].shape)


def carried(eqn: Equation) -> Sequence[tuple[str, Any]]:
    """The jaxprs that an equation carries, each with its kind."""
    known = ENTERED.get(eqn.primitive)
    if known is not None:
        return known(eqn.params)
    return [(str(eqn.primitive), jaxpr) for jaxpr in _jax.inner_jaxprs(eqn.params)]


def program_of(closed: Any) -> Block:
    """All places of a traced function."""
    count = iter(range(1 << 62))

    def fill(block: Block, scopes: tuple[Any, ...]) -> Block:
        for i, eqn in enumerate(block.jaxpr.eqns):
            around = (*scopes, *_jax.scopes_of_equation(eqn))
            place = Place(eqn, block, next(count), around)
            block.places.append(place)
            blocks = [fill(block_of(jaxpr, place, kind), around) for kind, jaxpr in carried(eqn)]
            if blocks:
                block.inner[i] = blocks
            if eqn.primitive is lax.while_p:
                block.tests[i] = fill(block_of(eqn.params["cond_jaxpr"], place, TEST), around)
        return block

    return fill(Block(closed.jaxpr, closed.consts), ())


def block_of(jaxpr: Any, call: Place, kind: str) -> Block:
    """The block, still without places, of a jaxpr that an operation carries."""
    closed = _jax.close(jaxpr)
    return Block(closed.jaxpr, closed.consts, call, kind)
