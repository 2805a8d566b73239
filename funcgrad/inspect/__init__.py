"""Looking into a differentiation."""

from funcgrad.inspect.coverage import Coverage, Row, coverage

__all__ = ["Coverage", "Row", "coverage"]
