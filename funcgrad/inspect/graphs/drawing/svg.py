"""A view as SVG: forward runs downwards, and beside it the cotangents run upwards."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape, quoteattr

from funcgrad.inspect.graphs.drawing import labels
from funcgrad.inspect.graphs.drawing.groups import Item
from funcgrad.inspect.graphs.drawing.layout import RANKS_APART, Box, Inner, Layout, Point, lay_out
from funcgrad.inspect.graphs.drawing.style import STYLE
from funcgrad.inspect.graphs.drawing.views import Edge, Frame, Shown, View, holds
from funcgrad.inspect.graphs.nodes import OpNode

MARGIN = 12
LANE = 3.5
"""How far forward and backward are from the middle between them."""

APART, WIDEST = 15, 60
"""How far apart edges are that enter or leave a node on the same side, and how far all of them."""

Node = Shown | Item


def draw(view: View, *, styled: bool = True, step: labels.AtStep | None = None) -> str:
    """A view as SVG.

    Args:
      view: the view.
      step: of which step of a loop the numbers inside it are; None for none.
      styled: whether the style stands in it; a page with several views needs :data:`STYLE` once.

    Returns:
      An ``<svg>`` element.

    Raises:
      MissingPackageError: ``pygraphviz`` is not installed.
    """
    return Picture(view, step).svg(styled)


class Picture:
    """A view with its nodes' labels and places.

    Attributes:
      view: the view.
      step: of which step of a loop the numbers inside it are.
      nodes: by its name, each node.
      labels: by a node's name, what is written in it.
      boxes: by a node's name, where it stands.
      curves: of each edge the control points.
    """

    def __init__(self, view: View, step: labels.AtStep | None = None):
        self.view = view
        self.step = step
        self.nodes: dict[str, Node] = {shown.key: shown for shown in view.shown}
        self.nodes |= {view.key(item): item for item in view.drawn}
        self.homes = {key: _home(view, node) for key, node in self.nodes.items()}
        self.labels = {key: self._label(key) for key in self.nodes}
        self.layout = self._placed()
        self.boxes = {
            key: Box(x + MARGIN, y + MARGIN, label.width, label.height)
            for (key, label), (x, y) in zip(self.labels.items(), self.layout.nodes, strict=True)
        }
        curves = [[(x + MARGIN, y + MARGIN) for x, y in curve] for curve in self.layout.edges]
        self.curves = [*map(_smooth, _spread(view.edges, curves, self.boxes))]

    def _label(self, key: str) -> labels.Label:
        node, home = self.nodes[key], self.homes[key]
        if not isinstance(node, Shown):
            return labels.of_item(node, self.view.numbers)
        around = [frame.group.name for frame in self.view.frames if frame is home]
        around += [view.name for view in self.view.path]
        names = {part for name in around for part in name.split("/")}
        return labels.of_values(node, names, self.step)

    def _placed(self) -> Layout:
        """The layout: nodes by number, so that views of the same form share it."""
        numbers = {key: i for i, key in enumerate(self.nodes)}
        sizes = tuple((label.width, label.height) for label in self.labels.values())
        edges = tuple((numbers[edge.source], numbers[edge.target]) for edge in self.view.edges)

        def inner(frame: Frame) -> Inner:
            nodes = tuple(numbers[key] for key, home in self.homes.items() if home is frame)
            frames = tuple(inner(item) for item in frame.items if isinstance(item, Frame))
            return Inner(nodes, frames, labels.heading_width(frame.group))

        frames = [item for item in self.view.items if isinstance(item, Frame)]
        return lay_out(sizes, edges, tuple(inner(frame) for frame in frames))

    def svg(self, styled: bool) -> str:
        """The picture as text."""
        index = self.view.index
        width, height = self.layout.width + 2 * MARGIN, self.layout.height + 2 * MARGIN
        caption, below = _caption(self.view), []
        if caption:
            width, height = max(width, labels.caption_width(caption) + 2 * MARGIN), height + 14
            below = [
                f'<text class="note" x="{MARGIN}" y="{height - 8:.0f}">{escape(caption)}</text>'
            ]
        size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
        calls = _numbers(self.view.group.opened)
        own = f' data-op="{calls}"' if calls else ""
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" class="funcgrad-graph" {size} role="img" '
                f'aria-label={quoteattr(self.view.name)} data-view="{index}"{own}>',
                *([f"<style>{STYLE}</style>"] if styled else []),
                _markers(index),
                f'<rect class="paper" width="{width:.0f}" height="{height:.0f}"/>',
                *self._frames(),
                *(self._node(key) for key in self.nodes),
                *self._edges(),
                *self._headings(),
                *below,
                "</svg>",
            ]
        )

    def _frames(self) -> Iterator[str]:
        for frame, box in zip(self.view.frames, self.layout.frames, strict=True):
            calls = _numbers([*frame.group.calls, *frame.group.opened])
            known = f' data-op="{calls}"' if calls else ""
            yield f'<g class="frame"{known}><rect {_corner(box)} {_size(box)} rx="8"/></g>'

    def _headings(self) -> Iterator[str]:
        """The frames' names, over the edges that run through them."""
        for frame, box in zip(self.view.frames, self.layout.frames, strict=True):
            x, y = box.x - box.width / 2 + MARGIN + 9, box.y - box.height / 2 + MARGIN + 15
            name = escape(labels.heading(frame.group))
            yield f'<text class="heading" x="{x:.1f}" y="{y:.1f}">{name}</text>'

    def _edges(self) -> Iterator[str]:
        for edge, curve in zip(self.view.edges, self.curves, strict=True):
            down, up = (edge.source, edge.target), (edge.target, edge.source)
            lane = LANE if edge.is_back else 0
            yield self._edge("forward", down, edge.operand, _beside(curve, -lane))
            if edge.is_back:
                yield self._edge("backward", up, edge.operand, _beside(curve, lane)[::-1])

    def _edge(
        self, way: str, ends: tuple[str, str], operand: int | None, curve: list[Point]
    ) -> str:
        known = "" if operand is None else f' data-operand="{operand}"'
        marker = f'marker-end="url(#v{self.view.index}-{way})"'
        start, *rest = [f"{x:.1f},{y:.1f}" for x, y in curve]
        return (
            f'<path class="edge {way}" data-from="{ends[0]}" data-to="{ends[1]}"{known} {marker} '
            f'd="M{start} C{" ".join(rest)}"/>'
        )

    def _node(self, key: str) -> str:
        label, box = self.labels[key], self.boxes[key]
        left, top = box.x - box.width / 2, box.y - box.height / 2
        round_off = {"o": label.height / 2, "v": 6, "t": 3}[key[0]]
        radius = label.height / 2 if label.kind == "group whole" else round_off
        size = _size(box)
        behind = f'<rect class="behind" x="3.5" y="-3.5" {size} rx="{radius:.1f}"/>'
        behind = behind if key[0] == "v" else ""
        return (
            f'<g class="{label.kind}" {self._data(key)} id="v{self.view.index}-{key}" '
            f'transform="translate({left:.1f} {top:.1f})"><title>{escape(label.title)}</title>{behind}'
            f'<rect class="box" {size} rx="{radius:.1f}"/>{"".join(_text(label))}</g>'
        )

    def _data(self, key: str) -> str:
        """Which values, operation or view a node is."""
        node = self.nodes[key]
        if isinstance(node, OpNode):
            return f'data-op="{node.index}"'
        if not isinstance(node, Shown):
            ops = f'data-op="{_numbers(node.calls)}" ' if node.calls else ""
            return f'{ops}data-view="{self.view.views[node].index}"'
        first, *others = [value.tensor.index for value in node.values]
        others += [tensor.index for value in node.values for tensor in value.inside]
        also = f' data-also="{" ".join(map(str, others))}"' if others else ""
        return f'data-tensor="{first}"{also}'


def _caption(view: View) -> str:
    """Why values in a view have no numbers, though the function was run; empty where they have some."""
    calls = [call for outer in view.path for call in outer.group.calls]
    closed = next((call for call in calls if not call.is_entered), None)
    return "" if closed is None else labels.without_numbers(closed)


def _home(view: View, node: Node) -> Frame | None:
    """The innermost frame around a node.

    A value that the operations in a frame make is there if one of them reads it: it cannot be outside,
    since the frame would be above it and below it. An argument is there if nothing else reads it.
    """
    frames = view.frames[::-1]
    if not isinstance(node, Shown):
        return next((frame for frame in frames if node in frame.items), None)
    value, maker, readers = node.values[0], node.maker, node.readers
    if maker is not None:
        around = [f for f in frames if holds(f, maker) and any(holds(f, r) for r in readers)]
    elif node.is_entering or not readers:
        around = []
    else:
        around = [f for f in frames if all(holds(f, reader) for reader in readers)]
    own = [frame for frame in frames if frame.group.graph is value.graph]
    return next(iter(around or own), None)


def _spread(
    edges: Sequence[Edge], curves: Sequence[list[Point]], boxes: dict[str, Box]
) -> Sequence[list[Point]]:
    """Edges that meet at a node's side, beside each other in the order in which they come."""
    for end, points, side in (("source", (0, 1, 3), 0.5), ("target", (-1, -2, -4), -0.5)):
        last, beside, before = points
        meeting: dict[str, list[list[Point]]] = {}
        for edge, curve in zip(edges, curves, strict=True):
            meeting.setdefault(getattr(edge, end), []).append(curve)
        for key, several in meeting.items():
            box = boxes[key]
            apart = min(APART, (box.width - 16) / len(several), WIDEST / len(several))
            for i, curve in enumerate(sorted(several, key=lambda curve: curve[before][0])):
                shift = (i - (len(several) - 1) / 2) * apart
                curve[last] = curve[last][0] + shift, box.y + side * box.height
                curve[beside] = curve[beside][0] + shift, curve[beside][1]
    return curves


def _smooth(curve: list[Point]) -> list[Point]:
    """One bend between neighbouring layers, where no node is in the way; else the curve itself."""
    (x0, y0), (x1, y1) = curve[0], curve[-1]
    if y1 - y0 > 1.5 * RANKS_APART:
        return curve
    middle = (y0 + y1) / 2
    return [(x0, y0), (x0, middle), (x1, middle), (x1, y1)]


def _beside(curve: Sequence[Point], shift: float) -> list[Point]:
    """The same curve, to the right of one that runs down; its ends stay on the nodes' sides."""
    found = []
    for i, (x, y) in enumerate(curve):
        (x0, y0), (x1, y1) = curve[max(i - 1, 0)], curve[min(i + 1, len(curve) - 1)]
        along = math.hypot(x1 - x0, y1 - y0)
        is_end = i in (0, len(curve) - 1) or along == 0
        across = (1.0, 0.0) if is_end else ((y1 - y0) / along, (x0 - x1) / along)
        found.append((x + shift * across[0], y + shift * across[1]))
    return found


def _text(label: labels.Label) -> Iterator[str]:
    """What is written in a node: lines in its middle, and columns of numbers below."""
    middle, below = label.width / 2, labels.HEAD
    above = label.height / 2 - 0.5 if len(label.lines) == 1 and not label.numbers else below / 2 + 1
    for i, parts in enumerate(label.lines):
        y = above + i * 15 + 0.35 * parts[0].size
        spans = (
            f'<tspan class="{part.kind}" dx="{labels.SPACE if place else 0}">{escape(part.text)}</tspan>'
            for place, part in enumerate(parts)
        )
        yield f'<text class="label" x="{middle:.1f}" y="{y:.1f}">{"".join(spans)}</text>'
    for numbers in label.numbers:
        first = below + 10 + numbers.row * labels.ROW
        rows = (
            f'<tspan x="{numbers.x:.1f}" y="{first + i * labels.ROW:.1f}">{escape(row)}</tspan>'
            for i, row in enumerate(numbers.rows)
        )
        yield f'<text class="{numbers.kind}">{"".join(rows)}</text>'


def _corner(box: Box) -> str:
    return f'x="{box.x - box.width / 2 + MARGIN:.1f}" y="{box.y - box.height / 2 + MARGIN:.1f}"'


def _size(box: Box) -> str:
    return f'width="{box.width:.1f}" height="{box.height:.1f}"'


def _numbers(calls: Sequence[OpNode]) -> str:
    return " ".join(str(op.index) for op in calls)


def _markers(index: int) -> str:
    """The heads of the arrows."""
    head = '<path d="M0,0 L7,3.5 L0,7 L1.6,3.5 z"/>'
    box = 'viewBox="0 0 7 7" refX="6.4" refY="3.5" markerWidth="7" markerHeight="7" '
    box += 'markerUnits="userSpaceOnUse" orient="auto"'
    ways = (
        f'<marker id="v{index}-{w}" class="{w}" {box}>{head}</marker>'
        for w in ("forward", "backward")
    )
    return f"<defs>{''.join(ways)}</defs>"
