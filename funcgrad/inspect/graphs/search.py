"""What a selector means in a graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from funcgrad import errors
from funcgrad.places.asked import no_place
from funcgrad.places.selectors import Selector

if TYPE_CHECKING:
    from funcgrad.inspect.graphs.nodes import Graph, OpNode, TensorNode
    from funcgrad.inspect.graphs.trace import Traced


@dataclass(frozen=True)
class Found:
    """What a selector means.

    Attributes:
      nodes: the operations, in the order of the run.
      values: the values, those that a tap of the same selector gives.
    """

    nodes: list[OpNode]
    values: list[TensorNode]

    @property
    def node(self) -> OpNode:
        """The operation, if the selector means one.

        Raises:
          errors.SelectorError: there are more, or none.
        """
        return _only(self.nodes, "operation", "nodes")

    @property
    def value(self) -> TensorNode:
        """The value, if the selector means one.

        Raises:
          errors.SelectorError: there are more, or none.
        """
        return _only(self.values, "value", "values")

    def __iter__(self) -> Iterator[OpNode]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)


T = TypeVar("T")


def _only(found: list[T], what: str, name: str) -> T:
    if len(found) != 1:
        listed = "".join(f"\n- {i}: {one}" for i, one in enumerate(found[:10]))
        raise errors.SelectorError(
            f"One {what} was asked for, and the selector means {len(found)}:{listed}\n"
            f"Take one of `{name}` by its number, or narrow the selector: selector[i]."
        )
    return found[0]


def find(graph: Graph, function: Traced, selector: Selector) -> Found:
    """The operations and values of a graph that a selector means.

    Raises:
      errors.SelectorError: it is no selector, or it means none.
    """
    if not isinstance(selector, Selector):
        raise errors.SelectorError(
            f"graph.find was given {selector!r}, a {type(selector).__name__}. Pass a selector: "
            'graph.find(funcgrad.at("encoder")).'
        )
    program = function.places_of(selector)
    nodes = {node.index: node for node in graph.walk()}
    places = [place for place in selector.places(program) if place.position in nodes]
    if not places:
        raise errors.SelectorError(no_place(selector, program, function.name, "A search"))
    values = [
        value
        for site in selector.sites(program)
        for place in site.own
        if place.position in nodes
        for v, value in zip(place.equation.outvars, nodes[place.position].all_outputs, strict=True)
        if value is not None and v in site.variables
    ]
    return Found([nodes[place.position] for place in places], [*dict.fromkeys(values)])
