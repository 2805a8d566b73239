"""Where cotangents arrive, from the structure alone: on the ways from arguments to results."""

from __future__ import annotations

from collections.abc import Sequence

from funcgrad.inspect.graphs.nodes import Contribution, Graph, TensorNode
from funcgrad.registry import ZeroRule

Known = set[TensorNode]


def mark(graph: Graph, differentiated: Sequence[TensorNode]) -> None:
    """Say of each value whether it is on a way from these to the graph's results."""
    moved: Known = {t for t in differentiated if t.differentiable}
    _forward(graph, moved)
    _back(graph, {t for t in graph.results if t in moved}, moved)
    for inner in graph.graphs():
        for tensor in inner.tensors:
            if tensor.is_active:
                tensor.contributions[:] = _contributions(tensor, inner)


def _contributions(tensor: TensorNode, graph: Graph) -> list[Contribution]:
    """Who adds to the value's gradient: who reads the graph's results, and readers pulled back."""
    results = [i for i, result in enumerate(graph.results) if result is tensor]
    returned = [Contribution(None, i, None) for i in results]
    return returned + [Contribution(*by, None) for by in tensor.readers if by[0].is_pulled]


def _forward(graph: Graph, moved: Known) -> None:
    """Add what depends on what is known to be moved."""
    for node in graph.nodes:
        if isinstance(node.op.entry, ZeroRule) or not any(t in moved for t in node.inputs):
            continue
        given = set(node.outputs)
        if node.is_entered:
            given = {outer for inner in node.graphs for outer in _through(inner, moved)}
        moved |= {t for t in given if t.differentiable}


def _through(inner: Graph, moved: Known) -> list[TensorNode]:
    """The same inside an operation, around a loop until nothing is added; return its moved outputs."""
    moved |= {t for outer, t in inner.entering() if outer in moved and t.differentiable}
    while True:
        _forward(inner, moved)
        again = {i for r, i in inner.carried() if r in moved and i.differentiable} - moved
        if not again:
            break
        moved |= again
    kept = {r for r, i in inner.carried() if i in moved}  # where a loop does no step
    return [outer for r, outer in inner.leaving() if r in moved or r in kept]


def _back(graph: Graph, wanted: Known, moved: Known) -> None:
    """Mark what leads to what is wanted, from the last operation to the first."""
    for tensor in wanted:
        tensor.is_active = True
    for node in reversed(graph.nodes):
        if not node.is_pulled:
            continue
        read = set(node.inputs)
        if node.is_entered:
            read = {outer for inner in node.graphs for outer in _back_through(inner, moved)}
        for tensor in read & moved:
            tensor.is_active = True


def _back_through(inner: Graph, moved: Known) -> list[TensorNode]:
    """The same inside an operation, around a loop until nothing is added; return what it reads."""
    wanted = {r for r, outer in inner.leaving() if outer.is_active and r in moved}
    while True:
        _back(inner, wanted, moved)
        again = {r for r, i in inner.carried() if i.is_active and r in moved} - wanted
        if not again:
            break
        wanted |= again
    kept = {
        i for r, i in inner.carried() for q, outer in inner.leaving() if q is r and outer.is_active
    }
    return [outer for outer, i in inner.entering() if i.is_active or i in kept]
