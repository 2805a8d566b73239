"""A graph in the format of Google's Model Explorer: a collection of graphs, one for each function.

An operation is a node, with its name scopes as its namespace; what it makes are its outputs. A node
whose operation carries functions leads to their graphs.
"""

from __future__ import annotations

import json
from typing import Any

from funcgrad.inspect.graphs.export.json import line_of, params_of
from funcgrad.inspect.graphs.export.numbers import data
from funcgrad.inspect.graphs.nodes import Graph, OpNode, TensorNode


def to_model_explorer(graph: Graph) -> str:
    """The text of a JSON file that Model Explorer opens."""
    graphs = list(graph.graphs())
    ids = {id(inner): f"{i}: {inner.kind} {inner.name}" for i, inner in enumerate(graphs)}
    collection = {
        "label": graph.name,
        "graphs": [_graph(inner, ids) for inner in graphs],
        "graphSorting": "name_asc",
    }
    return json.dumps(collection)


def _graph(graph: Graph, ids: dict[int, str]) -> dict[str, Any]:
    given = [t for t in graph.tensors if t.maker is None and t.kind != "literal"]
    nodes = [
        *(_given(tensor) for tensor in given),
        *(_node(node, ids) for node in graph.nodes),
        *(_result(tensor, i) for i, tensor in enumerate(graph.results)),
    ]
    return {"id": ids[id(graph)], "nodes": nodes}


def _given(tensor: TensorNode) -> dict[str, Any]:
    return {
        "id": f"t{tensor.index}",
        "label": tensor.name,
        "namespace": "arguments" if tensor.kind == "argument" else "constants",
        "outputsMetadata": [_output("0", tensor)],
    }


def _result(tensor: TensorNode, position: int) -> dict[str, Any]:
    return {
        "id": f"r{position}",
        "label": f"result {position}",
        "namespace": "results",
        "incomingEdges": _edges([tensor]),
    }


def _node(node: OpNode, ids: dict[int, str]) -> dict[str, Any]:
    reads = [f"{tensor.name} ({what})" for tensor, what in node.context]
    attributes = {
        **params_of(node),
        "where": node.where_in_short,
        "line": line_of(node),
        "mathematics": node.op.mathematics,
        "rule": "" if node.op.backward is None else node.op.backward.name,
        "the rule reads": "values inside" if node.residuals_inside else ", ".join(reads),
        **{f"operand {i}": t.name for i, t in enumerate(node.inputs) if t.kind == "literal"},
    }
    return {
        "id": f"o{node.index}",
        "label": node.op.name,
        "namespace": node.scope,
        "subgraphIds": [ids[id(inner)] for inner in node.graphs],
        "attrs": _pairs(attributes),
        "incomingEdges": _edges(node.inputs),
        "outputsMetadata": [
            _output(str(i), tensor)
            for i, tensor in enumerate(node.all_outputs)
            if tensor is not None
        ],
    }


def _edges(tensors: list[TensorNode]) -> list[dict[str, str]]:
    """The edges from the operations that made some values, or from what the graph is given."""
    found = []
    for i, tensor in enumerate(tensors):
        if tensor.maker is not None:
            source = f"o{tensor.maker.index}", str(tensor.maker.all_outputs.index(tensor))
        else:
            source = f"t{tensor.index}", "0"
        if tensor.kind != "literal":
            known = {"sourceNodeId": source[0], "sourceNodeOutputId": source[1]}
            found.append({**known, "targetNodeInputId": str(i)})
    return found


def _output(number: str, tensor: TensorNode) -> dict[str, Any]:
    attributes = {
        "__tensor_tag": tensor.name,
        "shape": tensor.aval.str_short(),
        **_numbers("value", tensor.value),
        **_numbers("gradient", tensor.gradient),
    }
    return {"id": number, "attrs": _pairs(attributes)}


def _numbers(name: str, x: Any) -> dict[str, str]:
    """The elements if they are few, else their range, mean and norm."""
    known = data(x)
    if known is None:
        return {}
    if "numbers" in known:
        return {name: str(known["numbers"])}
    return {f"{name}, {what}": str(known[what]) for what in ("min", "max", "mean", "norm")}


def _pairs(attributes: dict[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in attributes.items() if value]
