"""Where a gradient, or the value that it is of, ceases to be finite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax

from funcgrad import _jax
from funcgrad.arguments import names_of_arguments
from funcgrad.faults.report import NonFinite
from funcgrad.faults.watching import VALUE, bad_results, gradient_names, looked_into, stage
from funcgrad.registry import Rules


def report_of(
    vjp: Callable[..., Any],
    fun: Callable[..., Any],
    args: tuple[Any, ...],
    ct: Any,
    has_aux: bool,
    rules: Rules,
) -> NonFinite:
    """The report on a function and its gradient by `vjp`, which is ``transforms.vjp``.

    The cotangent `ct` of the output is a pytree like it; ones if it is None.

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
