"""What is checked on the user's own arguments, as they were given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcgrad import errors, transforms
from funcgrad.testing.problem import Problem, is_inexact
from funcgrad.testing.report import Check, failed, first_line, not_run, passed


def snapshot(leaves: Sequence[Any]) -> list[Any]:
    """Copies of arrays that can be written to."""
    return [x.copy() if isinstance(x, np.ndarray) else x for x in leaves]


def check_untouched(leaves: Sequence[Any], labels: Sequence[str], before: Sequence[Any]) -> Check:
    """Nobody wrote into an argument, or gave it away."""
    for x, label, old in zip(leaves, labels, before, strict=True):
        if isinstance(x, jax.Array) and x.is_deleted():
            return failed("untouched", f"{label} was donated, and is deleted")
        if isinstance(x, np.ndarray) and x.tobytes() != old.tobytes():
            place = tuple(map(int, np.argwhere(~((x == old) | (x != x)))[0]))
            return failed("untouched", f"{label} was written to at index {place}")
    return passed("untouched")


def check_types(
    problem: Problem, fun: Callable[..., Any], args: tuple[Any, ...], labels: Sequence[str]
) -> list[Check]:
    """A cotangent for each leaf, with its shape and dtype."""
    ct = problem.cotangent(problem.cts)
    try:
        found = transforms.vjp(fun, *args, rules=problem.rules)[1](ct)
    except errors.MissingRuleError:
        raise
    except (errors.RuleResultError, TypeError, ValueError) as error:
        return [failed("types", f"the backward pass raises {first_line(error)}", None, ct, error)]
    if jax.tree.structure(found) != jax.tree.structure(args):
        detail = f"the cotangents have structure {jax.tree.structure(found)}"
        return [failed("types", f"{detail}, the arguments {jax.tree.structure(args)}", None, ct)]
    leaves = zip(labels, jax.tree.leaves(found), jax.tree.leaves(args), strict=True)
    for label, ct_x, x in leaves:
        dtype = jnp.result_type(x) if is_inexact(x) else jax.dtypes.float0
        if jnp.shape(ct_x) != jnp.shape(x) or ct_x.dtype != dtype:
            detail = f"the cotangent of {label} is {ct_x.dtype}{list(jnp.shape(ct_x))}"
            return [failed("types", f"{detail}, not {dtype}{list(jnp.shape(x))}", None, ct)]
    integers = len(labels) - len(problem.labels)
    detail = f"{integers} of {len(labels)} operands have no gradient" if integers else ""
    return [passed("types", None, detail)] if problem.labels else [not_run("types", "no operands")]
