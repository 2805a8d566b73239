"""funcgrad: reverse-mode differentiation for JAX that its users can open."""

from funcgrad import inspect, testing
from funcgrad.calls.checkpoint import checkpoint
from funcgrad.calls.while_loop import loops
from funcgrad.default import DEFAULT
from funcgrad.drop_in import as_jax_grad
from funcgrad.errors import FuncgradError
from funcgrad.jacobians import hessian, hvp, jacrev
from funcgrad.op import op
from funcgrad.registry import Rule, Rules, defvjp, partials, zero
from funcgrad.transforms import Pullback, grad, value_and_grad, vjp

__version__ = "0.1.0"

__all__ = [
    "DEFAULT",
    "FuncgradError",
    "Pullback",
    "Rule",
    "Rules",
    "as_jax_grad",
    "checkpoint",
    "defvjp",
    "grad",
    "hessian",
    "hvp",
    "inspect",
    "jacrev",
    "loops",
    "op",
    "partials",
    "testing",
    "value_and_grad",
    "vjp",
    "zero",
]
