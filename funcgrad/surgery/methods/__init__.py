"""Methods of the literature, each a few lines on taps, edits and overrides by place."""

from funcgrad.surgery.methods.class_activation import grad_cam
from funcgrad.surgery.methods.integrated import integrated_gradients
from funcgrad.surgery.methods.patching import activations, attribution_patching, patched
from funcgrad.surgery.methods.rectifiers import deconvnet, guided_backprop
from funcgrad.surgery.methods.relevance import attn_lrp, lrp
from funcgrad.surgery.methods.rescale import deep_lift

__all__ = [
    "activations",
    "attn_lrp",
    "attribution_patching",
    "deconvnet",
    "deep_lift",
    "grad_cam",
    "guided_backprop",
    "integrated_gradients",
    "lrp",
    "patched",
]
