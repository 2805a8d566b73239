"""The operations of a graph as a tree of groups: calls, name scopes, and runs of operations.

A group is what a picture draws as one box. The groups of a graph are runs of its operations in the order
in which they run, so that a picture of groups has no circles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import Any

from funcgrad import _jax
from funcgrad.catching import CALL
from funcgrad.inspect.graphs.drawing.same import is_transparent
from funcgrad.inspect.graphs.nodes import Graph, OpNode


@dataclass(eq=False)
class Group:
    """Operations that are drawn as one box, or in a frame.

    Attributes:
      name: the function's or the scope's.
      kind: ``"function"``, ``"scope"``, ``"operations"`` or what a call does: ``"jit"``, ``"scan"``.
      items: operations and groups, in the order in which they run.
      calls: the operations that the group stands for, from the outside in; empty for a scope.
      graph: the graph whose values are inside the group and nowhere else; None if they are the values
        outside.
      sealed: whether the last call is drawn as one operation that has a picture of its own.
      opened: calls around everything inside the group, which its picture does not draw apart.
    """

    name: str
    kind: str
    items: list[Item]
    calls: list[OpNode] = field(default_factory=list)
    graph: Graph | None = None
    sealed: bool = False
    opened: list[OpNode] = field(default_factory=list)

    @cached_property
    def size(self) -> int:
        """How many operations it has, at any depth, without the calls that hold others."""
        return sum(map(size, self.items))

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name}: {self.size} operations>"


Item = OpNode | Group


def leaves(item: Item) -> Iterator[OpNode]:
    """The operations that an item is among the values around it: a sealed call is one."""
    if isinstance(item, OpNode):
        yield item
    elif item.sealed:
        yield item.calls[-1]
    else:
        for inner in item.items:
            yield from leaves(inner)


def size(item: Item) -> int:
    """How many operations an item has, at any depth, without the calls that hold others."""
    return 1 if isinstance(item, OpNode) else item.size


def tree(graph: Graph) -> Group:
    """The groups of a graph: its calls and scopes."""
    return _opened(Group(graph.name, graph.kind, _scoped(graph.nodes, 0), graph=graph))


def _opened(group: Group) -> Group:
    """A group that holds one other group, as a group of what is inside that."""
    while len(group.items) == 1 and isinstance(group.items[0], Group) and not group.items[0].sealed:
        group.opened += group.items[0].calls
        group.items = group.items[0].items
    return group


def _scoped(nodes: Sequence[OpNode], depth: int) -> list[Item]:
    """Operations as items, by the name scopes below the first ones.

    An entry of a scope is an object of its own: a scope that is entered twice makes two groups.
    """
    found: list[Item] = []
    for _, run in groupby(
        nodes, lambda node: id(_scope(node, depth)) if _scope(node, depth) else 0
    ):
        inside = [*run]
        scope = _scope(inside[0], depth)
        if scope is None:
            found += [_call(node) if node.graphs else node for node in inside]
        elif scope.name.startswith(CALL):
            found += _scoped(inside, depth + 1)
        else:
            found.append(_joined(Group(scope.name, "scope", _scoped(inside, depth + 1))))
    return found


def _scope(node: OpNode, depth: int) -> Any:
    scopes = node.place.scopes
    return scopes[depth] if depth < len(scopes) else None


def _call(node: OpNode) -> Group:
    """The group of an operation that carries functions."""
    depth = len(node.place.scopes)
    name = _name(node)
    bodies = [Group(inner.kind, inner.kind, _scoped(inner.nodes, depth)) for inner in node.graphs]
    if is_transparent(node):
        return _joined(Group(name, bodies[0].kind, bodies[0].items, [node]))
    if len(bodies) == 1:
        kind, items = bodies[0].kind, bodies[0].items
        return _opened(Group(name, kind, items, [node], node.graphs[0], sealed=True))
    for body, inner in zip(bodies, node.graphs, strict=True):
        body.graph = inner
    return Group(name, node.op.name, [*map(_opened, bodies)], [node], sealed=True)


BODY = {"scan": "jaxpr", "while": "body_jaxpr"}
"""Of a loop, the param that is the function that it repeats."""


def _name(node: OpNode) -> str:
    """The name of the function that an operation calls, or repeats."""
    called = node.function
    if called is None and node.op.name in BODY:
        called = _jax.function_of(node.params[BODY[node.op.name]])
    unnamed = node.graphs[0].kind if len(node.graphs) == 1 else node.op.name
    return (called or unnamed).split(" at ")[0].lstrip("_") or unnamed


def _joined(group: Group) -> Group:
    """A group that holds one other group is one with it: ``relu`` of ``relu``."""
    inner = group.items[0] if len(group.items) == 1 else None
    if not isinstance(inner, Group):
        return group
    names = [group.name] if inner.name == group.name else [group.name, inner.name]
    kind = inner.kind if inner.sealed or group.kind == "scope" else group.kind
    return replace(inner, name="/".join(names), kind=kind, calls=[*group.calls, *inner.calls])
