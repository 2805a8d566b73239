"""The gradient against the function itself: by differences, and against jax.jvp."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcgrad import transforms
from funcgrad.faults.gradients import report_of
from funcgrad.testing import compare
from funcgrad.testing.compare import Index, as_double, show
from funcgrad.testing.numerical import (
    SMALLEST_STEP,
    Derivative,
    Values,
    bend,
    derivative,
    is_finite,
    pair,
    sum_of_sizes,
)
from funcgrad.testing.problem import Problem, compiled, eps_of, size_of
from funcgrad.testing.report import Check, failed, first_line, not_run, passed

MOST_LEFT_OUT = 8
SAFETY = 10.0
"""By how much the estimate of an error may be too small."""
RESOLVED = 1e-3
"""Differences that leave more of the derivative open than this say nothing about it."""


@dataclass(frozen=True, eq=False)
class Sample:
    """A function that is walked along lines through its arguments, one leaf at a time."""

    problem: Problem
    run: Callable[..., Any]
    cts: Values

    def line(self, leaf: int, direction: np.ndarray) -> Callable[[float], Values]:
        """The outputs at `leaf` moved by t times the direction."""
        xs = list(self.problem.xs)
        x = xs[leaf]

        def at(t: float) -> Values:
            xs[leaf] = jnp.asarray(np.asarray(x) + np.asarray(t * direction), x.dtype)
            return [as_double(y) for y in self.run(*xs)]

        return at

    def derivative(self, leaf: int, direction: np.ndarray) -> Derivative | None:
        problem = self.problem
        return derivative(self.line(leaf, direction), self.cts, problem.eps, problem.size)

    def is_one_sided(self, leaf: int, direction: np.ndarray) -> bool:
        """Whether the function has no finite values on one side, or on both, however near."""
        line = self.line(leaf, direction)
        return not (is_finite(line(SMALLEST_STEP)) and is_finite(line(-SMALLEST_STEP)))

    def bend_by(self, leaf: int, found: Derivative, scale: float) -> Callable[[np.ndarray], float]:
        """By how much the two sides differ along a direction; 0 where the function is smooth."""
        problem = self.problem

        def measure(direction: np.ndarray) -> float:
            line = self.line(leaf, direction)
            return bend(line, self.cts, problem.eps, problem.size, scale, found.step)

        return measure

    def disagreement(self, leaf: int, direction: np.ndarray, ct_x: np.ndarray) -> float:
        found = self.derivative(leaf, direction)
        return 0.0 if found is None else abs(found.value - pair([ct_x], [direction]))


def sample(problem: Problem) -> Sample:
    run = compiled(problem.fun, *problem.xs)
    return Sample(problem, run, [as_double(ct) for ct in problem.cts])


def check_numerical(problem: Problem, name: str, gradient: Sequence[Any]) -> list[Check]:
    """<ct, f(x + h v) - f(x - h v)> / 2h against <vjp(ct), v>, leaf by leaf."""
    points = sample(problem)
    if not is_finite([as_double(y) for y in (*problem.xs, *points.run(*problem.xs))]):
        return [not_run(name, "the function is not finite here")]
    found: list[Check] = []
    shares, checked = [0.0], 0
    for leaf, x in enumerate(problem.xs):
        if x.size == 0:
            continue
        rows, share = _check_leaf(points, name, leaf, as_double(gradient[leaf]))
        found += rows
        if share is not None:
            checked += 1
            shares.append(share)
    if checked:
        detail = f"{problem.precision}, {checked} of {len(problem.xs)} operands"
        found.insert(0, passed(name, max(shares), detail))
    elif not found:
        found.append(not_run(name, "every operand is empty"))
    return found


def _where_it_begins(problem: Problem) -> str:
    """The op at which a gradient ceases to be finite, and its line, in words; nothing if unknown."""
    try:
        args = tuple(problem.xs), problem.cts
        found = report_of(transforms.vjp, problem.fun, *args, False, problem.rules)
    except Exception:  # the gradient is wrong whether or not its origin can be found
        return ""
    if found.op is None:
        return ""
    op = found.pulls_back or found.op
    return f"; it begins at `{op}` ({found.where or 'of unknown place'})"


def _check_leaf(
    points: Sample, name: str, leaf: int, ct_x: np.ndarray
) -> tuple[list[Check], float | None]:
    """What does not run or fails, and the error of what passes by what is allowed."""
    problem = points.problem
    label = f"{name} {problem.labels[leaf]}"
    x = as_double(problem.xs[leaf])
    wide_spread = _spread(x) > 1e4
    directions = [problem.directions()[leaf]]
    reasons: list[str] = []
    best: float | None = None
    rows: list[Check] = []
    infinite = _check_infinite(points, leaf, ct_x)
    while directions:
        outcome = infinite
        if infinite.wrong is None:
            outcome = _check_direction(points, leaf, directions.pop(), ct_x, infinite.left_out)
        if outcome.left_out:
            rows.append(not_run(label, _left_out(outcome)))
        elif outcome.reason:
            reasons.append(outcome.reason)
        if outcome.wrong is not None:
            place, expected = outcome.wrong
            what = f"the cotangent of {problem.labels[leaf]}"
            source = f"differences in {problem.precision}"
            detail = element_message(what, place, ct_x[place], expected, source)
            if not np.isfinite(ct_x[place]):
                detail += _where_it_begins(problem)
            return [*rows, failed(label, detail, outcome.share, problem.cts)], None
        if outcome.share is not None:
            best = max(best or 0.0, outcome.share)
        if wide_spread or (best is None and not outcome.left_out):
            size = np.where(x == 0, size_of(x), np.abs(x))
            directions.append(problem.directions(1)[leaf] / size_of(x) * size)
            wide_spread = False
            if len(reasons) > 1:
                break
    if best is None and reasons:
        rows.append(not_run(label, reasons[0]))
    return list(dict.fromkeys(rows)), best


def _left_out(outcome: Outcome) -> str:
    """Which elements were not checked, and why."""
    places: dict[str, list[str]] = {}
    for place, why in sorted(outcome.left_out.items()):
        places.setdefault(why, []).append(str(place))
    parts = []
    for why, where in places.items():
        more = f" and {len(where) - MOST_LEFT_OUT} more" if len(where) > MOST_LEFT_OUT else ""
        parts.append(f"{why} at index {', '.join(where[:MOST_LEFT_OUT])}{more}")
    return "; ".join([*parts, outcome.reason or "not checked there"])


def _spread(x: np.ndarray) -> float:
    sizes = np.abs(x[x != 0])
    return float(sizes.max() / sizes.min()) if sizes.size else 1.0


@dataclass(frozen=True)
class Outcome:
    """One direction: the error by what is allowed, or why there is none, and what was left out.

    Attributes:
      share: the error by what is allowed; None where differences do not tell.
      reason: why they do not.
      left_out: elements at which differences do not tell, and why.
      wrong: the element that is wrong, and what it should be.
    """

    share: float | None
    reason: str = ""
    left_out: dict[Index, str] = field(default_factory=dict)
    wrong: tuple[Index, Any] | None = None


def _check_direction(
    points: Sample,
    leaf: int,
    direction: np.ndarray,
    ct_x: np.ndarray,
    infinite: dict[Index, str],
) -> Outcome:
    """Compare one derivative, leaving out elements at which the function has a kink; those that it does
    not suit, being not finite or not equal, are compared alone, at steps of their own size."""
    left_out, finite = dict(infinite), np.isfinite(ct_x)
    direction, ct_x = np.where(finite, direction, 0), np.where(finite, ct_x, 0)
    passed_alone: float | None = None
    for _ in range(MOST_LEFT_OUT):
        if not direction.any():
            break
        found, share = points.derivative(leaf, direction), 0.0
        if found is None:
            place = _largest(direction, functools.partial(points.is_one_sided, leaf))
        elif (bend := points.bend_by(leaf, found, _scale(found, direction, ct_x)))(direction):
            place = _largest(direction, bend)
            left_out[place] = "kink"
        else:
            outcome = _outcome(points, leaf, found, direction, ct_x)
            if outcome.share is None or outcome.share <= 1:
                return replace(outcome, left_out=left_out)
            share = outcome.share
            place = _largest(direction, lambda v: points.disagreement(leaf, v, ct_x))
        if place not in left_out:
            alone, expected = _check_element(points, leaf, place, ct_x)
            if alone.share is None:
                left_out[place] = alone.reason
            elif alone.share > 1:
                return Outcome(max(alone.share, share), "", left_out, (place, expected))
            else:
                passed_alone = max(passed_alone or 0.0, alone.share)
        direction[place] = 0
    if not direction.any():
        return Outcome(passed_alone, "there are no other elements", left_out)
    return Outcome(None, "and more of them" if left_out else "steps are too large", left_out)


ONE_SIDE = "finite values on one side only"


def _check_infinite(points: Sample, leaf: int, ct_x: np.ndarray) -> Outcome:
    """The elements at which the gradient is not finite: wrong where the function has a derivative."""
    left_out: dict[Index, str] = {}
    for place in [tuple(map(int, place)) for place in np.argwhere(~np.isfinite(ct_x))]:
        if len(left_out) < MOST_LEFT_OUT:
            alone, expected = _check_element(points, leaf, place, ct_x)
            if alone.share:
                return Outcome(alone.share, "", left_out, (place, expected))
        left_out[place] = "infinite gradient"
    return Outcome(None, "", left_out)


def _largest(direction: np.ndarray, measure: Callable[[np.ndarray], float]) -> Index:
    """The element of a direction that contributes most to what is measured along it."""

    def masked(mask: np.ndarray) -> float:
        return measure(direction * mask.reshape(direction.shape))

    index = compare.bisect(masked, direction.size)
    return tuple(map(int, np.unravel_index(index, direction.shape)))


def _check_element(
    points: Sample, leaf: int, place: Index, ct_x: np.ndarray
) -> tuple[Outcome, Any]:
    """Compare the derivative by one element, at steps of its own size; with its value."""
    x = as_double(points.problem.xs[leaf])
    size = float(np.abs(x[place])) or size_of(x)
    unit = np.zeros_like(x)
    unit[place] = size
    ct_x = np.where(unit == 0, 0, ct_x)  # others may be infinite
    worst, values = Outcome(0.0), []
    for direction in (unit, 1j * unit) if np.iscomplexobj(x) else (unit,):
        found = points.derivative(leaf, direction)
        if found is None:
            return Outcome(None, ONE_SIDE), None
        if points.bend_by(leaf, found, _scale(found, direction, ct_x))(direction):
            return Outcome(None, "kink"), None
        outcome = _outcome(points, leaf, found, direction, ct_x)
        values.append(found.value / size)
        if outcome.share is None:
            return outcome, None
        worst = outcome if outcome.share > (worst.share or 0) else worst
    return worst, complex(values[0], -values[1]) if len(values) == 2 else values[0]


def _scale(found: Derivative, direction: np.ndarray, ct_x: np.ndarray) -> float:
    """The size of the two answers, on which to judge what they differ by."""
    own = float(np.sum(np.abs(ct_x * direction)))
    return found.magnitude + (own if np.isfinite(own) else 0.0)


def _outcome(
    points: Sample, leaf: int, found: Derivative, direction: np.ndarray, ct_x: np.ndarray
) -> Outcome:
    """What a derivative by differences says about the gradient."""
    problem = points.problem
    analytic = pair([ct_x], [direction])
    scale = _scale(found, direction, ct_x)
    visible = max(scale, problem.eps**0.5 * problem.size)
    if SAFETY * found.error > RESOLVED * visible:
        share = found.error / visible if visible else 1.0
        coarse = ", to which the function rounds," if problem.eps > eps_of(np.float64) else ""
        reason = f"differences in {problem.precision}{coarse} leave {share:.2g} of it open"
        return Outcome(None, reason)
    if not np.isfinite(analytic):
        return Outcome(math.inf)
    allowed = SAFETY * found.error + problem.rtol * scale
    error = abs(found.value - analytic)
    return Outcome(error / allowed if error else 0.0)


def element_message(what: str, place: Any, found: Any, expected: Any, source: str) -> str:
    """One element of an array that is not what it should be."""
    where = f" at index {place}" if place != () else ""
    return f"{what} is wrong{where}: {show(found)}, and {show(expected)} by {source}"


def check_dot(problem: Problem, name: str, gradient: Sequence[Any]) -> list[Check]:
    """<ct, jvp(v)> against <vjp(ct), v>, leaf by leaf, by JAX's forward mode."""

    def push(xs: Any, vs: Any) -> Any:
        return jax.jvp(problem.plain, xs, vs)[1]

    vs = [jnp.asarray(v, x.dtype) for v, x in zip(problem.directions(2), problem.xs, strict=True)]
    zeros = [jnp.zeros_like(x) for x in problem.xs]
    try:
        run = compiled(push, problem.xs, tuple(vs))
        run(problem.xs, tuple(vs))
    except Exception as error:
        return [not_run(name, f"JAX has no forward mode here: {first_line(error)}")]
    cts = [as_double(ct) for ct in problem.cts]

    def compare_along(leaf: int, v: Any) -> tuple[float, float]:
        v = jnp.asarray(v, problem.xs[leaf].dtype)
        tangents = [as_double(t) for t in run(problem.xs, (*zeros[:leaf], v, *zeros[leaf + 1 :]))]
        ct_x, direction = [as_double(gradient[leaf])], [as_double(v)]
        scale = sum_of_sizes(cts, tangents) + sum_of_sizes(ct_x, direction)
        return abs(pair(cts, tangents) - pair(ct_x, direction)), scale

    shares = [0.0]
    for leaf, v in enumerate(vs):
        error, scale = compare_along(leaf, v)
        if not np.isfinite(scale):
            return [not_run(f"{name} {problem.labels[leaf]}", "a derivative is not finite")]
        allowed = problem.rtol * scale + 64 * problem.eps * problem.size
        share = error / allowed if error else 0.0
        if share <= 1:
            shares.append(share)
            continue
        place = _largest(as_double(v), lambda part, leaf=leaf: compare_along(leaf, part)[0])
        unit = jnp.zeros_like(v).at[place].set(1)
        expected = _slope(run, problem, zeros, leaf, unit, cts)
        value = as_double(gradient[leaf])[place]
        what = f"the cotangent of {problem.labels[leaf]}"
        detail = element_message(what, place, value, expected, "jax.jvp")
        return [failed(f"{name} {problem.labels[leaf]}", detail, share, problem.cts)]
    return [passed(name, max(shares), problem.precision)]


def _slope(run: Any, problem: Problem, zeros: list[Any], leaf: int, unit: Any, cts: Values) -> Any:
    """One element of the gradient by forward mode."""

    def along(v: Any) -> float:
        tangents = run(problem.xs, (*zeros[:leaf], v, *zeros[leaf + 1 :]))
        return pair(cts, [as_double(t) for t in tangents])

    if jnp.issubdtype(unit.dtype, np.complexfloating):
        return complex(along(unit), -along(1j * unit))
    return along(unit)
