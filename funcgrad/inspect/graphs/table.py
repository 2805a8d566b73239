"""A graph as a table of text, collapsed by call and name scope where it is long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from funcgrad.inspect.places import segments
from funcgrad.inspect.tables import shortened
from funcgrad.inspect.tables import table as in_columns

if TYPE_CHECKING:
    from funcgrad.inspect.graphs.nodes import Graph, OpNode, TensorNode

MOST_ROWS = 60
"""How long a table may be before calls and scopes are collapsed."""

MOST_ARGUMENTS = 10

WIDEST = 40

Row = tuple[str, str, str, str, str, str]
HEAD: Row = ("", "name", "type", "operation", "reads", "line")
NAME = 1
"""The column of names, of which the end says most: ``['kernel']``."""


def table(graph: Graph) -> str:
    """The values and operations: number, name, type, operation, what it reads, line."""
    given = [_row_of_input(tensor) for tensor in graph.inputs]
    operations = _rows_within(graph, MOST_ROWS)
    rows = [*_shortened(given, MOST_ARGUMENTS), *_shortened(operations, MOST_ROWS)]
    shown = [
        [shortened(cell, WIDEST) if i == NAME else _clipped(cell) for i, cell in enumerate(row)]
        for row in rows
    ]
    note = [graph.note] if graph.note else []
    return "\n".join([_title(graph), in_columns(HEAD, shown, range(1, len(HEAD))), *note])


def _title(graph: Graph) -> str:
    count = sum(1 for _ in graph.walk())
    results = ", ".join(tensor.name for tensor in graph.results)
    return f"graph of {graph.name}: {count:,} operations, returns {results}"


def _clipped(cell: str) -> str:
    return cell if len(cell) <= WIDEST else cell[: WIDEST - 1] + "…"


def _shortened(rows: Sequence[Row], most: int) -> list[Row]:
    """The first and the last rows of very many."""
    half = most // 2
    if len(rows) <= most:
        return [*rows]
    left = len(rows) - 2 * half
    return [*rows[:half], ("", "", "", f"… {left:,} more rows", "", ""), *rows[-half:]]


def _row_of_input(tensor: TensorNode) -> Row:
    return "", tensor.name, _type(tensor), tensor.kind, "", ""


def _type(tensor: TensorNode) -> str:
    return tensor.aval.str_short(short_dtypes=True)


# --- rows of operations


@dataclass(frozen=True)
class _Placed:
    """An operation with the way to it through scopes, loops and branches."""

    node: OpNode
    path: tuple[tuple[Any, str], ...]


def _rows_within(graph: Graph, most: int) -> list[Row]:
    """The rows, collapsed at the greatest depth at which there are no more than `most`."""
    nodes = [_Placed(node, segments(node.place)) for node in graph.walk()]
    deepest = max((len(placed.path) for placed in nodes), default=0)
    for depth in range(deepest, -1, -1):
        if sum(1 for _ in _groups(nodes, depth)) <= most or not depth:
            break
    return [_row(list(group), depth) for group in _groups(nodes, depth)]


def _groups(nodes: Sequence[_Placed], depth: int) -> Iterator[list[_Placed]]:
    """Single operations, and runs of those that lie deeper than `depth` in one place."""

    def kind(placed: _Placed) -> Any:
        return tuple(key for key, _ in placed.path[: depth + 1])

    for _, group in groupby(nodes, kind):
        run = list(group)
        if len(run[0].path) > depth:
            yield run
        else:
            yield from ([placed] for placed in run)


def _row(group: list[_Placed], depth: int) -> Row:
    first, last = group[0], group[-1]
    indent = "  " * min(len(first.path), depth)
    if len(group) == 1:
        node = first.node
        made = ", ".join(tensor.name for tensor in node.outputs)
        types = ", ".join(map(_type, node.outputs))
        reads = ", ".join(tensor.name for tensor in node.inputs)
        operation = node.op.name if node.function is None else _call(node)
        line = node.where_in_short.partition(" ")[0]
        return str(node.index), indent + made, types, operation, reads, line
    numbers = f"{first.node.index}-{last.node.index}"
    name = "/".join(name for _, name in first.path[: depth + 1])
    return numbers, indent + name, "", f"{len(group):,} operations", "", ""


def _call(node: OpNode) -> str:
    """A call with the function that it calls: ``jit of softmax``."""
    function = (node.function or "").split(" at ")[0].split("[")[0]
    return node.op.name if function == node.op.name else f"{node.op.name} of {function}"
