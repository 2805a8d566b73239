"""From a traced function to its graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from funcgrad import _jax
from funcgrad.default import DEFAULT
from funcgrad.functions import unmarked
from funcgrad.inspect.arrays import on_arrays
from funcgrad.inspect.graphs import names
from funcgrad.inspect.graphs import values as of_run
from funcgrad.inspect.graphs.nodes import Graph, Op, OpNode, TensorNode
from funcgrad.inspect.graphs.reach import mark
from funcgrad.inspect.graphs.trace import Traced, traced
from funcgrad.keys import FunctionId
from funcgrad.places.program import Block, Place
from funcgrad.registry import Rules
from funcgrad.surface import public


@public
def graph(
    fun: Callable[..., Any],
    *args: Any,
    rules: Rules = DEFAULT,
    values: bool | int | None = None,
    cts: Any = None,
) -> Graph:
    """Return the graph of a function: its values, its operations, their rules, and the run's numbers.

    The numbers are those of one run of the function and of the walk back from it. Inside a custom
    derivative they are those of the function, run beside it, and nothing there has a cotangent.

    Args:
      fun: a function of pytrees of arrays.
      *args: its arguments, or ``jax.ShapeDtypeStruct`` in their place: then the graph has no numbers. A
        leaf that is no array is closed over.
      rules: the backward rules.
      values: whether the function is run for its numbers. True: all of them; False: none; a number: so
        many bytes of them, the largest arrays left out first; None: 256 MiB, and none of a function of
        more than 2,000 operations. What is left out is said in the graph's `note`.
      cts: the cotangents of the results, a pytree as `fun` returns; None for ones, so that a gradient is
        that of the sum of all results.

    Returns:
      A :class:`Graph`.

    Raises:
      errors.SelectorError: an override by place means no place of the function.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> found = funcgrad.inspect.graph(lambda x: jnp.sin(x) * x, 2.0)
      >>> found.nodes
      [<a = sin(x)>, <b = mul(a, x)>]
      >>> x = found.inputs[0]
      >>> [round(float(one.gradient), 3) for one in x.contributions], round(float(x.gradient), 3)
      ([-0.832, 0.909], 0.077)
    """
    function = traced(*on_arrays(fun, args), rules)
    builder = Builder(function)
    found = builder.graph_of(function.program, function.name)
    names.give(found, builder.known, function.names)
    mark(found, found.inputs)
    of_run.fill(found, function, builder.known, values, cts)
    return found


@dataclass
class Builder:
    """Makes the nodes of a graph, numbered through all graphs that it holds."""

    function: Traced
    ops: dict[Any, Op] = field(default_factory=dict)
    numbers: Any = field(default_factory=count)
    known: dict[tuple[Block, Any], TensorNode] = field(default_factory=dict)
    """By block and variable, the value."""

    def graph_of(self, block: Block, name: str, call: OpNode | None = None) -> Graph:
        """The graph of a block, in which values have no names yet."""
        graph = Graph(name, block.kind or "function", [], [], [], [], self.function, call)
        for v in block.jaxpr.constvars:
            self.tensor(graph, block, v, "constant")
        for v in block.jaxpr.invars:
            graph.inputs.append(self.tensor(graph, block, v, "argument"))
        for i, place in enumerate(block.places):
            tests = [block.tests[i]] if i in block.tests else []
            self.add(graph, block, place, [*block.inner.get(i, []), *tests])
        graph.results[:] = [self.read(graph, block, v) for v in block.jaxpr.outvars]
        for tensor in graph.results:
            tensor.is_result = True
        return graph

    def add(self, graph: Graph, block: Block, place: Place, inner: list[Block]) -> None:
        """Add an operation, with what it makes and what it carries."""
        operands = [self.read(graph, block, v) for v in place.equation.invars]
        outputs = [
            self.tensor(graph, block, v, "value")
            for v in place.equation.outvars
            if not _jax.is_dropped(v)
        ]
        op, entered = self.op_of(place)
        node = OpNode(place.position, op, place, operands, outputs, is_entered=entered)
        graph.nodes.append(node)
        for i, tensor in enumerate(operands):
            tensor.readers.append((node, i))
        for tensor in outputs:
            tensor.maker = node
        for carried in inner:
            name = (place.function or str(place.op)).split(" at ")[0]
            node.graphs.append(self.graph_of(carried, name, node))

    def op_of(self, place: Place) -> tuple[Op, bool]:
        """The kind of an operation, one object for each, and whether what it carries is entered."""
        op, entry, entered = self.function.entry_of(place)
        key = op, entry
        if key not in self.ops:
            name = getattr(op, "name", None) or str(op).split(" at ")[0]
            caught = isinstance(op, FunctionId) and bool(unmarked(place.function or "")[1])
            self.ops[key] = Op(name, place.op, op, entry, caught)
        return self.ops[key], entered

    def tensor(self, graph: Graph, block: Block, v: Any, kind: str) -> TensorNode:
        """A new value."""
        made = TensorNode(next(self.numbers), "", v.aval, kind, axes=block.axes)
        self.known[block, v] = made
        graph.tensors.append(made)
        return made

    def read(self, graph: Graph, block: Block, v: Any) -> TensorNode:
        """The value that an operation reads: one that is known, or a literal."""
        if not _jax.is_literal(v):
            return self.known[block, v]
        literal = TensorNode(
            next(self.numbers), _jax.shown_literal(v), v.aval, "literal", value=v.val
        )
        graph.tensors.append(literal)
        return literal
