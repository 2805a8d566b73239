"""How costs grow with the size of a program: depth, body, steps, nesting, parameters.

    python benchmarks/scale.py [axes...] [--limit SECONDS] [--small]

prints the section; `python benchmarks/run.py scale` also writes it and draws docs/scale.png. Each
side of each axis has a process of its own, which goes from the smallest size to the largest. It is
stopped at the first size that takes longer than the limit; larger ones are then traced and lowered
only. Times are the process's CPU time, which
neighbours on the machine change less than the clock's.
"""

from __future__ import annotations

import argparse
import json
import math
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import funcgrad
from benchmarks.measure import count_equations
from tests.counts import calls_made

PICTURE = Path(__file__).parents[1] / "docs" / "scale.png"
SIDES: Mapping[str, Callable[..., Any]] = {
    "funcgrad": funcgrad.value_and_grad,
    "jax.grad": jax.value_and_grad,
}
TIMES = ("trace", "lower", "compile", "run")
QUANTITIES = (*TIMES, "memory", "equations", "calls")
FLOORS = {"memory": 4096.0, "equations": 30.0, "calls": 1000.0}
"""Smaller values have no exponent: they are an overhead, or noise. Of times it is 3 ms."""
LAST = 3
"""The exponent is the slope of the logarithms of so many points, at the largest sizes."""
WIDTH = 16
DIFFERENCE = 1e-3
"""By how much the norms of the two gradients may differ, in parts of their size."""

Loss = Callable[..., Array]


# --- the axes


def parameter(*shape: int) -> Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32) / WIDTH**0.5


def layer(x: Array, weights: Array) -> Array:
    return jnp.tanh(x @ weights + 0.1)


def unrolled(depth: int) -> tuple[Loss, Any]:
    def loss(params: list[Array]) -> Array:
        x = jnp.ones(WIDTH)
        for weights in params:
            x = layer(x, weights)
        return jnp.sum(x**2)

    return loss, list(parameter(depth, WIDTH, WIDTH))


def scanned(depth: int) -> tuple[Loss, Any]:
    def loss(params: Array) -> Array:
        x, _ = lax.scan(lambda x, weights: (layer(x, weights), None), jnp.ones(WIDTH), params)
        return jnp.sum(x**2)

    return loss, parameter(depth, WIDTH, WIDTH)


def body(operations: int) -> tuple[Loss, Any]:
    """Four operations at a time: a product, a sine, a product, a sum."""

    def loss(w: Array) -> Array:
        def step(x: Array, _: None) -> tuple[Array, None]:
            for _repeat in range(max(1, operations // 4)):
                x = jnp.sin(w * x) + 0.5 * x
            return x, None

        return jnp.sum(lax.scan(step, jnp.ones(WIDTH), None, length=4)[0])

    return loss, jnp.linspace(0.1, 0.9, WIDTH)


def steps(length: int) -> tuple[Loss, Any]:
    def loss(w: Array) -> Array:
        x, _ = lax.scan(lambda x, _: (jnp.sin(w * x) + 0.5, None), jnp.ones(WIDTH), length=length)
        return jnp.sum(x**2)

    return loss, jnp.linspace(0.1, 0.9, WIDTH)


def trips(count: int) -> tuple[Loss, Any]:
    """The same in a while loop, whose length is known at run time only."""

    def loss(w: Array) -> Array:
        def step(state: tuple[Array, Array]) -> tuple[Array, Array]:
            return state[0] + 1, jnp.sin(w * state[1]) + 0.5

        init = jnp.zeros((), int), jnp.ones(WIDTH)
        _, x = lax.while_loop(lambda state: state[0] < jnp.int32(count), step, init)
        return jnp.sum(x**2)

    return loss, jnp.linspace(0.1, 0.9, WIDTH)


def nested(depth: int) -> tuple[Loss, Any]:
    """Jitted functions, each of which calls the next."""

    def inside(call: Loss) -> Loss:
        return jax.jit(lambda w, x: jnp.sin(call(w, x)) * w)

    def loss(w: Array) -> Array:
        call: Loss = jnp.multiply
        for _ in range(depth):
            call = inside(call)
        return jnp.sum(call(w, jnp.ones(WIDTH)))

    return loss, jnp.linspace(0.1, 0.9, WIDTH)


def leaves(count: int) -> tuple[Loss, Any]:
    def loss(params: list[Array]) -> Array:
        return jnp.sum(jnp.sin(jnp.concatenate(params)))

    return loss, [*np.linspace(0.0, 1.0, count, dtype=np.float32)[:, None]]


@dataclass(frozen=True)
class Axis:
    """A family of programs by size.

    Attributes:
      description: what grows.
      make: from a size to the loss and its parameters.
      sizes: those that are measured.
      refused: what `jax.grad` says, where it refuses all of them.
    """

    description: str
    make: Callable[[int], tuple[Loss, Any]]
    sizes: tuple[int, ...]
    refused: str | None = None


REFUSED = "its reverse mode does not go through `while_loop`"
AXES: Mapping[str, Axis] = {
    "depth": Axis("layers, unrolled by Python", unrolled, (1, 10, 100, 300, 1000)),
    "scanned depth": Axis("the same layers in a scan", scanned, (1, 10, 100, 300, 1000)),
    "body": Axis("operations in the body of a scan", body, (30, 100, 300, 1000, 3000, 10_000)),
    "steps": Axis("steps of a scan", steps, (10, 100, 1000, 10_000, 100_000, 1_000_000)),
    "trips": Axis(
        "trips of a while loop", trips, (10, 100, 1000, 10_000, 100_000, 1_000_000), REFUSED
    ),
    "nesting": Axis("jitted functions, one in the other", nested, (1, 5, 10, 25, 50)),
    "leaves": Axis("leaves of the parameters", leaves, (10, 100, 1000, 10_000, 100_000)),
}


# --- measuring, in a process for each axis and side

Point = dict[str, float]


def cpu_seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


def trace_point(axis: Axis, side: str, size: int) -> tuple[Point, Any, Any]:
    """What is known without compiling; the lowered program and its argument."""
    loss, params = axis.make(size)
    function = SIDES[side](loss)
    jax.clear_caches()
    trace, traced = cpu_seconds(lambda: jax.jit(function).trace(params))
    lower, lowered = cpu_seconds(traced.lower)
    equations = count_equations(traced.jaxpr.jaxpr)
    point = {"size": size, "trace": trace, "lower": lower, "equations": equations}
    return point, lowered, params


def measure_point(axis: Axis, side: str, size: int) -> Point:
    """All quantities at one size, caches cold, and the norm of the gradient to compare."""
    point, lowered, params = trace_point(axis, side, size)
    compiling, compiled = cpu_seconds(lowered.compile)

    def run() -> Any:
        return jax.block_until_ready(compiled(params))

    first, (_, gradient) = cpu_seconds(run)
    repeats = max(1, min(20, int(0.5 / max(first, 1e-6))))
    return point | {
        "compile": compiling,
        "run": min(cpu_seconds(run)[0] for _ in range(repeats)),
        "memory": compiled.memory_analysis().temp_size_in_bytes,
        "norm": math.sqrt(sum(float(np.sum(np.square(ct))) for ct in jax.tree.leaves(gradient))),
    }


def calls_of(axis: Axis, side: str, size: int) -> int:
    """Functions called in a cold trace, Python's and C's: a time that no machine changes."""
    loss, params = axis.make(size)
    jax.clear_caches()
    function = SIDES[side](loss)
    return calls_made(lambda: jax.jit(function).trace(params))


def measure_sizes(axis: Axis, side: str, sizes: Sequence[int], compiling: bool) -> Iterator[Point]:
    """The points of one side; the smallest size is measured twice, since JAX's first use is slow."""
    trace_point(axis, side, axis.sizes[0])
    for size in sizes:
        if compiling:
            point = measure_point(axis, side, size)
        else:
            point, *_ = trace_point(axis, side, size)
        if point["trace"] < 1:  # counting takes several times as long as tracing
            point["calls"] = calls_of(axis, side, size)
        yield point


def measure_side(name: str, side: str, sizes: Sequence[int], limit: float) -> list[Point]:
    """The points that fit into the limit; where compiling does not, those without it."""
    points = in_process(name, side, sizes, limit, "compiled")
    if len(points) < len(sizes):
        points += in_process(name, side, sizes[len(points) :], limit, "lowered")
    return points


def in_process(name: str, side: str, sizes: Sequence[int], limit: float, how: str) -> list[Point]:
    """The points that another process measures until one takes longer than the limit."""
    command = [sys.executable, __file__, "--child", how, name, side, *map(str, sizes)]
    points: list[Point] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            while len(points) < len(sizes):
                ready, _, _ = select.select([child.stdout], [], [], limit)
                line = child.stdout.readline() if ready else ""
                if not line:
                    break
                points.append(json.loads(line))
                print(f"{name}, {side}: {line.strip()}", file=sys.stderr, flush=True)
        finally:
            child.kill()
    return points


Curves = dict[str, dict[str, list[Point]]]
"""By axis and side."""


def sizes_of(name: str, small: bool) -> tuple[int, ...]:
    return AXES[name].sizes[:2] if small else AXES[name].sizes


def measure_axes(names: Sequence[str], limit: float, small: bool = False) -> Curves:
    """The points of these axes; the process stops where the two gradients differ."""
    curves: Curves = {}
    for name in names:
        axis = AXES[name]
        sizes = sizes_of(name, small)
        sides = [side for side in SIDES if side == "funcgrad" or axis.refused is None]
        curves[name] = {side: measure_side(name, side, sizes, limit) for side in sides}
        check_norms(name, *curves[name].values())
    return curves


def compiled(points: Sequence[Point]) -> list[Point]:
    """The points that were compiled as well."""
    return [point for point in points if "compile" in point]


def check_norms(name: str, ours: Sequence[Point], reference: Sequence[Point] = ()) -> None:
    """Stop if the two gradients differ."""
    for point, expected in zip(compiled(ours), compiled(reference), strict=False):
        close = abs(point["norm"] - expected["norm"]) <= DIFFERENCE * expected["norm"]
        if not close:  # also catches nan
            sys.exit(f"{name} at {point['size']}: the gradients differ")


# --- the report


def exponent(points: Sequence[Point], quantity: str) -> float | None:
    """The slope at the largest sizes; None where there are not two values that say something."""
    floor = FLOORS.get(quantity, 3e-3)
    found = [(p["size"], p[quantity]) for p in points if p.get(quantity, 0) >= floor][-LAST:]
    if len(found) < 2:
        return None
    x, y = np.log(np.array(found)).T
    return float(np.polyfit(x, y, 1)[0])


def amount(quantity: str, value: float | None) -> str:
    if value is None:
        return ""
    if quantity == "memory":
        return f"{value / 2**20:.3g} MiB"
    if quantity in TIMES:
        return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"
    return f"{value:,.0f}"


def section(curves: Curves, limit: float, small: bool = False) -> str:
    """The two tables, under their heading, and what did not finish."""
    return "\n\n".join(
        [
            "## scale",
            "\n".join(f"- {name}: {AXES[name].description}" for name in curves),
            "Times are CPU time of the process, one cold run of each size: read the exponents, not "
            "the last digit. `calls` are the functions called in a trace, Python's and C's. The "
            "limit that stops a side is by the clock.",
            "At the largest size that both compiled, funcgrad / `jax.grad`:",
            table("size", [[name, *row] for name, row in at_largest(curves)]),
            f"Exponents, funcgrad / `jax.grad`: the slope of the logarithms of the last {LAST} sizes, "
            "of trace, lower, equations and calls up to the largest that was traced, of the others "
            "up to the largest that was compiled. 1 is linear; `-` stands where a quantity stays "
            "below what can be told from noise. Nesting is above 1 on both sides: what the innermost "
            "function keeps is a result of each call around it, and JAX writes down a traceback as "
            "long as the nesting for each operation. XLA compiles long bodies at 1.3 to 1.4.",
            table("largest traced", [[name, *row] for name, row in exponents(curves)]),
            *unfinished(curves, limit, small),
            "![Costs against size](../docs/scale.png)\n",
        ]
    )


def table(size: str, rows: Sequence[Sequence[str]]) -> str:
    header = ["", size, *QUANTITIES]
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def at_largest(curves: Curves) -> Iterator[tuple[str, list[str]]]:
    for name, sides in curves.items():
        ours, reference = (compiled(sides.get(side, [])) for side in SIDES)
        count = min(len(ours), len(reference)) if reference else len(ours)
        if not count:
            continue
        last = [points[count - 1] for points in (ours, reference) if points]
        cells = [" / ".join(amount(q, point.get(q)) for point in last) for q in QUANTITIES]
        yield name, [f"{last[0]['size']:,.0f}", *cells]


def exponents(curves: Curves) -> Iterator[tuple[str, list[str]]]:
    def written(found: float | None) -> str:
        return "-" if found is None else f"{found:.2f}"

    for name, sides in curves.items():
        largest = " / ".join(f"{points[-1]['size']:,.0f}" for points in sides.values() if points)
        found = [[exponent(points, q) for points in sides.values()] for q in QUANTITIES]
        yield name, [largest, *(" / ".join(map(written, pair)) for pair in found)]


def unfinished(curves: Curves, limit: float, small: bool) -> Iterator[str]:
    for name, sides in curves.items():
        for side, points in sides.items():
            done = {"XLA": len(compiled(points)), "tracing": len(points)}
            for what, count in done.items():
                missing = sizes_of(name, small)[count:]
                if missing:
                    yield f"{name}: {what} was stopped at {missing[0]:,} after {limit:.0f} s ({side})."
        if AXES[name].refused:
            yield f"{name}: `jax.grad` has no row: {AXES[name].refused}."


def draw(curves: Curves, path: Path = PICTURE) -> None:
    """A column for each axis, a row for each quantity, logarithmic both ways."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    rows = (*TIMES, "memory")
    figure = Figure(figsize=(2.1 * len(curves), 1.7 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(rows), len(curves), squeeze=False, sharex="col")
    for column, (name, sides) in zip(panels.T, curves.items(), strict=True):
        for panel, quantity in zip(column, rows, strict=True):
            scale = 2**20 if quantity == "memory" else 1
            for side, points in sides.items():
                style = "o-" if side == "funcgrad" else "s--"
                known = [point for point in points if quantity in point]
                values = [max(point[quantity] / scale, 1e-6) for point in known]
                panel.loglog([p["size"] for p in known], values, style, ms=3, lw=1, label=side)
            low, high = panel.get_ylim()
            middle = math.sqrt(low * high)
            panel.set_ylim(min(low, middle / 10), max(high, middle * 10))  # noise looks flat
            panel.yaxis.set_minor_formatter(NullFormatter())
            panel.tick_params(labelsize=6)
            panel.grid(lw=0.3)
        column[0].set_title(name, fontsize=8)
    for panel, quantity in zip(panels[:, 0], rows, strict=True):
        panel.set_ylabel(f"{quantity} ({'MiB' if quantity == 'memory' else 's'})", fontsize=7)
    panels[0, 0].legend(fontsize=6)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=80)


# --- the command line


def main(argv: Sequence[str] | None = None) -> None:
    argv = list(sys.argv[1:] if argv is None else argv)
    jax.config.update("jax_enable_compilation_cache", False)
    if argv[:1] == ["--child"]:
        how, name, side, *sizes = argv[1:]
        for point in measure_sizes(AXES[name], side, [*map(int, sizes)], how == "compiled"):
            print(json.dumps(point), flush=True)
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("axes", nargs="*", metavar="axis", help=f"of {', '.join(AXES)}; all")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds for a size (120)")
    parser.add_argument("--small", action="store_true", help="the two smallest sizes")
    options = parser.parse_args(argv)
    if set(options.axes) - set(AXES):
        parser.error(f"the axes are {', '.join(AXES)}")
    curves = measure_axes(options.axes or [*AXES], options.limit, options.small)
    print(section(curves, options.limit, options.small))


if __name__ == "__main__":
    main()
