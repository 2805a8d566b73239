"""How costs grow with the size of a program: depth, body, steps, nesting, parameters.

    python benchmarks/scale.py [axes...] [--limit SECONDS] [--small]

prints the section; `python benchmarks/run.py scale` also writes it and draws docs/scale.svg. Each
side of each axis has a process of its own, which goes from the smallest size to the largest. It is
stopped at the first size that takes longer than the limit. Times are the process's CPU time, which
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

PICTURE = Path(__file__).parents[1] / "docs" / "scale.svg"
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


def measure_point(axis: Axis, side: str, size: int, count: bool) -> Point:
    """All quantities at one size, caches cold, and the norm of the gradient to compare."""
    loss, params = axis.make(size)
    function = SIDES[side](loss)
    jax.clear_caches()
    trace, traced = cpu_seconds(lambda: jax.jit(function).trace(params))
    lower, lowered = cpu_seconds(traced.lower)
    compiling, compiled = cpu_seconds(lowered.compile)

    def run() -> Any:
        return jax.block_until_ready(compiled(params))

    first, (_, gradient) = cpu_seconds(run)
    repeats = max(1, min(20, int(0.5 / max(first, 1e-6))))
    point: Point = {
        "size": size,
        "trace": trace,
        "lower": lower,
        "compile": compiling,
        "run": min(cpu_seconds(run)[0] for _ in range(repeats)),
        "memory": compiled.memory_analysis().temp_size_in_bytes,
        "equations": count_equations(traced.jaxpr.jaxpr),
        "norm": math.sqrt(sum(float(np.sum(np.square(ct))) for ct in jax.tree.leaves(gradient))),
    }
    return point | ({"calls": calls_of(axis, side, size)} if count else {})


def calls_of(axis: Axis, side: str, size: int) -> int:
    """Functions called in a cold trace, Python's and C's: a time that no machine changes."""
    loss, params = axis.make(size)
    jax.clear_caches()
    function = SIDES[side](loss)
    return calls_made(lambda: jax.jit(function).trace(params))


def measure_sizes(axis: Axis, side: str, sizes: Sequence[int]) -> Iterator[Point]:
    """The points of one side; the smallest size is measured twice, since JAX's first use is slow."""
    measure_point(axis, side, sizes[0], count=False)
    trace = 0.0
    for size in sizes:
        point = measure_point(axis, side, size, count=trace < 1)
        trace = point["trace"]
        yield point


def in_process(name: str, side: str, sizes: Sequence[int], limit: float) -> list[Point]:
    """The points that another process measures until one takes longer than the limit."""
    command = [sys.executable, __file__, "--child", name, side, *map(str, sizes)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    points: list[Point] = []
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
        child.wait()
    return points


Curves = dict[str, dict[str, list[Point]]]
"""By axis and side."""


def measure_axes(names: Sequence[str], limit: float, small: bool = False) -> Curves:
    """The points of these axes; the process stops where the two gradients differ."""
    curves: Curves = {}
    for name in names:
        axis = AXES[name]
        sizes = axis.sizes[:2] if small else axis.sizes
        sides = [side for side in SIDES if side == "funcgrad" or axis.refused is None]
        curves[name] = {side: in_process(name, side, sizes, limit) for side in sides}
        check_norms(name, *curves[name].values())
    return curves


def check_norms(name: str, ours: Sequence[Point], reference: Sequence[Point] = ()) -> None:
    """Stop if the two gradients differ."""
    for point, expected in zip(ours, reference, strict=False):
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


def section(curves: Curves, limit: float) -> str:
    """The two tables, under their heading, and what did not finish."""
    return "\n\n".join(
        [
            "## scale",
            "\n".join(f"- {name}: {AXES[name].description}" for name in curves),
            "Times are CPU time of the process, one cold run of each size: read the exponents, not "
            "the last digit. `calls` are the functions called in a trace, Python's and C's.",
            "At the largest size that both finished, funcgrad / `jax.grad`:",
            table("size", [[name, *row] for name, row in at_largest(curves)]),
            f"Exponents, funcgrad / `jax.grad`: the slope of the logarithms of the last {LAST} "
            "sizes that each finished. 1 is linear; nothing is written where a quantity stays "
            "below what can be told from noise.",
            table("largest sizes", [[name, *row] for name, row in exponents(curves)]),
            *unfinished(curves, limit),
            "![Costs against size](../docs/scale.svg)\n",
        ]
    )


def table(size: str, rows: Sequence[Sequence[str]]) -> str:
    header = ["", size, *QUANTITIES]
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def at_largest(curves: Curves) -> Iterator[tuple[str, list[str]]]:
    for name, sides in curves.items():
        ours, reference = sides["funcgrad"], sides.get("jax.grad", [])
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


def unfinished(curves: Curves, limit: float) -> Iterator[str]:
    for name, sides in curves.items():
        for side, points in sides.items():
            missing = AXES[name].sizes[len(points) :]
            if missing:
                yield f"{name}: {side} was stopped at {missing[0]:,} after {limit:.0f} s."
        if AXES[name].refused:
            yield f"{name}: `jax.grad` has no row: {AXES[name].refused}."


def draw(curves: Curves, path: Path = PICTURE) -> None:
    """A column for each axis, a row for each quantity, logarithmic both ways."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    rows = (*TIMES, "memory")
    figure = Figure(figsize=(2.1 * len(curves), 1.7 * len(rows)), layout="constrained")
    FigureCanvasSVG(figure)
    panels = figure.subplots(len(rows), len(curves), squeeze=False, sharex="col")
    for column, (name, sides) in zip(panels.T, curves.items(), strict=True):
        for panel, quantity in zip(column, rows, strict=True):
            scale = 2**20 if quantity == "memory" else 1
            for side, points in sides.items():
                style = "o-" if side == "funcgrad" else "s--"
                values = [max(p[quantity] / scale, 1e-6) for p in points]
                panel.loglog([p["size"] for p in points], values, style, ms=3, lw=1, label=side)
            panel.tick_params(labelsize=6)
            panel.grid(lw=0.3)
        column[0].set_title(name, fontsize=8)
    for panel, quantity in zip(panels[:, 0], rows, strict=True):
        panel.set_ylabel(f"{quantity} ({'MiB' if quantity == 'memory' else 's'})", fontsize=7)
    panels[0, 0].legend(fontsize=6)
    path.parent.mkdir(exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "scale", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})


# --- the command line


def main(argv: Sequence[str] | None = None) -> None:
    argv = list(sys.argv[1:] if argv is None else argv)
    jax.config.update("jax_enable_compilation_cache", False)
    if argv[:1] == ["--child"]:
        for point in measure_sizes(AXES[argv[1]], argv[2], [int(size) for size in argv[3:]]):
            print(json.dumps(point), flush=True)
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("axes", nargs="*", metavar="axis", help=f"of {', '.join(AXES)}; all")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds for a size (120)")
    parser.add_argument("--small", action="store_true", help="the two smallest sizes")
    options = parser.parse_args(argv)
    if set(options.axes) - set(AXES):
        parser.error(f"the axes are {', '.join(AXES)}")
    print(
        section(measure_axes(options.axes or [*AXES], options.limit, options.small), options.limit)
    )


if __name__ == "__main__":
    main()
