"""Looking into a differentiation."""

from funcgrad.faults import NonFinite, Summary
from funcgrad.inspect.coverage import Coverage, Row, coverage
from funcgrad.inspect.graphs import Contribution, Graph, Op, OpNode, TensorNode, graph
from funcgrad.inspect.memory import Memory, Region, memory
from funcgrad.inspect.nonfinite import nonfinite
from funcgrad.inspect.places import Places, places

__all__ = [
    "Contribution",
    "Coverage",
    "Graph",
    "Memory",
    "NonFinite",
    "Op",
    "OpNode",
    "Places",
    "Region",
    "Row",
    "Summary",
    "TensorNode",
    "coverage",
    "graph",
    "memory",
    "nonfinite",
    "places",
]
