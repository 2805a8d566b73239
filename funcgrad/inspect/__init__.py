"""Looking into a differentiation."""

from funcgrad.inspect.coverage import Coverage, Row, coverage
from funcgrad.inspect.memory import Memory, Region, memory

__all__ = ["Coverage", "Memory", "Region", "Row", "coverage", "memory"]
