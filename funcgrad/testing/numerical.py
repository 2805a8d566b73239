"""Directional derivatives by differences, with an estimate of their error.

Ridders' method: central differences at steps that are halved, extrapolated to step 0 in every way that
the last few of them allow; the extrapolation that changes least is taken, and by how much it changes,
with the rounding error of the differences, is the estimate of its error. No step is chosen beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Values = Sequence[np.ndarray]
Line = Callable[[float], Values]
"""A function along a line: from how far one went to the outputs, in double precision."""

FIRST_STEP = 0.125
LEVELS = 30
SMALLEST_STEP = FIRST_STEP / 2 ** (LEVELS - 1)
WIDTH = 6
"""Extrapolations use at most this many steps, so that what happens far away does not enter."""


@dataclass(frozen=True)
class Derivative:
    """<ct, df/dt> at t = 0.

    Attributes:
      value: the derivative.
      error: the estimate of its error.
      step: the smallest step that it uses.
      magnitude: the sum of |ct df/dt| by output element, the scale on which to judge errors.
    """

    value: float
    error: float
    step: float
    magnitude: float


def pair(cts: Values, values: Values) -> float:
    """Re <ct, y> without conjugation, the pairing under which JAX's vjp is the transpose of its jvp."""
    return float(sum(np.sum(ct * y).real for ct, y in zip(cts, values, strict=True)))


def sum_of_sizes(cts: Values, values: Values) -> float:
    return float(sum(np.sum(np.abs(ct * y)) for ct, y in zip(cts, values, strict=True)))


def is_finite(values: Values) -> bool:
    return all(bool(np.isfinite(y).all()) for y in values)


def derivative(line: Line, cts: Values, eps: float, size: float) -> Derivative | None:
    """Differentiate along a line; None where no step has finite values on both sides.

    Args:
      line: the function along the line; it need not be defined far from 0.
      cts: the cotangents that outputs are paired with.
      eps: the relative rounding error of the function's values.
      size: of the values that are rounded, each by its cotangent.
    """
    best: Derivative | None = None
    previous: list[float] = []
    step, rows = FIRST_STEP, 0
    for _ in range(LEVELS):
        plus, minus = line(step), line(-step)
        if not (is_finite(plus) and is_finite(minus)):
            previous, best, rows, step = [], None, 0, step / 2
            continue
        slopes = [(p - m) / (2 * step) for p, m in zip(plus, minus, strict=True)]
        magnitude = sum_of_sizes(cts, slopes)
        rounding = 2 * eps * (size + magnitude) / step
        row = [pair(cts, slopes)]
        for order, before in enumerate(previous[: WIDTH - 1], start=1):
            row.append(row[-1] + (row[-1] - before) / (4**order - 1))
            change = max(abs(row[-1] - row[-2]), abs(row[-1] - before))
            if best is None or change + rounding < best.error:
                best = Derivative(row[-1], change + rounding, step, magnitude)
        rows += 1
        if best is not None and rows >= 4:
            good_enough = best.error <= 1e-10 * best.magnitude
            if good_enough or rounding > best.error:
                break
        previous, step = row, step / 2
    return best


def bend(line: Line, cts: Values, eps: float, size: float, scale: float, smallest: float) -> float:
    """By how much the slopes of the two sides differ at t = 0; 0 where the function is smooth.

    (f(h) - 2 f(0) + f(-h)) / h is h f'' for a smooth function, so it falls with the step; at a kink it
    stays, at a jump it grows.

    Args:
      line: as for :func:`derivative`.
      cts: the same.
      eps: the same.
      size: the same.
      scale: the size of the derivatives that there are, below whose millionth nothing counts.
      smallest: a step within which the function was found to be smooth, if it is so at 0.
    """
    middle = line(0.0)
    step = min(eps**0.25, smallest)

    def second(h: float) -> float:
        plus, minus = line(h), line(-h)
        if not (is_finite(plus) and is_finite(minus)):
            return math.inf
        return sum(
            float(np.sum(np.abs(ct * ((p - y) - (y - m))))) / h
            for ct, p, y, m in zip(cts, plus, middle, minus, strict=True)
        )

    near, far = second(step), second(4 * step)
    rounding = 8 * eps * size / step
    if math.isinf(near):
        return math.inf
    is_kink = near > 0.5 * far and near > 10 * rounding + 1e-6 * scale
    return near if is_kink else 0.0
