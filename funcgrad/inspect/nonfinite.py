"""Where a NaN or an infinity begins, in a function or in its gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from funcgrad import _jax
from funcgrad.default import DEFAULT
from funcgrad.faults import NonFinite
from funcgrad.faults.gradients import report_of
from funcgrad.inspect.arrays import check_has_values
from funcgrad.registry import Rules
from funcgrad.surface import public
from funcgrad.transforms import vjp


@public
def nonfinite(
    fun: Callable[..., Any], *args: Any, has_aux: bool = False, rules: Rules = DEFAULT
) -> NonFinite:
    """Find the first op, forward or backward, that makes a NaN or an infinity of finite values.

    The value of `fun` and its gradient by all floating-point arguments are computed. If a result is not
    finite, they are computed again as one program, with a look at each value, and an op is named that
    explains the result:

    - If every result is finite, there is nothing to report, whatever was in between: a mask of ``-inf``
      under a softmax, or a NaN that ``jnp.where`` did not take.
    - Else the way leads from the bad results back over the bad values, to the ops that made them of
      finite ones. The first of these in the program is named; of a call, loop or branch, the op inside.
    - An infinity that a NaN came of is named in place of the NaN, if an op made it of finite values. One
      that is an argument or a constant of the program, as in a mask, is meant; then the NaN is named.

    Args:
      fun: a function of pytrees of arrays, which ``jax.jit`` can trace.
      *args: its arguments.
      has_aux: `fun` returns a pair of its output and auxiliary data, which need not be finite.
      rules: the backward rules.

    Returns:
      A :class:`NonFinite`, which prints as a few lines; false if the value and the gradient are finite.

    Raises:
      errors.FuncgradError: `fun` cannot be differentiated at `args`, or one of them is a type without
        values. What is found raises nothing.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> def distance(x, y):
      ...     return jnp.sqrt(jnp.sum((x - y) ** 2))
      >>> found = funcgrad.inspect.nonfinite(distance, jnp.ones(3), jnp.ones(3))
      >>> found.backward, found.pulls_back, found.operands[1].there
      (True, 'sqrt', 0.0)
      >>> bool(funcgrad.inspect.nonfinite(distance, jnp.ones(3), jnp.zeros(3)))
      False
    """
    check_has_values(fun, args, "first value that is not finite")
    with _jax.looking_for_nothing():
        return report_of(vjp, fun, args, None, has_aux, rules)
