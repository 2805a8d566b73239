"""Looking into a differentiation."""

from funcgrad.faults import NonFinite, Summary
from funcgrad.inspect.coverage import Coverage, Row, coverage
from funcgrad.inspect.memory import Memory, Region, memory
from funcgrad.inspect.nonfinite import nonfinite

__all__ = [
    "Coverage",
    "Memory",
    "NonFinite",
    "Region",
    "Row",
    "Summary",
    "coverage",
    "memory",
    "nonfinite",
]
