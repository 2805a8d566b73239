"""Where cotangents arrive, from the structure alone: on the ways from arguments to results."""

from __future__ import annotations

from collections.abc import Sequence

from funcgrad.inspect.graphs.nodes import Contribution, Graph, OpNode, TensorNode
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
        if node.is_entered:
            for inner in node.graphs:
                _through(inner, moved)
            given = {t for inner in node.graphs for t in _leaving(inner, node, moved)}
        else:
            given = {*node.outputs}
        moved |= {t for t in given if t.differentiable}


def _through(inner: Graph, moved: Known) -> None:
    """The same inside an operation; around a loop until nothing is added."""
    entering = inner.entering()
    moved |= {t for outer, t in entering if outer in moved and t.differentiable}
    while True:
        _forward(inner, moved)
        again = {i for r, i in inner.carried() if r in moved and i.differentiable} - moved
        if not again:
            return
        moved |= again


def _leaving(inner: Graph, node: OpNode, moved: Known) -> list[TensorNode]:
    """The operation's outputs that moved results of the carried graph are."""
    pairs = inner.leaving()
    looped = {i for outer, i in inner.entering() if outer in moved} and inner.kind == "while"
    return [outer for result, outer in pairs if result in moved or looped]


def _back(graph: Graph, wanted: Known, moved: Known) -> None:
    """Mark what leads to what is wanted, from the last operation to the first."""
    for tensor in wanted:
        tensor.is_active = True
    for node in reversed(graph.nodes):
        if not any(t.is_active for t in node.outputs):
            continue
        if node.is_entered:
            for inner in node.graphs:
                _back(inner, {t for t in inner.results if t in moved}, moved)
        for tensor in node.inputs:
            tensor.is_active = tensor.is_active or tensor in moved
