"""A graph as a tree of views: pictures of at most some sixty nodes, each of which leads to others.

A view draws operations, groups of operations and the values between them. A small group, and one that is
most of the view, is drawn in place, in a frame. Any other group is one box, and has a view of its own.
Where a level has too many operations, consecutive ones are groups. An argument is drawn in the view in
which it is read: a layer's weights are inside the layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TypeGuard

from funcgrad.inspect.graphs.drawing.groups import Group, Item, leaves, size, tree
from funcgrad.inspect.graphs.drawing.parts import PARTED, in_parts
from funcgrad.inspect.graphs.drawing.same import Value, values_of
from funcgrad.inspect.graphs.nodes import Graph, OpNode, TensorNode

LIMIT = 60
"""How many nodes a view has at most."""

SMALL = 8
"""How many operations a group has at most that is drawn in place."""

ROOMY = 50
"""Up to how many nodes a view may grow by groups that are drawn in place."""

PARTS = 16
"""Into how many groups of consecutive operations a view that is too large is parted at most."""

PART = 10
"""How many items such a group has, if these are not too many groups."""

ALIKE = 3
"""Of how many values that lead from and to the same nodes at most each is drawn."""


@dataclass(eq=False)
class Shown:
    """A value in a view, or several that lead from and to the same nodes.

    Attributes:
      values: the values.
      maker: the item that makes them; None if none in the view does.
      readers: the items that read them.
      is_entering: whether another view makes them or gives them.
      is_leaving: whether another view reads them.
    """

    values: list[Value]
    maker: Item | None
    readers: list[Item]
    is_entering: bool
    is_leaving: bool

    @property
    def key(self) -> str:
        """The node's name in the picture: ``t3``."""
        return f"t{self.values[0].tensor.index}"

    @property
    def ends(self) -> object:
        """Equal for values that lead from and to the same nodes."""
        kind = (
            self.is_entering,
            self.is_leaving,
            self.values[0].is_given,
            self.values[0].is_result,
        )
        return (self.maker, *self.readers, *kind)


@dataclass(frozen=True)
class Edge:
    """From a value to an item that reads it, or from an item to a value that it makes.

    Attributes:
      source: where the value comes from.
      target: where it goes.
      operand: which operand it is, if the target is an operation.
      is_back: whether a cotangent comes back.
    """

    source: str
    target: str
    operand: int | None
    is_back: bool


@dataclass(eq=False)
class Frame:
    """A group that is drawn in place."""

    group: Group
    items: list[Item | Frame]


@dataclass(eq=False)
class View:
    """One picture of a part of a graph.

    Attributes:
      index: the view's number.
      group: the operations that it draws.
      parent: the view in which the group is a box; None for the whole graph.
      items: what is drawn: operations, groups that have views, and frames.
      shown: the values.
      edges: what leads from where to where.
      views: of each group that is drawn as a box, its view.
      numbers: of a value inside a call that is a number in the code around it, that number.
    """

    index: int
    group: Group
    parent: View | None
    items: Sequence[Item | Frame] = field(default_factory=list)
    shown: list[Shown] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    views: dict[Group, View] = field(default_factory=dict)
    numbers: Mapping[TensorNode, TensorNode] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the function, call or scope."""
        return self.group.name

    @property
    def path(self) -> list[View]:
        """The views around this one, from the whole graph to this one."""
        return [*([] if self.parent is None else self.parent.path), self]

    @property
    def full_name(self) -> str:
        """Its name after those of the views and frames around it: ``Transformer/layer_0``."""
        if self.parent is None:
            return self.name
        around = [f.group.name for f in self.parent.frames if holds(f, self.group)]
        outer = [] if self.parent.parent is None else [self.parent.full_name]
        return "/".join([*outer, *around, self.name])

    @property
    def drawn(self) -> list[Item]:
        """The operations and groups, those in frames included."""
        return [*_unframed(self.items)]

    @property
    def frames(self) -> list[Frame]:
        """The frames, each before those inside it."""
        return [*_frames(self.items)]

    @property
    def operations(self) -> list[OpNode]:
        """The operations that are drawn here, as a box or as a frame, and in no other view."""
        boxes = [op for item in self.drawn for op in _named(item)]
        frames = [op for f in self.frames for op in (*f.group.calls, *f.group.opened)]
        return [*self.group.opened, *frames, *boxes]

    @property
    def tensors(self) -> list[TensorNode]:
        """The values that are drawn here, by the names that they have outside."""
        return [value.tensor for shown in self.shown for value in shown.values]

    def key(self, item: Item) -> str:
        """The name of an item in the picture: ``o7`` for an operation, ``v2`` for a group."""
        return f"o{item.index}" if isinstance(item, OpNode) else f"v{self.views[item].index}"

    def _repr_html_(self) -> str:
        from funcgrad.inspect.graphs.drawing.display import html_of

        return html_of(self)

    def __repr__(self) -> str:
        return f"<view {self.index}, {self.name}: {size(self.group)} operations>"


def views_of(graph: Graph) -> list[View]:
    """All views of a graph, the whole graph's first, each before those that it leads to."""
    return Views(graph).views


class Views:
    """Makes the views of a graph.

    Attributes:
      views: the views by number.
    """

    def __init__(self, graph: Graph):
        self.views: list[View] = []
        self.reads: dict[OpNode, list[Value]] = {}
        self.makes: dict[OpNode, list[Value]] = {}
        self.idle: dict[Graph, list[Value]] = {}
        self.numbers: dict[TensorNode, TensorNode] = {}
        self._learn(graph)
        self._add(tree(graph), None)

    def _learn(self, graph: Graph) -> None:
        """Who makes and who reads the values of a graph."""
        idle = self.idle[graph] = []
        for value in values_of(graph):
            if value.is_literal:
                self.numbers |= dict.fromkeys(value.inside, value.tensor)
                continue
            if value.maker is not None:
                self.makes.setdefault(value.maker, []).append(value)
            elif not value.readers:
                idle.append(value)
            for reader in dict.fromkeys(op for op, _, _ in value.readers):
                self.reads.setdefault(reader, []).append(value)

    def _add(self, group: Group, parent: View | None) -> View:
        """The view of a group, and those that it leads to."""
        for inner in _graphs(group, *group.items):
            if inner not in self.idle:
                self._learn(inner)
        view = View(len(self.views), group, parent, numbers=self.numbers)
        self.views.append(view)
        view.items, view.shown = self._framed(group, *self._fitting(group))
        for item in view.drawn:
            if isinstance(item, Group):
                view.views[item] = self._add(item, view)
        view.edges = [*_edges(view)]
        return view

    def _fitting(self, group: Group) -> tuple[list[Item], list[Shown]]:
        """The group's items, where those are too many consecutive ones as groups, and the values."""
        items = every = [item for item in group.items if _does_something(item)]
        shown = self._shown(group, items) if len(items) <= LIMIT else None
        parts = min(PARTS, -(-len(items) // PART))
        while parts > 1 and (shown is None or len(items) + len(shown) > LIMIT):
            items = in_parts(every, parts, self.makes)
            shown = self._shown(group, items)
            parts = parts * 2 // 3
        return items, shown or []

    def _framed(
        self, group: Group, items: Sequence[Item | Frame], shown: list[Shown]
    ) -> tuple[Sequence[Item | Frame], list[Shown]]:
        """What is most of the view, and the smallest groups, in frames while the view is not full."""
        main = next((i for i in items if _may_open(i) and 2 * size(i) > size(group)), None)
        if main is not None and len(main.items) + len(items) <= LIMIT:
            frame = {main: _frame(main, inner=False)}
            items, shown = self._opened(group, items, shown, frame, LIMIT)
        small = [i for i in _unframed(items) if _may_open(i) and size(i) <= SMALL]
        for count, equal in groupby(sorted(small, key=size), size):
            frames = {item: _frame(item) for item in equal}
            most = LIMIT if count == 1 else ROOMY
            items, shown = self._opened(group, items, shown, frames, most)
        return items, shown

    def _opened(
        self,
        group: Group,
        items: Sequence[Item | Frame],
        shown: list[Shown],
        frames: dict[Group, Frame],
        most: int,
    ) -> tuple[Sequence[Item | Frame], list[Shown]]:
        """Some groups in frames, if the view has at most so many nodes then."""
        found = [*_replaced(items, frames)]
        more = self._shown(group, found)
        return (items, shown) if len([*_unframed(found)]) + len(more) > most else (found, more)

    def _shown(self, group: Group, items: Sequence[Item | Frame]) -> list[Shown]:
        """The values that a view of these items draws."""
        where = {op: item for item in _unframed(items) if _is_joined(item) for op in leaves(item)}
        framed = (frame.group for frame in _frames(items))
        roots = {*_graphs(group, *framed)}
        found = {v for op in where for by in (self.reads, self.makes) for v in by.get(op, ())}
        found.update(value for graph in roots for value in self.idle[graph])
        alike: dict[object, list[Shown]] = {}
        for value in sorted(found, key=lambda value: value.tensor.index):
            shown = _shown(value, where, value.graph in roots)
            if shown is not None:
                alike.setdefault(shown.ends, []).append(shown)
        return [shown for several in alike.values() for shown in _together(several)]


def _shown(value: Value, where: dict[OpNode, Item], is_home: bool) -> Shown | None:
    """How a view draws a value; None if the value stays inside one of the groups.

    Args:
      value: the value.
      where: by operation, the item of the view that it is in.
      is_home: whether the view is that of the whole graph that the value is in.
    """
    inside = [where[op] for op, _, _ in value.readers if op in where]
    maker = None if value.maker is None else where.get(value.maker)
    readers = [item for item in dict.fromkeys(inside) if item is not maker]
    is_wanted = len(inside) < len(value.readers) or (value.is_result and not is_home)
    is_entering = maker is None and (is_wanted or not value.is_given)
    items = readers if maker is None else [maker, *readers]
    is_seen = len(items) != 1 or isinstance(items[0], OpNode) or items[0].sealed
    if not (is_seen or is_wanted or is_entering or value.is_result):
        return None
    return Shown([value], maker, readers, is_entering, maker is not None and is_wanted)


def _together(several: list[Shown]) -> list[Shown]:
    """Values with the same ends: each, or one node for all of them."""
    if len(several) <= ALIKE:
        return several
    values = [value for shown in several for value in shown.values]
    return [replace(several[0], values=values)]


def _edges(view: View) -> Iterator[Edge]:
    """What leads from where to where, each once; an operation's operands are apart."""
    boxes = {op: item for item in view.drawn if _is_joined(item) for op in leaves(item)}
    found: dict[tuple[str, str, int | None], bool] = {}
    for shown in view.shown:
        for value in shown.values:
            if shown.maker is not None:
                made = (view.key(shown.maker), shown.key, None)
                found[made] = found.get(made, False) or value.tensor.is_active
            for op, operand, tensor in value.readers:
                if op in boxes and boxes[op] is not shown.maker:
                    apart = operand if boxes[op] is op and len(shown.values) == 1 else None
                    read = (shown.key, view.key(boxes[op]), apart)
                    found[read] = found.get(read, False) or _adds(tensor, op, operand)
    for ends, is_back in found.items():
        yield Edge(*ends, is_back)


def _adds(tensor: TensorNode, op: OpNode, operand: int) -> bool:
    """Whether an operation adds to the gradient of a value that it reads."""
    return any(c.reader is op and c.operand == operand for c in tensor.contributions)


def _does_something(item: Item) -> bool:
    """Whether there is anything to draw: a call of the identity has neither values nor operations."""
    return isinstance(item, OpNode) or item.sealed or item.graph is not None or size(item) > 0


def _is_joined(item: Item) -> bool:
    """Whether the values around an item are those inside it, or are read by it."""
    return isinstance(item, OpNode) or item.sealed or item.graph is None


def _graphs(*items: Item) -> list[Graph]:
    """The graphs that are drawn in these groups and nowhere else."""
    return [item.graph for item in items if isinstance(item, Group) and item.graph is not None]


def _may_open(item: Item | Frame) -> TypeGuard[Group]:
    """Whether a group may be drawn in place: its values are those around it, or nothing is around it."""
    return isinstance(item, Group) and not item.sealed and item.kind not in PARTED


def _frame(group: Group, *, inner: bool = True) -> Frame:
    """A group in place; `inner` says whether the groups in it are in place too."""
    inside = [item for item in group.items if _does_something(item)]
    return Frame(group, [_frame(i) if inner and _may_open(i) else i for i in inside])


def _replaced(items: Sequence[Item | Frame], frames: dict[Group, Frame]) -> Iterator[Item | Frame]:
    """The items, with frames in place of their groups."""
    for item in items:
        if isinstance(item, Frame):
            yield Frame(item.group, [*_replaced(item.items, frames)])
        else:
            yield frames.get(item, item) if isinstance(item, Group) else item


def _unframed(items: Sequence[Item | Frame]) -> Iterator[Item]:
    for item in items:
        if isinstance(item, Frame):
            yield from _unframed(item.items)
        else:
            yield item


def _frames(items: Sequence[Item | Frame]) -> Iterator[Frame]:
    for item in items:
        if isinstance(item, Frame):
            yield item
            yield from _frames(item.items)


def holds(frame: Frame, item: Item) -> bool:
    """Whether an item is in a frame, at any depth."""
    return any(inner is item for inner in _unframed(frame.items))


def _named(item: Item) -> list[OpNode]:
    """The operations that a box stands for."""
    return [item] if isinstance(item, OpNode) else item.calls
