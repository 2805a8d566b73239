"""What can be selected in a function: its name scopes, operations and calls, as a tree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax

from funcgrad.catching import CALL
from funcgrad.places.program import Block, Place, is_entered, program_of
from funcgrad.surface import public

TRANSPARENT = ("jit", "checkpoint", "call")
"""Blocks that are no line of their own in the tree: only what is inside them is."""


@dataclass(frozen=True)
class Places:
    """The places in a function that a selector of :func:`funcgrad.at` can mean; printed, a tree.

    Attributes:
      program: the traced function.
      ops: whether operations are shown, not only scopes, loops and branches.

    Example:
      >>> import jax, jax.numpy as jnp, funcgrad
      >>> def model(x):
      ...     with jax.named_scope("layer"):
      ...         return jnp.sin(x)
      >>> print(funcgrad.inspect.places(model, 1.0, ops=False))
      layer
    """

    program: Block
    ops: bool

    @property
    def scopes(self) -> list[str]:
        """All name scopes, in the order of the program."""
        return list(dict.fromkeys(p.scope for p in self.program.walk() if p.scope))

    def __iter__(self) -> Iterator[Place]:
        return self.program.walk()

    def __str__(self) -> str:
        rows = [*self._rows()]
        width = max((len(left) for left, *_ in rows), default=0)
        middle = max((len(types) for _, types, _ in rows), default=0)
        lines = [f"{a:<{width}}  {b:<{middle}}  {c}".rstrip() for a, b, c in rows]
        return "\n".join(lines)

    __repr__ = __str__

    def _rows(self) -> Iterator[tuple[str, str, str]]:
        """The rows of the tree: name, types, place in the source."""
        shown: tuple[Any, ...] = ()
        for place in self.program.walk():
            if place.sealed is not None:
                continue
            path = segments(place)
            common = _common(shown, path)
            for depth in range(common, len(path)):
                yield "  " * depth + path[depth][1], "", ""
            shown = path
            name = f" {place.name!r}" if place.name else ""
            if self.ops and (not is_entered(place.equation)):
                types = ", ".join(aval.str_short(short_dtypes=True) for aval in place.outputs)
                yield "  " * len(path) + str(place.op) + name, types, _short(place.where)


def segments(place: Place) -> tuple[tuple[Any, str], ...]:
    """The way from the function to a place: scopes, loops and branches, with what each is known by."""
    found: list[tuple[Any, str]] = []
    depth = 0
    for around in (*place.calls, place):
        found += [
            (id(scope), scope.name)
            for scope in around.scopes[depth:]
            if not scope.name.startswith(CALL)
        ]
        depth = len(around.scopes)
        if around is not place:
            kind = _kind_inside(around, place)
            if kind not in TRANSPARENT:
                found.append(((id(around), kind), _title(around, kind)))
    return tuple(found)


def _kind_inside(call: Place, place: Place) -> str:
    block = place.block
    while block.call is not call:
        assert block.call is not None
        block = block.call.block
    return block.kind


def _title(call: Place, kind: str) -> str:
    return f"<scan of {call.params['length']} steps>" if kind == "scan" else f"<{kind}>"


def _common(one: tuple[Any, ...], other: tuple[Any, ...]) -> int:
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a[0] != b[0]), min(len(one), len(other)))


def _short(where: str | None) -> str:
    """A place in the source by the file's name, without its folders."""
    return "" if where is None else where.rsplit("/", 1)[-1]


@public
def places(fun: Callable[..., Any], *args: Any, ops: bool = True) -> Places:
    """Return the places in a function that can be tapped, edited, or given a rule of their own.

    Args:
      fun: a function of pytrees of arrays; it is traced, not run.
      *args: its arguments, or ``jax.ShapeDtypeStruct`` in their place.
      ops: show operations, not only scopes, loops and branches.

    Returns:
      :class:`Places`, which prints as a tree by scope, with types and lines, and iterates over its
      places.

    Example:
      >>> import jax, jax.numpy as jnp, funcgrad
      >>> def model(w, x):
      ...     with jax.named_scope("layer"):
      ...         h = jnp.tanh(w @ x)
      ...     return jnp.sum(h**2)
      >>> args = jnp.ones((2, 3)), jnp.ones(3)
      >>> print(funcgrad.inspect.places(model, *args, ops=False))
      layer
      >>> [str(place.op) for place in funcgrad.inspect.places(model, *args) if place.scope == "layer"]
      ['dot_general', 'tanh']
    """
    return Places(program_of(jax.make_jaxpr(fun)(*args)), ops)
