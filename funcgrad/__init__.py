"""funcgrad: reverse-mode differentiation for JAX that its users can open."""

from funcgrad.errors import FuncgradError
from funcgrad.op import op
from funcgrad.registry import Rule, Rules, defvjp, partials, zero
from funcgrad.rules import DEFAULT
from funcgrad.transforms import Pullback, grad, hessian, hvp, jacrev, value_and_grad, vjp

__version__ = "0.1.0"

__all__ = [
    "DEFAULT",
    "FuncgradError",
    "Pullback",
    "Rule",
    "Rules",
    "defvjp",
    "grad",
    "hessian",
    "hvp",
    "jacrev",
    "op",
    "partials",
    "value_and_grad",
    "vjp",
    "zero",
]
