"""Looking into a differentiation."""

from funcgrad.faults import NonFinite, Summary
from funcgrad.inspect.coverage import Coverage, Row, coverage
from funcgrad.inspect.flows import Flag, Flow, Thresholds, flow, value_grad_and_flow
from funcgrad.inspect.graphs import Contribution, Graph, Op, OpNode, TensorNode, graph
from funcgrad.inspect.memory import Memory, Region, memory
from funcgrad.inspect.nonfinite import nonfinite
from funcgrad.inspect.places import Places, places

__all__ = [
    "Contribution",
    "Coverage",
    "Flag",
    "Flow",
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
    "Thresholds",
    "coverage",
    "flow",
    "graph",
    "memory",
    "nonfinite",
    "places",
    "value_grad_and_flow",
]
