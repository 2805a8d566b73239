"""The run and the walk back, step by step."""

from __future__ import annotations

from collections.abc import Iterator

from funcgrad.inspect.graphs.nodes import Graph, OpNode


def order_back(graph: Graph) -> Iterator[OpNode]:
    """The operations in the order of the walk back: those at which a cotangent arrives."""
    for node in reversed(graph.nodes):
        if node.is_pulled:
            yield node
            for inner in reversed(node.graphs):
                yield from order_back(inner)
