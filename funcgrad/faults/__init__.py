"""Where a value ceases to be finite: what is said of it, what helps, and steps that watch for it."""

from funcgrad.faults.report import NonFinite, Summary
from funcgrad.faults.watching import raising

__all__ = ["NonFinite", "Summary", "raising"]
