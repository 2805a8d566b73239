"""Methods from papers, each a few lines on selectors, taps, edits and overrides by place."""

from funcgrad.surgery.methods.per_example import squared_norms

__all__ = ["squared_norms"]
