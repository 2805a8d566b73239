"""From a traced function to its graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import jax

from funcgrad import _jax
from funcgrad.arguments import name_of
from funcgrad.catching import catching
from funcgrad.default import DEFAULT
from funcgrad.inspect.graphs.nodes import Graph, Op, OpNode, TensorNode
from funcgrad.inspect.graphs.reach import mark
from funcgrad.places.program import Block, Place, program_of
from funcgrad.registry import Rules
from funcgrad.surface import public


@public
def graph(fun: Callable[..., Any], *args: Any, rules: Rules = DEFAULT) -> Graph:
    """Return the graph of a function: its values, its operations, and their rules.

    Args:
      fun: a function of pytrees of arrays.
      *args: its arguments, or ``jax.ShapeDtypeStruct`` in their place: then the graph has no values.
      rules: the backward rules.

    Returns:
      A :class:`Graph`.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> found = funcgrad.inspect.graph(lambda x: jnp.sin(x) * x, 2.0)
      >>> found.nodes
      [<a = sin(x)>, <b = mul(a, x)>]
    """
    with catching(rules):
        closed = jax.make_jaxpr(fun)(*args)
    names = [name for name, _ in _arguments(fun, args)]
    found = Builder(rules).graph_of(program_of(closed), name_of(fun).split(" at ")[0], names)
    mark(found, found.inputs)
    return found


def _arguments(fun: Callable[..., Any], args: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
    """The leaves of the arguments with their names: ``params['w']``."""
    from funcgrad.arguments import names_of_arguments

    for name, arg in zip(names_of_arguments(fun, len(args)), args, strict=True):
        for path, leaf in jax.tree_util.tree_leaves_with_path(arg):
            yield name + jax.tree_util.keystr(path), leaf


@dataclass
class Builder:
    """Makes the nodes of a graph, numbered through all graphs that it holds."""

    rules: Rules
    ops: dict[Any, Op] = field(default_factory=dict)
    numbers: Any = field(default_factory=count)
    letters: Any = field(default_factory=count)
    where: dict[Any, TensorNode] = field(default_factory=dict)
    """By block and variable, the value."""

    def graph_of(
        self, block: Block, name: str, names: list[str], call: OpNode | None = None
    ) -> Graph:
        """The graph of a block; `names` are those of its arguments."""
        graph = Graph(name, block.kind or "function", [], [], [], [], call)
        for v in block.jaxpr.constvars:
            self.tensor(graph, block, v, "constant", letter(next(self.letters)))
        for v, own in zip(block.jaxpr.invars, names, strict=True):
            graph.inputs.append(self.tensor(graph, block, v, "argument", own))
        for i, place in enumerate(block.places):
            self.add(graph, block, place, block.inner.get(i, []))
        graph.results[:] = [self.read(graph, block, v) for v in block.jaxpr.outvars]
        for tensor in graph.results:
            tensor.is_result = True
        return graph

    def add(self, graph: Graph, block: Block, place: Place, inner: list[Block]) -> None:
        """Add an operation, with what it makes and what it carries."""
        operands = [self.read(graph, block, v) for v in place.equation.invars]
        outputs = [
            self.tensor(graph, block, v, "value", letter(next(self.letters)))
            for v in place.equation.outvars
            if not _jax.is_dropped(v)
        ]
        node = OpNode(place.position, self.op_of(place), place, operands, outputs)
        graph.nodes.append(node)
        for i, tensor in enumerate(operands):
            tensor.readers.append((node, i))
        for tensor in outputs:
            tensor.maker = node
        for carried in inner:
            names = [letter(next(self.letters)) for _ in carried.jaxpr.invars]
            name = (place.function or str(place.op)).split(" at ")[0]
            node.graphs.append(self.graph_of(carried, name, names, node))

    def op_of(self, place: Place) -> Op:
        """The kind of an operation: one object for each."""
        if place.op not in self.ops:
            self.ops[place.op] = Op(place.op.name, place.op, self.rules.find(place.op))
        return self.ops[place.op]

    def tensor(self, graph: Graph, block: Block, v: Any, kind: str, name: str) -> TensorNode:
        """A new value."""
        made = TensorNode(next(self.numbers), name, v.aval, kind, steps=block.scans)
        self.where[block, v] = made
        graph.tensors.append(made)
        return made

    def read(self, graph: Graph, block: Block, v: Any) -> TensorNode:
        """The value that an operation reads: one that is known, or a literal."""
        if not _jax.is_literal(v):
            return self.where[block, v]
        literal = TensorNode(
            next(self.numbers), _jax.shown_literal(v), v.aval, "literal", value=v.val
        )
        graph.tensors.append(literal)
        return literal


def letter(number: int) -> str:
    """``a`` to ``z``, then ``aa``, ``ab``, as a jaxpr names its variables."""
    found = ""
    while number >= 0:
        found = chr(ord("a") + number % 26) + found
        number = number // 26 - 1
    return found
