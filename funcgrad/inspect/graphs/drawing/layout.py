"""Where the nodes of a view stand and how its edges run: Graphviz's layered layout, in this process.

`pygraphviz` carries Graphviz's library in its wheels: no program has to be installed. Graphviz respects
the sizes of the nodes, leads edges around them, and keeps groups together.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from funcgrad.errors import MissingPackageError

Point = tuple[float, float]

POINTS_PER_INCH = 72
RANKS_APART, NODES_APART = 24, 14
HEADING = 18
"""The height of a frame's heading."""


@dataclass(frozen=True)
class Box:
    """A rectangle by its middle."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Inner:
    """A frame: the numbers of its nodes, the frames in it, and the width of its heading."""

    nodes: tuple[int, ...]
    frames: tuple[Inner, ...]
    heading: float


@dataclass(frozen=True)
class Layout:
    """Where everything is, the origin at the upper left.

    Attributes:
      width: the picture's width.
      height: its height.
      nodes: of each node its middle.
      edges: of each edge the control points of its Bézier curves, from its source to its target.
      frames: the frames' rectangles, each before those inside it.
    """

    width: float
    height: float
    nodes: tuple[Point, ...]
    edges: tuple[tuple[Point, ...], ...]
    frames: tuple[Box, ...]


@lru_cache(maxsize=1024)
def lay_out(
    sizes: tuple[Point, ...], edges: tuple[tuple[int, int], ...], frames: tuple[Inner, ...]
) -> Layout:
    """Place nodes of these sizes, in layers from above to below.

    Args:
      sizes: the width and height of each node.
      edges: the numbers of each edge's source and target.
      frames: which nodes are to be kept together.

    Returns:
      A :class:`Layout`.

    Raises:
      MissingPackageError: `pygraphviz` is not installed.
    """
    placed = _graphviz("\n".join(_dot(sizes, edges, frames)))
    _, _, width, height = _numbers(placed["bb"])

    def point(text: str) -> Point:
        x, y = _numbers(text)
        return x, height - y

    objects = {item["name"]: item for item in placed.get("objects", ())}
    curves = {int(edge["id"]): edge["pos"].split(" ") for edge in placed.get("edges", ())}
    return Layout(
        width,
        height,
        tuple(point(objects[f"n{i}"]["pos"]) for i in range(len(sizes))),
        tuple(tuple(point(p) for p in curves[i]) for i in range(len(edges))),
        tuple(_box(item["bb"], height) for name, item in objects.items() if name[0] == "c"),
    )


def _dot(
    sizes: Sequence[Point], edges: Sequence[tuple[int, int]], frames: Sequence[Inner]
) -> Iterator[str]:
    """The graph in Graphviz's language. An edge leaves a node below and enters the next above."""
    yield "digraph {"
    yield f"graph [ranksep={RANKS_APART / POINTS_PER_INCH}, nodesep={NODES_APART / POINTS_PER_INCH}];"
    yield 'node [shape=box, fixedsize=true, label=""]; edge [dir=none, tailport=s, headport=n];'
    for i, (width, height) in enumerate(sizes):
        yield f"n{i} [width={width / POINTS_PER_INCH}, height={height / POINTS_PER_INCH}];"
    numbers = iter(range(len(sizes) + len(edges) + 1))
    for frame in frames:
        yield from _cluster(frame, numbers)
    leaving = Counter(source for source, _ in edges)
    for i, (source, target) in enumerate(edges):
        yield f"n{source} -> n{target} [id={i}, weight={3 if leaving[source] == 1 else 1}];"
    yield "}"


def _cluster(frame: Inner, numbers: Iterator[int]) -> Iterator[str]:
    yield f"subgraph cluster_{next(numbers)} {{ margin=10; labeljust=l;"
    size = f'FIXEDSIZE="TRUE" WIDTH="{max(frame.heading, 12):.0f}" HEIGHT="{HEADING - 4}"'
    plain = 'BORDER="0" CELLBORDER="0" CELLPADDING="0" CELLSPACING="0"'
    yield f"label=<<TABLE {plain} {size}><TR><TD></TD></TR></TABLE>>;"
    for node in frame.nodes:
        yield f"n{node};"
    for inner in frame.frames:
        yield from _cluster(inner, numbers)
    yield "}"


def _box(text: str, height: float) -> Box:
    left, low, right, high = _numbers(text)
    return Box((left + right) / 2, height - (low + high) / 2, right - left, high - low)


def _numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


_ONE_AT_A_TIME = threading.Lock()
"""Graphviz's library is not safe to use in several threads."""


def _graphviz(dot: str) -> dict[str, Any]:
    try:
        import pygraphviz
    except ImportError:
        raise MissingPackageError(
            "to draw a graph", "pygraphviz", 'pip install "funcgrad[pictures]"'
        ) from None
    with _ONE_AT_A_TIME:
        placed: Any = pygraphviz.AGraph(dot).draw(format="json0", prog="dot")
    return json.loads(placed)
