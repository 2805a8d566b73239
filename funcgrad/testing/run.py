"""Which checks there are, and running them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcgrad import errors
from funcgrad.testing import relations
from funcgrad.testing.differences import check_dot, check_numerical
from funcgrad.testing.problem import Problem, answers, scalar_of_gradient
from funcgrad.testing.report import FAILED, Check, failed, first_line, not_run

MODES = {
    "types": "each cotangent has the shape and dtype of its operand",
    "value": "the output under differentiation is the function's",
    "jax": "the cotangents are those of jax.vjp",
    "dot": "<ct, jvp(v)> = <vjp(ct), v> with jax.jvp, which has no step size",
    "numerical": "they agree with differences in double precision, extrapolated to step 0",
    "linear": "the pullback is linear in the cotangent",
    "jit": "the same under jax.jit",
    "vmap": "the same under jax.vmap",
    "operands": "the same when only some operands are differentiated",
    "outputs": "the same when outputs get their cotangents one by one",
    "second": "gradients of gradients: by jax, by differences, and by jax over funcgrad",
    "untouched": "nobody writes into the arguments",
}
"""The checks, by name."""

SECOND = ("second by jax", "second numerical", "second by jax over ours")
"""The parts of `second`, which may be asked for by themselves."""

NEEDS_TRUTH = ("jax", "dot", "numerical", "second")
"""Those that ask whether the gradient is the derivative."""


def run_modes(
    native: Problem, precise: Problem, order: int, modes: Sequence[str], why_no_truth: str
) -> list[Check]:
    """Run what was asked for, each in its precision; `why_no_truth` is why some cannot be asked."""
    rows: list[Check] = []
    for mode in by_mode(modes):
        if mode in ("types", "untouched"):
            continue
        if mode in NEEDS_TRUTH and why_no_truth:
            rows.append(not_run(mode, why_no_truth))
            continue
        if mode == "second" and any(row.status == FAILED for row in rows):
            rows.append(not_run(mode, "the first order is wrong"))
            continue
        problem = precise if mode in ("dot", "numerical", "second") else native
        with problem.setting(), np.errstate(all="ignore"):
            rows += _second(problem, order, modes) if mode == "second" else _RUN[mode](problem)
        if rows[-1].detail == relations.RANDOM:
            break
    return rows


def by_mode(modes: Sequence[str]) -> tuple[str, ...]:
    """The modes, each once; a part of `second` stands for it."""
    return tuple(dict.fromkeys("second" if mode in SECOND else mode for mode in modes))


def not_asked(rows: Sequence[Check], modes: Sequence[str]) -> tuple[Check, ...]:
    """The rows in the order of the modes, with one for each mode that did not run.

    A failure is shown even where it was not asked for: it is why the others did not run.
    """
    modes = by_mode(modes)
    kept = [row for row in rows if row.mode in modes or row.status == FAILED]
    ran = {row.mode for row in kept}
    for mode in MODES:
        if mode not in ran:
            asked = mode in modes
            kept.append(not_run(mode, "an earlier check failed" if asked else "not asked for"))
    return tuple(sorted(kept, key=lambda row: list(MODES).index(row.mode)))


def _second(problem: Problem, order: int, modes: Sequence[str]) -> list[Check]:
    """Gradients of gradients, order by order, until one is wrong."""
    rows: list[Check] = []
    parts = [part for part in SECOND if part in modes or "second" in modes]
    for n in range(2, order + 1):
        rows += _next_order(problem, "second" if n == 2 else f"second (order {n})", parts)
        if n == order or any(row.status == FAILED for row in rows):
            break
        problem = scalar_of_gradient(problem, problem.pull, n)
    return rows or [not_run("second", "order=1")]


def _next_order(problem: Problem, name: str, parts: Sequence[str]) -> list[Check]:
    try:
        scalar = scalar_of_gradient(problem, problem.pull, 1)
        gradient, by_jax, over_ours = answers(
            [scalar.pull, scalar.jax_pull, lambda xs, cts: jax.vjp(scalar.fun, *xs)[1](cts)],
            scalar.xs,
            scalar.cts,
        )
        if isinstance(gradient, Exception):
            raise gradient
    except errors.FuncgradError as error:
        return [failed(name, f"funcgrad raises {first_line(error)}", None, problem.cts, error)]
    rows: list[Check] = []
    if "second by jax" in parts:
        rows += _by_jax(scalar, f"{name} by jax", gradient, by_jax)
    if "second numerical" in parts:
        rows += check_numerical(scalar, f"{name} numerical", gradient)
    if "second by jax over ours" in parts:
        rows += relations.check_over(scalar, f"{name} by jax over ours", gradient, over_ours)
    return rows


def _by_jax(scalar: Problem, name: str, gradient: Any, expected: Any) -> list[Check]:
    if isinstance(expected, Exception):
        return [not_run(name, f"JAX has no such derivative: {first_line(expected)}")]
    if not np.isfinite(scalar.fun(*scalar.xs)[0]):  # an infinite value's gradient may be inf or nan
        gradient, expected = _infinite_as_nan(gradient), _infinite_as_nan(expected)
    return relations.compared(scalar, name, gradient, expected, "jax")


def _infinite_as_nan(cts: Sequence[Any]) -> list[Any]:
    return [jnp.where(jnp.isfinite(ct), ct, jnp.nan).astype(ct.dtype) for ct in cts]


_RUN: dict[str, Callable[[Problem], list[Check]]] = {
    "value": lambda p: relations.check_value(p, "value"),
    "jax": lambda p: relations.check_jax(p, "jax", p.gradient),
    "dot": lambda p: check_dot(p, "dot", p.gradient),
    "numerical": lambda p: check_numerical(p, "numerical", p.gradient),
    "linear": lambda p: relations.check_linear(p, "linear"),
    "jit": lambda p: relations.check_jit(p, "jit"),
    "vmap": lambda p: relations.check_vmap(p, "vmap"),
    "operands": lambda p: relations.check_operands(p, "operands"),
    "outputs": lambda p: relations.check_outputs(p, "outputs"),
}
