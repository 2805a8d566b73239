"""Methods from papers, each a few lines on selectors, taps, edits and overrides by place."""

from funcgrad.surgery.methods.cotangent_edits import clipped_at, norm_clipped_at, reversed_at
from funcgrad.surgery.methods.feedback_alignment import (
    direct_feedback_alignment,
    feedback_alignment,
)
from funcgrad.surgery.methods.kfac import KroneckerFactors, kronecker_factors
from funcgrad.surgery.methods.low_precision import low_precision_products, rounded
from funcgrad.surgery.methods.per_example import squared_norms
from funcgrad.surgery.methods.straight_through import (
    identity_vjp,
    saturating_vjp,
    softmax_vjp,
    straight_through,
)

__all__ = [
    "KroneckerFactors",
    "clipped_at",
    "direct_feedback_alignment",
    "feedback_alignment",
    "identity_vjp",
    "kronecker_factors",
    "low_precision_products",
    "norm_clipped_at",
    "reversed_at",
    "rounded",
    "saturating_vjp",
    "softmax_vjp",
    "squared_norms",
    "straight_through",
]
