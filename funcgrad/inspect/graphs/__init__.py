"""A function as a graph: values, the operations between them, and the rules that lead back."""

from funcgrad.inspect.graphs.build import graph
from funcgrad.inspect.graphs.nodes import Contribution, Graph, Op, OpNode, TensorNode

__all__ = ["Contribution", "Graph", "Op", "OpNode", "TensorNode", "graph"]
