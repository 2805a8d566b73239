"""The graph's classes: a `TensorNode` for a value, an `OpNode` for an operation, an `Op` for its kind.

The graph is bipartite: an operation reads values and makes values. An operation that carries a function
(`jit`, `scan`, `cond`, `while`, `checkpoint`, a custom derivative) holds a graph for each of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from funcgrad import _jax
from funcgrad.inspect.graphs.context import context_of, reads_by_rule
from funcgrad.inspect.graphs.mathematics import notation_of
from funcgrad.inspect.graphs.search import Found, find
from funcgrad.inspect.graphs.steps import Step, backward, forward
from funcgrad.inspect.graphs.table import table
from funcgrad.inspect.graphs.trace import Traced
from funcgrad.places.program import TEST, Place, operands_entering
from funcgrad.places.selectors import Selector
from funcgrad.printing import source_text
from funcgrad.registry import Entry, Rule

if TYPE_CHECKING:
    from funcgrad.inspect.graphs.drawing.views import View


@dataclass(frozen=True, eq=False)
class Op:
    """One kind of operation, shared by all its nodes.

    Attributes:
      name: the primitive's name, or the function's that is overridden.
      primitive: the primitive.
      key: what its rule is filed under: the primitive, or a function.
      entry: what the rules have for it: a rule, a mark that its derivative is zero, or how the function
        that it carries is differentiated; None if nothing is known.
      is_caught: whether it is a function whose calls are caught, since a rule overrides it.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> graph = funcgrad.inspect.graph(jnp.tanh, 0.5)
      >>> print(graph.nodes[0].op.mathematics)
      y = tanh(x);  x̄ = ȳ (1 - y²)
    """

    name: str
    primitive: Any
    key: Any
    entry: Entry | None
    is_caught: bool = False

    def forward(self, *operands: Any, **params: Any) -> Any:
        """Apply the operation."""
        return self.primitive.bind(*operands, **params)

    @property
    def backward(self) -> Callable[..., Any] | None:
        """The rule: from output cotangents to operand cotangents; None where there is none."""
        return self.entry if isinstance(self.entry, Rule) else None

    @property
    def formula(self) -> str:
        """The source of the rule; empty where there is none."""
        fn = getattr(self.entry, "fn", None)
        return "" if fn is None else source_text(fn)

    @property
    def mathematics(self) -> str:
        """``y = tanh(x);  x̄ = ȳ (1 - y²)``; empty where none is written down, or the rule is another."""
        return notation_of(self.key, self.entry)

    def __repr__(self) -> str:
        return f"<op {self.name}>"


@dataclass(frozen=True, eq=False)
class Contribution:
    """What one reader of a value adds to the value's gradient.

    Attributes:
      reader: the operation that reads the value; None where the graph returns the value.
      operand: which of the reader's operands the value is.
      gradient: the cotangent that the reader's rule gave; None where none arrived or none is known.

    Example:
      >>> import funcgrad
      >>> graph = funcgrad.inspect.graph(lambda x: x * x, 3.0)  # x is read twice
      >>> [x] = graph.inputs
      >>> print([float(one.gradient) for one in x.contributions], x.gradient)
      [3.0, 3.0] 6.0
    """

    reader: OpNode | None
    operand: int
    gradient: Any


@dataclass(eq=False, repr=False)
class TensorNode:
    """One value of a function.

    Attributes:
      index: its number among the values of the whole graph, those inside operations included.
      name: an argument's name, the user's variable, or a letter.
      aval: its type.
      kind: ``"argument"``, ``"constant"``, ``"literal"`` or ``"value"``.
      maker: the operation that made it; None for what the graph is given.
      readers: the operations that read it, each with the number of the operand.
      value: the value in the run that the graph was made of; None where it is not known.
      gradient: the cotangent, of the value's shape and dtype; None where none arrived or none is known.
      contributions: what each reader added to the gradient.
      is_result: whether the graph returns it.
      axes: what the leading axes of `value` and `gradient` count, from the outside in: ``"step"`` for
        each scan around the value; ``"device"`` for a shard_map, with an element for each of the devices
        on which the value differs, and one if it is the same on all.
      present: where there are branches or loops around the value, whether it was computed: a bool array
        with an element for each step. Elsewhere value and gradient are zeros that mean nothing.
      is_active: whether the value is on a way from a differentiated argument to a result.

    Example:
      >>> import funcgrad
      >>> graph = funcgrad.inspect.graph(lambda w, x: w * x, 0.5, 2.0)
      >>> w, x = graph.inputs
      >>> print(w.name, w.value, w.gradient)
      w 0.5 2.0
    """

    index: int
    name: str
    aval: Any
    kind: str = "value"
    maker: OpNode | None = None
    readers: list[tuple[OpNode, int]] = field(default_factory=list)
    value: Any = None
    gradient: Any = None
    contributions: list[Contribution] = field(default_factory=list)
    is_result: bool = False
    axes: tuple[str, ...] = ()
    present: Any = None
    is_active: bool = False

    @property
    def steps(self) -> int:
        """How many leading axes of `value` and `gradient` are no part of the shape."""
        return len(self.axes)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape, without steps and devices."""
        return tuple(getattr(self.aval, "shape", ()))

    @property
    def dtype(self) -> Any:
        """The dtype; None for a value that is no array."""
        return getattr(self.aval, "dtype", None)

    @property
    def differentiable(self) -> bool:
        """Whether a gradient of it exists."""
        return _jax.is_inexact(self.aval)

    def __repr__(self) -> str:
        return f"<value {self.name}: {self.aval.str_short(short_dtypes=True)}>"


@dataclass(eq=False, repr=False)
class OpNode:
    """One operation of a function.

    Attributes:
      index: its number among the operations of the whole graph, in the order in which they run.
      op: its kind.
      place: where it stands in the traced function.
      inputs: the values that it reads, one for each operand.
      outputs: the values that it makes.
      graphs: the graphs of the functions that it carries.
      is_entered: whether these are differentiated operation by operation, so that they have numbers.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> graph = funcgrad.inspect.graph(lambda w, x: jnp.tanh(w * x), 0.5, 2.0)
      >>> product, tanh = graph.nodes
      >>> print(product.outputs == tanh.inputs)
      True
    """

    index: int
    op: Op
    place: Place
    inputs: list[TensorNode]
    outputs: list[TensorNode]
    graphs: list[Graph] = field(default_factory=list)
    is_entered: bool = False

    @cached_property
    def context(self) -> list[tuple[TensorNode, str]]:
        """The values that its rule reads on the way back, each with ``"operand 0"`` or ``"output 1"``.

        Empty where no cotangent arrives, and for a call, of which `residuals_inside` is true: its way
        back reads values inside it.
        """
        return context_of(self)

    @property
    def params(self) -> dict[str, Any]:
        """The operation's static parameters."""
        return self.place.params

    @property
    def where(self) -> str | None:
        """``file:line (function)`` in the user's source."""
        return self.place.where

    @property
    def scope(self) -> str:
        """The name scopes around the operation: ``encoder/layer_0``."""
        return self.place.scope

    @property
    def where_in_short(self) -> str:
        """``model.py:42 (f)``: the same without folders; empty where it is not known."""
        if not self.place.lines:
            return ""
        file, line, function = self.place.lines[0]
        return f"{os.path.basename(file)}:{line} ({function.split('.')[-1]})"

    @property
    def function(self) -> str | None:
        """The function that the operation calls, ``name at file:line``; None if it calls none."""
        return self.place.function

    @property
    def all_outputs(self) -> list[TensorNode | None]:
        """The operation's outputs by position; None for one that nothing reads."""
        made = iter(self.outputs)
        equation = self.place.equation
        return [None if _jax.is_dropped(v) else next(made) for v in equation.outvars]

    @property
    def carries(self) -> list[str]:
        """The names of the params that are functions."""
        return [name for name, value in self.params.items() if _jax.inner_jaxprs({name: value})]

    @property
    def is_pulled(self) -> bool:
        """Whether a cotangent arrives at it on the way back."""
        return any(tensor.is_active for tensor in self.outputs)

    @property
    def residuals_inside(self) -> bool:
        """Whether the way back reads values inside it, not its operands and outputs alone."""
        return self.is_pulled and self.op.entry is not None and not reads_by_rule(self)

    def __repr__(self) -> str:
        read = ", ".join(tensor.name for tensor in self.inputs)
        made = ", ".join(tensor.name for tensor in self.outputs)
        return f"<{made} = {self.op.name}({read})>"


@dataclass(eq=False, repr=False)
class Graph:
    """The graph of a function, or of one that an operation carries.

    Attributes:
      name: the function's name.
      kind: ``"function"``, or what the operation does with it: ``"scan"``, ``"branch 1"``.
      tensors: the values, those that are given first, then in the order in which they are made.
      nodes: the operations, in the order in which they run.
      inputs: the values that it is given.
      results: the values that it returns.
      function: the traced function.
      call: the operation that carries it; None for the whole function.
      note: why numbers are left out, in words; empty if none is.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> graph = funcgrad.inspect.graph(lambda w, x: jnp.tanh(w * x) * w, 0.5, 2.0)
      >>> print([node.op.name for node in graph.nodes], [tensor.name for tensor in graph.inputs])
      ['mul', 'tanh', 'mul'] ['w', 'x']
    """

    name: str
    kind: str
    tensors: list[TensorNode]
    nodes: list[OpNode]
    inputs: list[TensorNode]
    results: list[TensorNode]
    function: Traced
    call: OpNode | None = None
    note: str = ""

    def walk(self) -> Iterator[OpNode]:
        """All operations, each followed by those inside it."""
        for node in self.nodes:
            yield node
            for inner in node.graphs:
                yield from inner.walk()

    def graphs(self) -> Iterator[Graph]:
        """This graph and those inside its operations, each before those inside it."""
        yield self
        for node in self.nodes:
            for inner in node.graphs:
                yield from inner.graphs()

    def all_tensors(self) -> Iterator[TensorNode]:
        """All values, those inside operations included."""
        for graph in self.graphs():
            yield from graph.tensors

    @property
    def ops(self) -> list[Op]:
        """The kinds of operations, each once, in the order in which they first occur."""
        return list(dict.fromkeys(node.op for node in self.walk()))

    def entering(self) -> Sequence[tuple[TensorNode, TensorNode]]:
        """Of each value that a carried graph is given, the operand that it is; the operand comes first.

        Empty where the two do not correspond one to one.
        """
        if self.call is None:
            return []
        own = self.call.inputs
        operands = [own[i] for i in operands_entering(self.kind, self.call.params, len(own))]
        if len(operands) != len(self.inputs):
            return []
        return [*zip(operands, self.inputs, strict=True)]

    def leaving(self) -> Sequence[tuple[TensorNode, TensorNode]]:
        """Of each result of a carried graph, the operation's output that it is; the result comes first.

        Empty where the two do not correspond one to one. An output that nothing reads is left out.
        """
        if self.call is None or self.kind == TEST:
            return []
        outputs = self.call.all_outputs
        if len(outputs) != len(self.results):
            return []
        pairs = zip(self.results, outputs, strict=True)
        return [(result, output) for result, output in pairs if output is not None]

    def carried(self) -> Sequence[tuple[TensorNode, TensorNode]]:
        """Of each result that a loop's next step is given, the input that it is there."""
        if self.call is None or self.kind not in ("scan", "while"):
            return []
        params = self.call.params
        if self.kind == "scan":
            first, count = _jax.scan_settings(params)[:2]
        else:
            first, count = params["body_nconsts"], len(self.results)
        return [*zip(self.results[:count], self.inputs[first : first + count], strict=True)]

    def forward(self, inside: bool = False) -> Iterator[Step]:
        """The run, step by step; with `inside`, through the operations of each call after the call."""
        return forward(self, inside)

    def backward(self, inside: bool = False) -> Iterator[Step]:
        """The walk back, step by step: the operations at which a cotangent arrives, the last first."""
        return backward(self, inside)

    def find(self, selector: Selector) -> Found:
        """The operations and values that a selector means.

        Args:
          selector: made with :func:`funcgrad.at`.

        Returns:
          A :class:`Found`, with `nodes` and `values`.

        Raises:
          errors.SelectorError: it means none; the message has near misses.

        Example:
          >>> import jax.numpy as jnp, funcgrad
          >>> found = funcgrad.inspect.graph(lambda x: jnp.sin(x) * x, 2.0)
          >>> found.find(funcgrad.at(op="sin")).nodes
          [<a = sin(x)>]
        """
        return find(self, self.function, selector)

    def as_dict(self) -> dict[str, Any]:
        """The graph as lists, dictionaries, strings and numbers."""
        from funcgrad.inspect.graphs.export.json import as_dict

        return as_dict(self)

    def views(self) -> list[View]:
        """Return the pictures of the graph: that of the whole, then those that its groups lead to."""
        from funcgrad.inspect.graphs.drawing.views import views_of

        return views_of(self)

    def to_svg(
        self,
        path: str | os.PathLike[str] | None = None,
        view: int | str = 0,
        step: int | Sequence[int] = -1,
    ) -> str:
        """Draw the graph: forward runs downwards, and cotangents run upwards beside it.

        Args:
          path: the file that the picture is written to; None writes none.
          view: the number of the view, or its name: ``"layer_0"``. Nought is the whole graph.
          step: of which step of a scan the numbers of the values inside it are, from 0; -1 is the last.
            Of nested scans one number for each, from the outside in, or one for all. A value that was
            not computed in that step has no numbers.

        Returns:
          The picture as SVG.

        Raises:
          MissingPackageError: ``pygraphviz`` is not installed (``pip install "funcgrad[pictures]"``).
          SelectorError: there is no such view, or there are several.

        Example:
          >>> import jax.numpy as jnp, funcgrad
          >>> found = funcgrad.inspect.graph(lambda x: jnp.sin(x) * x, 2.0)
          >>> found.to_svg().count('class="op"')
          2
        """
        from funcgrad.inspect.graphs.drawing.display import to_svg

        return to_svg(self, path, view, step)

    def _repr_html_(self) -> str:
        from funcgrad.inspect.graphs.drawing.display import html_of

        return html_of(self.views()[0])

    def to_json(self) -> str:
        """The graph as JSON."""
        from funcgrad.inspect.graphs.export.json import to_json

        return to_json(self)

    def to_html(self, path: str | Path | None = None) -> str:
        """Return a page to step through: forward operation by operation, then backward.

        The page is one file and asks for nothing: it can be sent, kept, and read without a network.

        Args:
          path: a file to write the page to; None to write none.

        Returns:
          The page as text.

        Raises:
          MissingPackageError: ``pygraphviz`` is not installed, with which the pictures are laid out.

        Example:
          >>> import funcgrad, jax.numpy as jnp
          >>> page = funcgrad.inspect.graph(lambda x: jnp.sin(x) * x, 2.0).to_html()
          >>> page.startswith("<!doctype html>")
          True
        """
        from funcgrad.inspect.graphs.page import to_html

        return to_html(self, path)

    def to_dot(self) -> str:
        """The graph in the language of Graphviz, with a cluster for each call and name scope."""
        from funcgrad.inspect.graphs.export.dot import to_dot

        return to_dot(self)

    def to_model_explorer(self) -> str:
        """The graph as JSON for Google's Model Explorer: the text of a file that it opens."""
        from funcgrad.inspect.graphs.export.model_explorer import to_model_explorer

        return to_model_explorer(self)

    def __str__(self) -> str:
        return table(self)

    def __repr__(self) -> str:
        return f"<graph of {self.name}: {len(self.nodes)} operations, {len(self.tensors)} values>"
