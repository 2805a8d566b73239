"""Which values are one: what a `jit` is given inside is its operand outside.

`jit`, `checkpoint` and plain calls are transparent: what is inside them is drawn with the values around
them. A scan's steps, a branch and a function with a derivative of its own have values of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from funcgrad.inspect.graphs.nodes import Graph, OpNode, TensorNode

TRANSPARENT = {"jit", "checkpoint", "call"}
"""The kinds of the graphs whose values are those of the graph around."""


@dataclass(eq=False)
class Value:
    """A value as it is drawn: once, under the name that it has outside of transparent calls.

    Attributes:
      graph: the graph that the value is in, outside.
      tensor: the value outside.
      inside: the same value inside transparent calls.
      maker: the operation that makes it, no transparent call; None for what a graph is given.
      readers: the operations that read it, no transparent calls, each with the number of the operand and
        the value as it is called there.
      is_result: whether the outermost graph returns it.
    """

    graph: Graph
    tensor: TensorNode
    inside: list[TensorNode] = field(default_factory=list)
    maker: OpNode | None = None
    readers: list[tuple[OpNode, int, TensorNode]] = field(default_factory=list)
    is_result: bool = False

    @property
    def is_literal(self) -> bool:
        """Whether it is a number in the code: it is drawn inside the operations that read it."""
        return self.tensor.kind == "literal" and not self.tensor.shape and not self.is_result

    @property
    def is_given(self) -> bool:
        """Whether the graph is given it: an argument or a constant."""
        return self.maker is None


def is_transparent(node: OpNode) -> bool:
    """Whether the values inside an operation are those outside."""
    around = node.place.block.call
    is_inner = around is not None and around.function == node.function
    if len(node.graphs) != 1 or (node.op.backward is not None and not is_inner):
        return False
    (inner,) = node.graphs
    fits = len(inner.entering()) == len(inner.inputs)
    return inner.kind in TRANSPARENT and fits and len(inner.results) == len(node.all_outputs)


def values_of(graph: Graph) -> list[Value]:
    """The values of a graph and of the transparent calls in it, in the order in which they are made."""
    graphs = [graph, *_transparent(graph)]
    outer = _outermost(graphs[1:])
    tensors = sorted((t for inner in graphs for t in inner.tensors), key=lambda t: t.index)
    values = {t: Value(graph, t) for t in tensors if t not in outer}
    for tensor in tensors:
        value = values[outer.get(tensor, tensor)]
        if tensor is not value.tensor:
            value.inside.append(tensor)
        if tensor.maker is not None and not is_transparent(tensor.maker):
            value.maker = tensor.maker
        value.readers += [(*by, tensor) for by in tensor.readers if not is_transparent(by[0])]
    for tensor in graph.results:
        values[outer.get(tensor, tensor)].is_result = True
    return [*values.values()]


def _transparent(graph: Graph) -> Iterator[Graph]:
    """The graphs of transparent calls, from the outside in."""
    for node in graph.nodes:
        if is_transparent(node):
            yield node.graphs[0]
            yield from _transparent(node.graphs[0])


def _outermost(calls: list[Graph]) -> dict[TensorNode, TensorNode]:
    """Of each value that is one with a value further out, the outermost: it was numbered first."""
    outer: dict[TensorNode, TensorNode] = {}

    def outermost(tensor: TensorNode) -> TensorNode:
        while tensor in outer:
            tensor = outer[tensor]
        return tensor

    for inner in calls:
        for pair in (*inner.entering(), *inner.leaving()):
            first, second = sorted((outermost(t) for t in pair), key=lambda t: t.index)
            if first is not second and second.kind != "literal":
                outer[second] = first
    return {tensor: outermost(tensor) for tensor in outer}
