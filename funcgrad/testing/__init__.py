"""Checks of gradients: of any function, and of single rules.

The one part of the package, with ``calls/third_party.py``, that asks JAX for derivatives: ours are
compared with them.

Example:
  >>> import jax, jax.numpy as jnp, numpy as np, funcgrad
  >>> from funcgrad.testing import check_grads, check_rule
  >>> @funcgrad.op
  ... def cube(x):
  ...     return x**3
  >>> @cube.defvjp
  ... def cube_vjp(ct, x, *, out):
  ...     return ct * 3 * x  # wrong
  >>> try:
  ...     check_rule(cube, np.array([2.0]))
  ... except AssertionError as error:
  ...     print(str(error).split("\\n")[1][:70])
  jax: the cotangent of operand 0 is wrong at index (0,): 0.617806080086
  >>> report = check_grads(lambda x: jnp.sum(jnp.tanh(x)), (np.array([0.5, -2.0]),), order=1)
  >>> [check.name for check in report if check.status == "not run"]
  ['operands', 'outputs', 'second']
"""

from funcgrad.errors import GradientError
from funcgrad.testing.check import MODES, check_grads, check_rule
from funcgrad.testing.report import Check, Report

__all__ = ["MODES", "Check", "GradientError", "Report", "check_grads", "check_rule"]
