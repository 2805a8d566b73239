"""The run and the walk back, step by step."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from funcgrad.inspect.graphs.export.numbers import as_numpy
from funcgrad.inspect.graphs.mathematics import Formula, formula_of, substituted

if TYPE_CHECKING:
    from funcgrad.inspect.graphs.nodes import Contribution, Graph, OpNode, TensorNode

FEW = 4
"""The most elements that a line shows."""


@dataclass(frozen=True)
class Step:
    """One operation of the run, or of the walk back. Printed, it is a line.

    Attributes:
      number: of the step in its direction, counted from 1.
      direction: ``"forward"`` or ``"backward"``.
      node: the operation.
      reads: the values that are read: operands, or on the way back what the rule reads.
      arriving: on the way back, the outputs at which a cotangent arrives, which is their `gradient`.
      makes: on the way forward, the values that are made.
      adds: on the way back, the values to whose gradients the operation adds, each with what it adds.
      completed: on the way back, values with several contributions of which this step adds the last.
    """

    number: int
    direction: str
    node: OpNode
    reads: Sequence[TensorNode]
    arriving: Sequence[TensorNode] = ()
    makes: Sequence[TensorNode] = ()
    adds: Sequence[tuple[TensorNode, Contribution]] = ()
    completed: Sequence[TensorNode] = ()

    def __str__(self) -> str:
        if self.direction == "forward":
            return f"{self.number}. {_forward_line(self)}"
        return f"backward {self.number}. {_backward_line(self)}"

    __repr__ = __str__


def forward(graph: Graph, inside: bool = False) -> Iterator[Step]:
    """The operations in the order of the run; with `inside`, each call's after the call."""
    nodes = graph.walk() if inside else graph.nodes
    for number, node in enumerate(nodes, 1):
        yield Step(number, "forward", node, node.inputs, makes=node.outputs)


def backward(graph: Graph, inside: bool = False) -> Iterator[Step]:
    """The operations in the order of the walk back; with `inside`, each call's after the call."""
    nodes = order_back(graph) if inside else (n for n in reversed(graph.nodes) if n.is_pulled)
    for number, node in enumerate(nodes, 1):
        reads = list(dict.fromkeys(tensor for tensor, _ in node.context))
        arriving = [tensor for tensor in node.outputs if tensor.is_active]
        adds = [
            (tensor, one)
            for tensor in dict.fromkeys(node.inputs)
            for one in arrived(tensor)
            if one.reader is node
        ]
        last = {tensor for tensor, _ in adds if len(arrived(tensor)) > 1}
        completed = [tensor for tensor in last if _first_reader(tensor) is node]
        yield Step(number, "backward", node, reads, arriving, (), adds, completed)


def order_back(graph: Graph) -> Iterator[OpNode]:
    """The operations, those inside calls included, at which a cotangent arrives, in that order."""
    for node in reversed(graph.nodes):
        if node.is_pulled:
            yield node
            for inner in reversed(node.graphs):
                yield from order_back(inner)


def arrived(tensor: TensorNode) -> list[Contribution]:
    """The contributions to a value's gradient in the order of the walk back.

    Those that arrived; in a graph without numbers, all.
    """
    known = tensor.gradient is not None
    found = [one for one in tensor.contributions if one.gradient is not None or not known]
    return sorted(found, key=_arrival)


def _arrival(one: Contribution) -> float:
    """What orders contributions: first those of the results, then those of the last readers."""
    return -math.inf if one.reader is None else -one.reader.index


def _first_reader(tensor: TensorNode) -> OpNode | None:
    """The operation that the walk back meets last of those that read a value."""
    readers = [one.reader for one in arrived(tensor) if one.reader is not None]
    return min(readers, key=lambda reader: reader.index, default=None)


# --- lines


def _forward_line(step: Step) -> str:
    node = step.node
    formula = formula_of(node.op.key, node.op.entry)
    made = ", ".join(tensor.name for tensor in step.makes)
    if formula is not None and _is_infix(formula):
        text = substituted(formula.value, _names(formula, node))
    else:
        text = f"{node.op.name}({', '.join(tensor.name for tensor in node.inputs)})"
    given = [t for t in dict.fromkeys(step.reads) if t.kind != "literal"]
    known = " -> ".join(filter(None, (_listed(given), _listed(step.makes))))
    return f"{made} = {text}" + (f": {known}" if known else "")


def _backward_line(step: Step) -> str:
    parts = []
    for tensor, one in step.adds:
        shown = _number(one.gradient)
        value = f" = {shown}" if shown else ""
        parts.append(f"ct_{tensor.name} += {_term(step, one.operand)}{value}")
    for tensor in step.completed:
        terms = [_number(one.gradient) for one in arrived(tensor)]
        total = _number(tensor.gradient)
        if total and all(terms):
            parts.append(f"ct_{tensor.name} = {' + '.join(terms)} = {total}".replace("+ -", "- "))
        else:
            parts.append(f"ct_{tensor.name} is complete, the sum of {len(terms)}")
    return "; ".join(parts) or f"{step.node.op.name}: nothing is wanted"


def _term(step: Step, operand: int) -> str:
    """What an operation adds to an operand's cotangent."""
    node = step.node
    formula = formula_of(node.op.key, node.op.entry)
    if formula is not None and operand < len(formula.cts) and len(node.inputs) == len(formula.cts):
        text = substituted(formula.cts[operand], _names(formula, node))
        summed = node.inputs[operand].shape != node.outputs[0].shape
        return f"sum({text})" if summed else text
    cts = [f"ct_{tensor.name}" for tensor in step.arriving]
    rule = node.op.backward
    if rule is None or node.residuals_inside:
        return f"the way back through {node.op.name} of {', '.join(cts)}"
    return f"{rule.name}({', '.join([*cts, *(tensor.name for tensor in step.reads)])})"


def _names(formula: Formula, node: OpNode) -> Mapping[str, str]:
    """The names in a formula, each with that of the value that it is here."""
    (out,) = node.outputs or [None]
    names = (f"({t.name})" if t.name.startswith("-") else t.name for t in node.inputs)
    values = dict(zip(formula.operands, names, strict=False))
    params = {name: str(node.params[known]) for name, known in formula.params.items()}
    results = {} if out is None else {"y": out.name, "ct": f"ct_{out.name}"}
    return {**values, **params, **results}


def _is_infix(formula: Formula) -> bool:
    """Whether an operation is written with signs, not as a function."""
    nodes = [*ast.walk(ast.parse(formula.value, mode="eval").body)]
    return len(nodes) > 2 and not any(isinstance(node, ast.Call) for node in nodes)


def _listed(tensors: Sequence[TensorNode]) -> str:
    """``a = 0.5, b = 2``: the values that are few elements."""
    known = [(tensor.name, _number(tensor.value)) for tensor in tensors]
    return ", ".join(f"{name} = {number}" for name, number in known if number)


def _number(x: Any) -> str:
    """A small array's elements, with 3 digits; empty for any other."""
    array = as_numpy(x)
    if array is None or array.size > FEW or not array.size:
        return ""
    return _shown(array.tolist())


def _shown(x: Any) -> str:
    if isinstance(x, list):
        return f"[{', '.join(map(_shown, x))}]"
    return (
        f"{x:.3g}" if isinstance(x, (int, float, complex)) and not isinstance(x, bool) else str(x)
    )
