"""Looking into a differentiation."""

from funcgrad.faults import NonFinite, Summary
from funcgrad.inspect.beside_jax import BesideJax, RuleCost
from funcgrad.inspect.cost import Cost, CostRow, OpenLoop, cost
from funcgrad.inspect.coverage import Coverage, Row, coverage
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
    "Graph",
    "Ledger",
    "Measured",
    "NonFinite",
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
    "cost",
    "coverage",
    "graph",
    "nonfinite",
    "places",
    "residuals",
]
