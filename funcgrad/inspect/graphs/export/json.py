"""A graph as JSON: what the page, the pictures and the other formats are made of.

    tensors   values: name, type, kind, maker, readers, value, gradient, what each reader added
    ops       operations: inputs, outputs, what the rule reads, place in the source, params
    kinds     of each op its rule: name, source, mathematics, place
    graphs    the function and what its operations carry: ids of inputs, results, tensors, ops
    forward   ids of operations in the order of the run; backward in the order of the walk back

Everything is known by number: a tensor, an op or a graph by its place in its list.
"""

from __future__ import annotations

import json
import linecache
from pathlib import Path
from typing import Any

import jax

from funcgrad.inspect.graphs.export.numbers import data
from funcgrad.inspect.graphs.nodes import Graph, Op, OpNode, TensorNode
from funcgrad.inspect.graphs.steps import order_back
from funcgrad.registry import ZeroRule

VERSION = 1
LONGEST = 200
"""How many characters of a param are written."""


def as_dict(graph: Graph) -> dict[str, Any]:
    """The graph as lists, dictionaries, strings and numbers."""
    graphs = list(graph.graphs())
    numbers = {id(inner): i for i, inner in enumerate(graphs)}
    kinds = keys_of(graph.ops)
    written = Written()
    tensors = {t.index: _tensor(t, numbers[id(g)], written) for g in graphs for t in g.tensors}
    ops = {n.index: _op(n, numbers[id(g)], numbers, kinds) for g in graphs for n in g.nodes}
    return {
        "version": VERSION,
        "name": graph.name,
        "jax": jax.__version__,
        "tensors": [tensors[i] for i in sorted(tensors)],
        "ops": [ops[i] for i in sorted(ops)],
        "kinds": {key: _kind(op) for op, key in kinds.items()},
        "graphs": [_graph(inner) for inner in graphs],
        "forward": [node.index for node in graph.walk()],
        "backward": [node.index for node in order_back(graph)],
    }


def to_json(graph: Graph) -> str:
    """The same as text; what is not finite is a string, since JSON has no number for it."""
    return json.dumps(as_dict(graph), allow_nan=False, separators=(",", ":"))


def keys_of(ops: list[Op]) -> dict[Op, str]:
    """A name for each kind: a primitive with several rules has ``sin``, ``sin (2)``."""
    found: dict[Op, str] = {}
    seen: dict[str, int] = {}
    for op in ops:
        seen[op.name] = seen.get(op.name, 0) + 1
        found[op] = op.name if seen[op.name] == 1 else f"{op.name} ({seen[op.name]})"
    return found


class Written:
    """The arrays that are written down so far: one that occurs again is the same dictionary."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[Any, dict[str, Any] | None]] = {}

    def __call__(self, x: Any) -> dict[str, Any] | None:
        if id(x) not in self.known:
            self.known[id(x)] = x, data(x)
        return self.known[id(x)][1]


def _tensor(tensor: TensorNode, graph: int, data: Written) -> dict[str, Any]:
    return {
        "id": tensor.index,
        "name": tensor.name,
        "shape": list(tensor.shape),
        "dtype": str(tensor.dtype or tensor.aval),
        "kind": tensor.kind,
        "result": tensor.is_result,
        "maker": None if tensor.maker is None else tensor.maker.index,
        "readers": [[reader.index, operand] for reader, operand in tensor.readers],
        "value": data(tensor.value),
        "gradient": data(tensor.gradient),
        "contributions": [
            {
                "reader": None if one.reader is None else one.reader.index,
                "operand": one.operand,
                "gradient": data(one.gradient),
            }
            for one in tensor.contributions
        ],
        "steps": tensor.steps,
        "axes": [*tensor.axes],
        "graph": graph,
    }


def _op(node: OpNode, graph: int, numbers: dict[int, int], kinds: dict[Op, str]) -> dict[str, Any]:
    return {
        "id": node.index,
        "op": kinds[node.op],
        "inputs": [t.index for t in node.inputs],
        "outputs": [t.index for t in node.outputs],
        "context": [[tensor.index, what] for tensor, what in node.context],
        "residuals_inside": node.residuals_inside,
        "scope": node.scope,
        "where": node.where_in_short,
        "line": line_of(node),
        "params": params_of(node),
        "function": node.function and node.function.split(" at ")[0],
        "graphs": [numbers[id(inner)] for inner in node.graphs],
        "graph": graph,
    }


def params_of(node: OpNode) -> dict[str, str]:
    """An operation's static parameters in words, without the functions that it carries."""
    found = {}
    for name, value in node.params.items():
        text = str(value)
        if name not in node.carries and value is not None:
            found[name] = text if len(text) <= LONGEST else text[:LONGEST] + "…"
    return found


def line_of(node: OpNode) -> str:
    """The line of source that the operation comes from; empty if it cannot be read."""
    lines = node.place.lines
    return linecache.getline(*lines[0][:2]).strip() if lines else ""


def _kind(op: Op) -> dict[str, Any]:
    rule = op.backward
    return {
        "rule": "" if rule is None else rule.name,
        "source": op.formula,
        "mathematics": op.mathematics,
        "place": "" if rule is None else "/".join(Path(rule.source).parts[-2:]),
        "zero": isinstance(op.entry, ZeroRule),
    }


def _graph(graph: Graph) -> dict[str, Any]:
    return {
        "name": graph.name,
        "kind": graph.kind,
        "call": None if graph.call is None else graph.call.index,
        "inputs": [t.index for t in graph.inputs],
        "results": [t.index for t in graph.results],
        "tensors": [t.index for t in graph.tensors],
        "ops": [node.index for node in graph.nodes],
        "entering": [[outer.index, inner.index] for outer, inner in graph.entering()],
    }
