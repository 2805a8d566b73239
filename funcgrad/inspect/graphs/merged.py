"""A graph in which each value occurs once: what is inside a `jit` is among the values around it.

`as_dict` has the operand of a transparent call and what the call is given inside as two values, since
they are two variables. A reader knows them as one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from funcgrad.inspect.graphs.drawing.same import is_transparent, values_of
from funcgrad.inspect.graphs.nodes import Graph


def merged(graph: Graph, written: dict[str, Any]) -> dict[str, Any]:
    """What `as_dict` wrote of a graph, with each value once and transparent calls marked ``"opened"``.

    A value's maker, readers and contributions are those inside the calls. The calls themselves are no
    steps: they are neither in ``"forward"`` nor in ``"backward"``.
    """
    calls = {node.index for node in graph.walk() if is_transparent(node)}
    outside = dict(_outside(graph))
    kept = {one["id"]: _without(one, calls) for one in written["tensors"]}
    for inner, outer in outside.items():
        _join(kept[outer], kept.pop(inner))
    return written | {
        "tensors": [*kept.values()],
        "ops": [_renamed(op, outside) | {"opened": op["id"] in calls} for op in written["ops"]],
        "graphs": [_graph(inner, outside, kept) for inner in written["graphs"]],
        "forward": [op for op in written["forward"] if op not in calls],
        "backward": [op for op in written["backward"] if op not in calls],
    }


def _outside(graph: Graph) -> Iterator[tuple[int, int]]:
    """Of each value inside a transparent call that is one with a value outside, that value."""
    whole = [
        inner for inner in graph.graphs() if inner.call is None or not is_transparent(inner.call)
    ]
    for inner in whole:
        for value in values_of(inner):
            yield from ((tensor.index, value.tensor.index) for tensor in value.inside)


def _without(tensor: dict[str, Any], calls: set[int]) -> dict[str, Any]:
    """A value without what transparent calls do to it."""
    return tensor | {
        "maker": None if tensor["maker"] in calls else tensor["maker"],
        "readers": [by for by in tensor["readers"] if by[0] not in calls],
        "contributions": [one for one in tensor["contributions"] if one["reader"] not in calls],
    }


def _join(outer: dict[str, Any], inner: dict[str, Any]) -> None:
    """Add to a value what is known of it inside a call; that the call returns it is no use of it."""
    if inner["maker"] is not None:
        outer["maker"] = inner["maker"]
    outer["readers"] += inner["readers"]
    outer["contributions"] += [one for one in inner["contributions"] if one["reader"] is not None]
    for what in ("value", "gradient"):
        outer[what] = outer[what] or inner[what]


def _renamed(op: dict[str, Any], outside: dict[int, int]) -> dict[str, Any]:
    names = {what: [outside.get(i, i) for i in op[what]] for what in ("inputs", "outputs")}
    return op | names | {"context": [[outside.get(i, i), what] for i, what in op["context"]]}


def _graph(inner: dict[str, Any], outside: dict[int, int], kept: dict[int, Any]) -> dict[str, Any]:
    names = {what: [outside.get(i, i) for i in inner[what]] for what in ("inputs", "results")}
    entering = [[outside.get(i, i) for i in pair] for pair in inner["entering"]]
    entering = [pair for pair in entering if pair[0] != pair[1]]
    return (
        inner
        | names
        | {"tensors": [i for i in inner["tensors"] if i in kept], "entering": entering}
    )
