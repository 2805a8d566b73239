"""Looking into a differentiation."""

from funcgrad.faults import NonFinite, Summary
from funcgrad.inspect.cost import Cost, CostRow, NotCounted, OpenLoop, cost
from funcgrad.inspect.costs.beside_jax import BesideJax, RuleCost
from funcgrad.inspect.coverage import Coverage, Row, coverage
from funcgrad.inspect.flows import Flag, Flow, Thresholds, flow, value_grad_and_flow
from funcgrad.inspect.graphs import Contribution, Graph, Op, OpNode, TensorNode, graph
from funcgrad.inspect.ledger import Ask, Ledger, Measured, Region, Residual, Suggestion
from funcgrad.inspect.nonfinite import nonfinite
from funcgrad.inspect.places import Places, places
from funcgrad.inspect.residuals import residuals

__all__ = [
    "Ask",
    "BesideJax",
    "Contribution",
    "Cost",
    "CostRow",
    "Coverage",
    "Flag",
    "Flow",
    "Graph",
    "Ledger",
    "Measured",
    "NonFinite",
    "NotCounted",
    "Op",
    "OpNode",
    "OpenLoop",
    "Places",
    "Region",
    "Residual",
    "Row",
    "RuleCost",
    "Suggestion",
    "Summary",
    "TensorNode",
    "Thresholds",
    "cost",
    "coverage",
    "flow",
    "graph",
    "nonfinite",
    "places",
    "residuals",
    "value_grad_and_flow",
]
