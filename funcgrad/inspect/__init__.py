"""Looking into a differentiation."""

from funcgrad.faults import NonFinite, Summary
from funcgrad.inspect.coverage import Coverage, Row, coverage
from funcgrad.inspect.memory import Memory, Region, memory
from funcgrad.inspect.nonfinite import nonfinite
from funcgrad.inspect.places import Places, places

__all__ = [
    "Coverage",
    "Memory",
    "NonFinite",
    "Places",
    "Region",
    "Row",
    "Summary",
    "coverage",
    "memory",
    "nonfinite",
    "places",
]
