"""One random program against jax.grad and finite differences."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import funcgrad
from funcgrad.testing.fuzz.circumstances import CIRCUMSTANCES
from funcgrad.testing.fuzz.derivatives import both_orders, directions_of
from funcgrad.testing.fuzz.programs import REFERENCE, Program, statements_in
from funcgrad.testing.fuzz.tastes import Taste, has_unknown_length

STEP = 1e-4
STEPS = np.array([0.0, 1.0, -1.0, 2.0, -2.0]) * STEP
LARGE = 1e8
RTOL, FLOAT32_RTOL = 1e-9, 1e-3
TIE = "at a tie: jax.grad and funcgrad agree, finite differences differ"
MISCOMPILED = "jax.grad is another one under jit than without, where it is ours"
MODES = (
    "map",
    "vmap",
    "map",
    "eager",
    "map",
    "jax over ours",
    "vmap",
    "ours over jax",
    "map",
    "eager twice",
    *CIRCUMSTANCES,
)
"""How a program is differentiated, see :func:`check`."""

ONE_FUNCTION = ("jax over ours", "ours over jax", "eager twice")
"""The modes in which jax.grad is given the program itself, and needs loops that it can differentiate."""
FIRST_ORDER = ("eager", "with refs", "grad of vmap")
BATCHED = ("vmap", "exported", "grad of vmap")


class Broken(Exception):
    """One of the two sides raised an error, its cause."""


@dataclass(frozen=True)
class Outcome:
    """What came of one program.

    Attributes:
      failure: what is wrong, or None.
      skipped: why finite differences were not compared, or None.
      reference: why there was nothing to compare with jax.grad, or None.
    """

    failure: str | None = None
    skipped: str | None = None
    reference: str | None = None


def affordable(taste: Taste, seed: int) -> Taste:
    """The taste, for one seed, of what is checked quickly: most of the time goes to few programs.

    A loop whose length only running it tells makes the program of a gradient 2 to 15 times as long:
    every fourth program of a mode may have one. Without jit each operation is compiled by itself:
    such programs have at most eight statements. A program that broadcasts between ranks is refused where
    that is an error, so that none is drawn there.
    """
    if seed // len(MODES) % 4:
        taste = replace(taste, loops=(taste.loops[0], taste.loops[0]))
    if MODES[seed % len(MODES)].startswith("eager"):
        taste = replace(taste, sizes=(taste.sizes[0], min(taste.sizes[1], 8)))
    if MODES[seed % len(MODES)] == "strict ranks":
        taste = replace(taste, ranks="raise")
    return taste


def plan(program: Program, seed: int) -> tuple[str, int]:
    """How the program is differentiated, and how often.

    Where jax.grad is over ours or the contrary, it needs loops that it can differentiate. The second
    order takes most of the time, above all through loops with bounds known at run time: it is taken of
    every third program, and of every twelfth with such loops.
    """
    mode = MODES[seed % len(MODES)]
    looped = any(map(has_unknown_length, statements_in(program.block)))
    if (looped and mode in ONE_FUNCTION) or (not program.batched and mode in BATCHED):
        mode = "map"
    twice = mode in ONE_FUNCTION or Random(seed).random() < (1 / 12 if looped else 1 / 3)
    return mode, program.order if twice else 1


def check(program: Program, mode: str = "map", order: int = 2, rtol: float = RTOL) -> Outcome:
    """Compare a program's gradients with jax.grad's and with finite differences.

    Args:
      program: what to differentiate.
      mode: "map" and "vmap" are jitted, with our gradients under ``lax.map`` or ``jax.vmap`` over
        five points; "eager" is the first order without jit, "eager twice" the second order as well;
        "jax over ours" is jax.grad of our gradient, "ours over jax" the contrary; "once" is jitted, at
        one point, without finite differences; the others are those of ``circumstances.CIRCUMSTANCES``,
        at one point too.
      order: 2 for the second order as well, if JAX can do that.
      rtol: tolerance of the comparison with jax.grad in float64.

    Returns:
      What came of it. A comparison with jax.grad is left out only where jax.grad raises an error or
      is not finite, or is ours without jit but another one under jit (XLA has bugs). One with finite
      differences is left out where a value or a gradient is not finite or over 1e8, where the program
      has values in float32 or a rule that is not its function's derivative, and at a kink: where
      one-sided differences disagree by more than their own error estimates, or those with two step
      sizes do; or where they differ from a gradient on which jax.grad and funcgrad agree (a tie of equal
      values, as a rule: such programs are printed).
    """
    with jax.enable_x64(True):
        xs = program.values()
        marks = set(program.marks)
        if has_float32(program):
            marks.add("values in float32")
            rtol = max(rtol, FLOAT32_RTOL)
        try:
            return compare(
                program.function(),
                program.function(reference=True),
                xs,
                mode,
                min(order, program.order),
                marks,
                rtol,
            )
        except Broken as error:
            cause = error.__cause__
            text = f"{type(cause).__name__}: {str(cause)[:600]}"
            if error.args[0] == "jax.grad":
                return Outcome(skipped="jax.grad raised an error", reference=text)
            return Outcome(failure=text)


def has_float32(program: Program) -> bool:
    """Whether a program has values in float32."""
    kinds = [k for s in statements_in(program.block) for k in s.types]
    return any(k.dtype == "float32" for k in [*kinds, *(k for _, k in program.inputs)])


def compare(
    fun: Any, reference: Any, xs: Sequence[Any], mode: str, order: int, marks: set[str], rtol: float
) -> Outcome:
    """The outcome for two forms of one function at `xs`."""
    order = 1 if mode in FIRST_ORDER else order
    try:
        ours, theirs = answers(fun, reference, xs, mode, order)
    except Broken:
        raise
    except Exception as error:  # of compiling both at once: whose is it?
        side("funcgrad", answers)(fun, None, xs, mode, order)
        raise Broken("jax.grad") from error
    if not all(is_finite(x) for x in jax.tree.leaves(theirs)):
        reason = "not finite"
        return Outcome(skipped=reason, reference=reason)
    at_x = jax.tree.map(lambda x: x[0], ours) if mode != "eager" else ours[0]
    failure = difference(at_x, theirs, rtol)
    if failure:
        run_at_once = side("jax.grad", lambda: both_orders(reference, xs, jax, jax, order))()
        if difference(at_x, run_at_once, rtol) is None:
            return Outcome(skipped=MISCOMPILED, reference=MISCOMPILED)
        return Outcome(failure=failure)
    if any(np.max(np.abs(x), initial=0.0) > LARGE for x in jax.tree.leaves(theirs)):
        return Outcome(skipped="over 1e8")
    if marks:
        return Outcome(skipped=min(marks))
    directions = directions_of(xs)
    for i in range(order):
        values, cts = (np.asarray(values_at(ours, i, mode)), at_x[i][1])
        if len(values) < len(STEPS):
            break
        analytic = sum(float(jnp.sum((ct * d).real)) for ct, d in zip(cts, directions, strict=True))
        skipped, numeric, error = slope(values)
        if skipped:
            return Outcome(skipped=skipped)
        size = 1.0 + abs(analytic) + float(np.max(np.abs(values)))
        if abs(numeric - analytic) > 1e-5 * size + 10 * error:
            return Outcome(skipped=TIE)
    return Outcome()


def values_at(ours: Any, i: int, mode: str) -> Any:
    """Values of the function, or of the probe of its gradient, along the five points."""
    return [point[i][0] for point in ours] if mode == "eager" else ours[i][0]


def answers(fun: Any, reference: Any, xs: Any, mode: str, order: int) -> tuple[Any, Any]:
    """Ours at five points (one axis, or a list), JAX's of the reference, if any, at the first."""
    inner: Any = jax if mode == "ours over jax" else funcgrad
    outer: Any = jax if mode == "jax over ours" else funcgrad
    one = side("funcgrad", lambda *xs: both_orders(fun, xs, inner, outer, order))
    other = side("jax.grad", lambda *xs: reference and both_orders(reference, xs, jax, jax, order))
    if mode in CIRCUMSTANCES:
        run_in = CIRCUMSTANCES[mode]
        expected = side("jax.grad", run_in)(reference, xs, jax, order)
        first = side("funcgrad", run_in)(fun, xs, funcgrad, order)
        return jax.tree.map(lambda x: x[None], first), expected
    directions = directions_of(xs)
    if mode == "eager":
        points = [
            [x + np.asarray(h, x.real.dtype) * d for x, d in zip(xs, directions, strict=True)]
            for h in STEPS
        ]
        values = [((side("funcgrad", fun)(*point), None),) for point in points[1:]]
        return [one(*xs), *values], other(*xs)
    steps = [jnp.asarray(STEPS, x.real.dtype).reshape(-1, *(1,) * x.ndim) for x in xs]
    points = tuple(x + h * d for x, h, d in zip(xs, steps, directions, strict=True))
    if mode in ("eager twice", "once"):
        both = lambda *xs: (one(*xs), other(*xs))  # noqa: E731
        first, expected = (jax.jit(both) if mode == "once" else both)(*xs)
        return jax.tree.map(lambda x: x[None], first), expected
    mapped = lambda *points: lax.map(lambda xs: one(*xs), points)  # noqa: E731
    run = jax.vmap(one) if mode == "vmap" else mapped
    return jax.jit(lambda points, xs: (run(*points), other(*xs)))(points, xs)


def side(name: str, fun: Callable[..., Any]) -> Callable[..., Any]:
    """`fun` with errors that say which side they came from."""

    def named(*args: Any) -> Any:
        try:
            return fun(*args)
        except Broken:
            raise
        except Exception as error:
            raise Broken(name) from error

    return named


def is_finite(x: Any) -> bool:
    return bool(np.all(np.isfinite(x)))


def difference(ours: Any, theirs: Any, rtol: float) -> str | None:
    """Where two results differ, or None."""
    size = 1.0
    names = ("first order", "second order")[: len(ours)]
    for name, (value, cts), (value_expected, cts_expected) in zip(names, ours, theirs, strict=True):
        pairs = [(value, value_expected), *zip(cts, cts_expected, strict=True)]
        size = max([size, *(float(np.max(np.abs(b), initial=0.0)) for _, b in pairs)])
        for i, (a, b) in enumerate(pairs):
            if (a.shape, a.dtype) != (b.shape, b.dtype):
                return f"{name}: {a.dtype}{a.shape}, expected {b.dtype}{b.shape}"
            error = float(np.max(np.abs(np.asarray(a) - np.asarray(b)), initial=0.0))
            if not error <= rtol * size:
                what = f"the gradient by argument {i - 1}" if i else "the value"
                return f"{name}: {what} is {np.asarray(a)}, jax.grad says {np.asarray(b)}"
        rtol *= 10
    return None


def slope(values: np.ndarray) -> tuple[str | None, float, float]:
    """Why the derivative at 0 is not known, the derivative, and its estimated error."""
    if not np.all(np.isfinite(values)):
        return "not finite", 0.0, 0.0
    at, *around = values
    (up, down, up2, down2), h = around, STEP
    rounding = 1e-14 * (1.0 + np.max(np.abs(values))) / h
    right, left = (4 * up - up2 - 3 * at) / (2 * h), -(4 * down - down2 - 3 * at) / (2 * h)
    curving = abs(up - 2 * at + down) / h
    central, wide = (up - down) / (2 * h), (up2 - down2) / (4 * h)
    best = (4 * central - wide) / 3
    error = rounding + abs(central - wide)
    size = 1.0 + abs(best)
    if abs(right - left) > 1e-4 * size + 0.1 * curving or error > 1e-3 * size:
        return "a kink, or too curved for finite differences", best, error
    return None, best, error


def tolerance_of(program: Program) -> float:
    """With which a program's gradients are compared."""
    return FLOAT32_RTOL if has_float32(program) else RTOL


def main_of_file(
    program: Any, arguments: Sequence[Any], names: dict[str, Any], mode: str, rtol: float
) -> int:
    """Compare the gradients of a program in a file; its while loops are scans for jax.grad.

    Returns the number of comparisons in its mode that failed.
    """
    failures = 0
    reference = types.FunctionType(program.__code__, {**names, **REFERENCE})
    with jax.enable_x64(True):
        xs = [jnp.asarray(x) for x in arguments]
        for how in dict.fromkeys((mode, "eager", "map")):
            for order in (1, 2):
                try:
                    outcome: Any = compare(program, reference, xs, how, order, set(), rtol)
                    failed = outcome.failure is not None
                except Broken as error:
                    outcome = f"{error}: {type(error.__cause__).__name__}: {error.__cause__}"
                    failed = error.args[0] != "jax.grad"
                failures += failed and how == mode
                print(f"{how}, order {order}: {outcome}")
    return failures
