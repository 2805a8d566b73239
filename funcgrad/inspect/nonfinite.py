"""Where a NaN or an infinity begins, in a function or in its gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax

from funcgrad import _jax
from funcgrad.arguments import names_of_arguments
from funcgrad.default import DEFAULT
from funcgrad.faults import NonFinite
from funcgrad.faults.watching import VALUE, bad_results, gradient_names, looked_into, stage
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
      errors.FuncgradError: `fun` cannot be differentiated at `args`. What is found raises nothing.

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
    with _jax.looking_for_nothing():
        return report_of(fun, args, None, has_aux, rules)


def report_of(
    fun: Callable[..., Any], args: tuple[Any, ...], ct: Any, has_aux: bool, rules: Rules
) -> NonFinite:
    """The report for the cotangent `ct` of the output, a pytree like it; ones if it is None.

    Where the value itself is bad, in a ``while``, `fun` alone is looked into: the derivative of a loop
    goes over its steps in units of its own.
    """

    def derivative(*args: Any) -> Any:
        leaves, tree = jax.tree.flatten(args)
        varied = [i for i, x in enumerate(leaves) if _is_differentiated(x)]

        def on_varied(*inexact: Any) -> Any:
            filled = list(leaves)
            for i, x in zip(varied, inexact, strict=True):
                filled[i] = x
            return fun(*jax.tree.unflatten(tree, filled))

        given = [leaves[i] for i in varied]
        out, pullback, *_ = vjp(on_varied, *given, has_aux=has_aux, rules=rules)
        seed = jax.tree.map(_jax.seed_like, out) if ct is None else ct
        gradient: list[Any] = [None] * len(leaves)
        for i, ct_x in zip(varied, pullback(seed), strict=True):
            gradient[i] = ct_x
        return out, jax.tree.unflatten(tree, gradient)

    def value_alone(*args: Any) -> Any:
        out = fun(*args)
        return (out[0] if has_aux else out), None

    names = names_of_arguments(fun, len(args))

    def watched(out: Any) -> dict[int, str]:
        value, gradient = out
        count = len(jax.tree.leaves(value))
        by = {} if gradient is None else gradient_names(gradient, names, count)
        return dict.fromkeys(range(count), VALUE) | by

    out = derivative(*args)
    bad = bad_results(out, watched(out))
    if not bad:
        return NonFinite()
    found = looked_into(lambda: stage(derivative, args, {}, watched, names, rules), (), bad)
    in_while = any(step.length is None for step in found.steps)
    if not in_while or VALUE not in found.reaches:
        return found
    of_value = stage(value_alone, args, {}, watched, names, rules).report()
    return replace(of_value, reaches=found.reaches) if of_value else found


def _is_differentiated(x: Any) -> bool:
    known = _jax.is_array_leaf(x) or _jax.is_number(x)
    return known and _jax.is_inexact(_jax.typeof(x))
