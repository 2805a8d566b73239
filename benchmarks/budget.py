"""The curve of memory and time against the budget of ``funcgrad.checkpoint``."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

import funcgrad
from benchmarks.workloads import transformer_args, transformer_loss

PICTURE = Path(__file__).parents[1] / "docs" / "budget.png"
FRACTIONS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.12)
EVERYTHING, INPUTS, JAX = "no checkpoint", "inputs only", "`jax.grad`, no checkpoint"


@dataclass
class Point:
    """One way of checkpointing.

    Attributes:
      name: for the table.
      budget: bytes that the plan may take, where it was given any.
      estimate: bytes alive at most in the backward program, by the planner's count.
      repeated: operations that are computed again.
      memory: XLA's temporary bytes for the compiled gradient.
      seconds: samples of the time of a call.
    """

    name: str
    budget: float | None
    estimate: int | None
    repeated: float | None
    memory: int
    compiled: Any
    seconds: list[float] = field(default_factory=list)

    @property
    def time(self) -> float:
        return statistics.median(self.seconds)

    def ratio(self, base: Point) -> tuple[float, float, float]:
        """Median and quartiles of the time, relative to another point's in the same round."""
        ratios = [a / b for a, b in zip(self.seconds, base.seconds, strict=True)]
        if len(ratios) == 1:
            return ratios[0], ratios[0], ratios[0]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return middle, low, high


def measure_curve(small: bool, rounds: int) -> list[Point]:
    """All points: their memory, and their times in turns."""
    args = transformer_args(small)
    points = list(plans(args, (1.0, 0.6) if small else FRACTIONS))
    expected = jax.tree.leaves(points[0].compiled(*args))
    for point in points:
        found = jax.tree.leaves(point.compiled(*args))
        for x, y in zip(found, expected, strict=True):
            if not np.max(np.abs(x - y)) <= 1e-4 * np.max(np.abs(y)):  # also catches nan
                sys.exit(f"{point.name}: the gradient differs from jax.grad's")
    for i in range(rounds):
        for point in points if i % 2 else reversed(points):
            start = time.perf_counter()
            jax.block_until_ready(point.compiled(*args))
            point.seconds.append(time.perf_counter() - start)
    return points


def plans(args: tuple[Any, ...], fractions: Sequence[float]) -> list[Point]:
    """`jax.grad`, nothing repeated, the fractions down to the smallest possible, inputs only."""
    everything = plan(EVERYTHING, None, transformer_loss, args)
    whole = plan("1.0", 1.0, funcgrad.checkpoint(transformer_loss, budget=1.0), args)
    assert whole.estimate is not None
    points = [plan(JAX, None, transformer_loss, args, jax.grad), everything, whole]
    for fraction in fractions[1:]:
        limit = fraction * whole.estimate
        checkpointed = funcgrad.checkpoint(transformer_loss, budget=fraction)
        try:
            points.append(plan(f"{fraction:g}", limit, checkpointed, args))
        except funcgrad.errors.BudgetError as problem:
            print(f"budget: {fraction:g} was refused: {problem}", file=sys.stderr)
            break
    whole.budget = whole.estimate
    return [*points, plan(INPUTS, None, jax.checkpoint(transformer_loss), args)]


def plan(
    name: str,
    budget: float | None,
    loss: Callable[..., Any],
    args: tuple[Any, ...],
    grad: Callable[..., Any] = funcgrad.grad,
) -> Point:
    """Compile the gradient of a loss, and ask for the planner's estimate."""
    compiled = jax.jit(grad(loss)).lower(*args).compile()
    estimate = None
    if grad is funcgrad.grad:
        ledger = funcgrad.inspect.residuals(loss, *args, compiled=False, suggest=False)
        estimate = ledger.regions[0].estimate if ledger.regions else None
    memory = compiled.memory_analysis().temp_size_in_bytes
    print(f"budget: {name} compiled", file=sys.stderr, flush=True)
    if estimate is None:
        return Point(name, budget, None, None, memory, compiled)
    return Point(name, budget, estimate.peak, float(estimate.repeated), memory, compiled)


# --- the report


def section(points: Sequence[Point]) -> str:
    """The table, under its heading."""
    base = next(point for point in points if point.name == EVERYTHING)

    def size(number: float | None) -> str:
        return "" if number is None else f"{number / 2**20:.3g}"

    lines = ["|  | budget | estimate | XLA | repeated | time | ratio |", "|" + " --- |" * 7]
    for point in points:
        middle, low, high = point.ratio(base)
        cells = [
            point.name,
            *(size(number) for number in (point.budget, point.estimate, point.memory)),
            "" if point.repeated is None else f"{point.repeated / 1e6:.3g}",
            f"{point.time * 1e3:.3g} ms",
            f"{middle:.2f} ({low:.2f} to {high:.2f})",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return (
        "## budget\n\n"
        "The gradient of the 12-layer transformer of the group `models`, the whole loss in "
        "`funcgrad.checkpoint` with a budget, as a fraction of what keeping everything takes. MiB of "
        "the budget, of the planner's estimate and of XLA's temporary memory; millions of operations "
        "that are computed again; time per call, and its ratio to the gradient without checkpoint, "
        f"with quartiles, of {len(base.seconds)} rounds. `inputs only` is `jax.checkpoint` of the "
        "whole: it computes everything again at once, and so saves little.\n\n"
        + "\n".join(lines)
        + "\n\n![Memory and time against the budget](../docs/budget.png)\n"
    )


def draw(points: Sequence[Point], path: Path = PICTURE) -> None:
    """Two panels: memory and time against the budget."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curve = [point for point in points if point.budget is not None]
    base = next(point for point in points if point.name == EVERYTHING)
    inputs = next(point for point in points if point.name == INPUTS)
    at = [point.budget / 2**20 for point in curve if point.budget is not None]
    ratios = np.array([point.ratio(base) for point in curve])
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    memory, times = figure.subplots(1, 2)
    memory.plot(at, [p.memory / 2**20 for p in curve], "o-", label="XLA's temporary memory")
    memory.plot(at, [(p.estimate or 0) / 2**20 for p in curve], "s--", label="planner's estimate")
    memory.plot(at, at, ":", color="grey", label="budget")
    memory.axhline(base.memory / 2**20, color="C0", lw=0.8, label="XLA's, no checkpoint")
    memory.axhline(inputs.memory / 2**20, color="C3", ls="--", lw=0.8, label="XLA's, inputs only")
    memory.set(ylabel="memory (MiB)", ylim=(0, None))
    middle, low, high = ratios.T
    times.errorbar(at, middle, [middle - low, high - middle], fmt="o-", capsize=3)
    times.axhline(1, color="C0", lw=0.8, label="no checkpoint")
    times.axhline(inputs.ratio(base)[0], color="C3", lw=0.8, label="inputs only")
    times.set(ylabel="time, relative to no checkpoint", ylim=(0, None))
    for axes in (memory, times):
        axes.set(xlabel="budget (MiB)", xlim=(0, None))
        axes.legend(fontsize=8)
    figure.suptitle("12-layer transformer: memory and time against the budget")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)
