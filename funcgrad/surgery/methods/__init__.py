"""Methods from papers, each a few lines on selectors, taps, edits and overrides by place."""

from funcgrad.surgery.methods.cotangent_edits import clipped_at, norm_clipped_at, reversed_at
from funcgrad.surgery.methods.per_example import squared_norms

__all__ = [
    "clipped_at",
    "norm_clipped_at",
    "reversed_at",
    "squared_norms",
]
