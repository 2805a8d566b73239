"""What is checked on the user's own arguments, as they were given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcgrad import errors, transforms
from funcgrad.testing.problem import Problem, is_inexact, on_leaves, operands_in
from funcgrad.testing.report import Check, failed, first_line, not_run, passed


def snapshot(leaves: Sequence[Any]) -> list[Any]:
    """Copies of arrays that can be written to."""
    return [x.copy() if isinstance(x, np.ndarray) else x for x in leaves]


def check_untouched(leaves: Sequence[Any], labels: Sequence[str], before: Sequence[Any]) -> Check:
    """Nobody wrote into an argument, or gave it away."""
    for x, label, old in zip(leaves, labels, before, strict=True):
        if isinstance(x, jax.Array) and x.is_deleted():
            return failed(
                "untouched",
                f"{label} was donated, and is deleted. Check the function without donation.",
            )
        if isinstance(x, np.ndarray) and x.tobytes() != old.tobytes():
            place = tuple(map(int, np.argwhere(~((x == old) | (x != x)))[0]))
            return failed("untouched", f"{label} was written to at index {place}")
    return passed("untouched")


def check_types(
    problem: Problem,
    fun: Callable[..., Any],
    in_tree: Any,
    leaves: Sequence[Any],
    labels: Sequence[str],
) -> list[Check]:
    """A cotangent for each leaf that is not passed on as it is, with its shape and dtype."""
    where = operands_in(leaves)
    operands = [leaves[i] for i in where]
    run = on_leaves(fun, in_tree, leaves, where)
    ct = problem.cotangent(problem.cts)
    try:
        found = transforms.vjp(run, *operands, rules=problem.rules)[1](ct)
    except errors.MissingRuleError:
        raise
    except (errors.RuleResultError, TypeError, ValueError) as error:
        return [failed("types", f"the backward pass raises {first_line(error)}", None, ct, error)]
    for i, x, ct_x in zip(where, operands, found, strict=True):
        dtype = jnp.result_type(x) if is_inexact(x) else jax.dtypes.float0
        if jnp.shape(ct_x) != jnp.shape(x) or ct_x.dtype != dtype:
            detail = f"the cotangent of {labels[i]} is {ct_x.dtype}{list(jnp.shape(ct_x))}"
            return [failed("types", f"{detail}, not {dtype}{list(jnp.shape(x))}", None, ct)]
    others = len(labels) - len(problem.labels)
    detail = f"{others} of {len(labels)} operands have no gradient" if others else ""
    return [passed("types", None, detail)] if problem.labels else [not_run("types", "no operands")]
