"""A graph in the language of Graphviz: ellipses are values, boxes operations, clusters scopes, calls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from funcgrad.catching import CALL
from funcgrad.inspect.graphs.nodes import Graph, OpNode, TensorNode


def to_dot(graph: Graph) -> str:
    """The graph with those inside its operations; dotted edges lead into these and out of them."""
    return "\n".join(
        [
            f"digraph {_quoted(graph.name)} {{",
            '  node [fontname="Helvetica", fontsize=11];',
            *_indented(_cluster_of(graph).lines()),
            *(f"  {edge};" for inner in graph.graphs() for edge in _edges(inner)),
            "}",
            "",
        ]
    )


@dataclass
class _Cluster:
    """What stands in one call or scope."""

    lines_within: list[str] = field(default_factory=list)
    inner: dict[Any, tuple[str, _Cluster]] = field(default_factory=dict)

    def within(self, key: Any, label: str) -> _Cluster:
        """The cluster inside this one that is known by `key`."""
        return self.inner.setdefault(key, (label, _Cluster()))[1]

    def lines(self, number: str = "") -> Iterator[str]:
        """The cluster's statements, those of the clusters inside it last."""
        yield from self.lines_within
        for i, (label, cluster) in enumerate(self.inner.values()):
            yield f"subgraph cluster{number}_{i} {{"
            yield f"  label={_quoted(label)};"
            yield from _indented(cluster.lines(f"{number}_{i}"))
            yield "}"


def _cluster_of(graph: Graph) -> _Cluster:
    top = _Cluster()
    _fill(top, graph)
    return top


def _fill(cluster: _Cluster, graph: Graph) -> None:
    """Put the values and operations of a graph into the clusters of their scopes."""
    where = dict.fromkeys(graph.tensors, cluster)
    for node in graph.nodes:
        own = _scope(cluster, node)
        where.update(dict.fromkeys(node.outputs, own))
        own.lines_within.append(f"o{node.index} [shape=box, label={_quoted(node.op.name)}];")
        for i, inner in enumerate(node.graphs):
            _fill(own.within((node, i), f"{inner.kind}: {inner.name}"), inner)
    for tensor, own in where.items():
        own.lines_within.append(f"t{tensor.index} [label={_quoted(_label(tensor))}];")


def _scope(cluster: _Cluster, node: OpNode) -> _Cluster:
    """The cluster of the name scopes around an operation, those around its graph left out."""
    around = 0 if node.place.block.call is None else len(node.place.block.call.scopes)
    for scope in node.place.scopes[around:]:
        if not scope.name.startswith(CALL):
            cluster = cluster.within(id(scope), scope.name)
    return cluster


def _label(tensor: TensorNode) -> str:
    if tensor.kind == "literal":
        return tensor.name
    return f"{tensor.name}\n{tensor.aval.str_short(short_dtypes=True)}"


def _edges(graph: Graph) -> Iterator[str]:
    for node in graph.nodes:
        yield from (f"t{tensor.index} -> o{node.index}" for tensor in node.inputs)
        yield from (f"o{node.index} -> t{tensor.index}" for tensor in node.outputs)
    for one, other in [*graph.entering(), *graph.leaving()]:
        yield f"t{one.index} -> t{other.index} [style=dotted]"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _indented(lines: Iterator[str]) -> list[str]:
    return ["  " + line for line in lines]
