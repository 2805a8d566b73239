"""Methods of the literature, each a few lines on selectors, taps, edits and overrides by place."""

from funcgrad.surgery.methods.class_activation import grad_cam
from funcgrad.surgery.methods.cotangent_edits import clipped_at, norm_clipped_at, reversed_at
from funcgrad.surgery.methods.feedback_alignment import (
    direct_feedback_alignment,
    feedback_alignment,
)
from funcgrad.surgery.methods.integrated import integrated_gradients
from funcgrad.surgery.methods.kfac import KroneckerFactors, kronecker_factors
from funcgrad.surgery.methods.low_precision import low_precision_products, rounded
from funcgrad.surgery.methods.patching import activations, attribution_patching, patched
from funcgrad.surgery.methods.per_example import squared_norms
from funcgrad.surgery.methods.rectifiers import deconvnet, guided_backprop
from funcgrad.surgery.methods.relevance import attn_lrp, lrp
from funcgrad.surgery.methods.rescale import deep_lift
from funcgrad.surgery.methods.straight_through import (
    identity_vjp,
    saturating_vjp,
    softmax_vjp,
    straight_through,
)

__all__ = [
    "KroneckerFactors",
    "activations",
    "attn_lrp",
    "attribution_patching",
    "clipped_at",
    "deconvnet",
    "deep_lift",
    "direct_feedback_alignment",
    "feedback_alignment",
    "grad_cam",
    "guided_backprop",
    "identity_vjp",
    "integrated_gradients",
    "kronecker_factors",
    "low_precision_products",
    "lrp",
    "norm_clipped_at",
    "patched",
    "reversed_at",
    "rounded",
    "saturating_vjp",
    "softmax_vjp",
    "squared_norms",
    "straight_through",
]
