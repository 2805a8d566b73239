"""Reverse-mode differentiation for JAX, with rules that can be read, replaced and checked.

`grad` and the other transforms take the same arguments as in JAX, and `rules` besides:

  >>> import jax, jax.numpy as jnp, funcgrad
  >>> def loss(params, x):
  ...     return jnp.sum(jnp.round(params["w"] * x) ** 2)
  >>> params, x = {"w": jnp.array([1.4, 2.6])}, jnp.ones(2)
  >>> print(funcgrad.grad(loss)(params, x)["w"])
  [0. 0.]
  >>> def straight_through_vjp(ct, x, *, out, **_):
  ...     return ct
  >>> rules = funcgrad.DEFAULT.override({jnp.round: straight_through_vjp})
  >>> print(jax.jit(funcgrad.grad(loss, rules=rules))(params, x)["w"])
  [2. 6.]

``python -m funcgrad`` says where the documentation is, ``help(funcgrad.grad)`` more of a name.

Derivatives:
  grad: the gradient of a scalar-valued function.
  value_and_grad: the value and the gradient.
  vjp: the output and its pullback, from output to input cotangents.
  Pullback: what vjp returns: a pytree of residuals that can be called.
  jacrev: the Jacobian.
  hessian: the Hessian.
  hvp: the product of the Hessian with a vector.

Rules:
  DEFAULT: every rule of the package; printed, a list by family.
  Rules: an immutable mapping from op to rule, with override and extend.
  Rule: one backward rule; printed, its source.
  defvjp: makes a function the rule of an op.
  partials: makes rules of a table of derivatives.
  zero: says that an op has no derivative.
  kinks: rules by which a gradient is 0, PyTorch's or an error at kinks and poles.
  op: makes a function an op with a rule of its own.

Places:
  at: selects places in a function, for taps, edits and overrides.

Memory and loops:
  checkpoint: computes a function again in the backward pass, within a budget.
  loops: sets how many states a while_loop keeps.

Checks and tools:
  testing: check_grads and check_rule.
  as_jax_grad: puts funcgrad in the place of jax.grad, for a block.
  inspect: graph, residuals, flow, cost, coverage, places, and nonfinite, where a NaN begins.
  extend: what an author of rules, ops, calls and tools needs, on one page.
  errors: every error and warning.
  FuncgradError: the base of every error.
"""

from funcgrad import errors, extend, inspect, testing
from funcgrad.calls.checkpoint import checkpoint
from funcgrad.calls.while_loop import loops
from funcgrad.default import DEFAULT
from funcgrad.drop_in import as_jax_grad
from funcgrad.errors import FuncgradError
from funcgrad.jacobians import hessian, hvp, jacrev
from funcgrad.op import op
from funcgrad.places import at
from funcgrad.pullbacks import Pullback
from funcgrad.registry import Rule, Rules, defvjp, partials, zero
from funcgrad.surgery.kinks import kinks
from funcgrad.transforms import grad, value_and_grad, vjp

__version__ = "0.1.0"

__all__ = [
    "DEFAULT",
    "FuncgradError",
    "Pullback",
    "Rule",
    "Rules",
    "as_jax_grad",
    "at",
    "checkpoint",
    "defvjp",
    "errors",
    "extend",
    "grad",
    "hessian",
    "hvp",
    "inspect",
    "jacrev",
    "kinks",
    "loops",
    "op",
    "partials",
    "testing",
    "value_and_grad",
    "vjp",
    "zero",
]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
