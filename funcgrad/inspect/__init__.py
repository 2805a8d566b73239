"""Looking into a differentiation."""

from funcgrad.faults import NonFinite, Summary
from funcgrad.inspect.cost import Cost, CostRow, OpenLoop, cost
from funcgrad.inspect.coverage import Coverage, Row, coverage
from funcgrad.inspect.graphs import Contribution, Graph, Op, OpNode, TensorNode, graph
from funcgrad.inspect.memory import Memory, Region, memory
from funcgrad.inspect.nonfinite import nonfinite
from funcgrad.inspect.places import Places, places

__all__ = [
    "Contribution",
    "Cost",
    "CostRow",
    "Coverage",
    "Graph",
    "Memory",
    "NonFinite",
    "Op",
    "OpNode",
    "OpenLoop",
    "Places",
    "Region",
    "Row",
    "Summary",
    "TensorNode",
    "cost",
    "coverage",
    "graph",
    "memory",
    "nonfinite",
    "places",
]
