"""Looking into a differentiation."""

from funcgrad.inspect.coverage import Coverage, Row, coverage
from funcgrad.inspect.memory import Memory, Region, memory
from funcgrad.inspect.places import Places, places

__all__ = ["Coverage", "Memory", "Places", "Region", "Row", "coverage", "memory", "places"]
