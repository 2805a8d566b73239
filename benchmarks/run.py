"""Compare funcgrad with jax.grad and write benchmarks/RESULTS.md.

    python benchmarks/run.py [names...] [--pairs N] [--quick] [--no-write]

Names are workloads or groups of them: models, unrolled, scan, while, budget, scale, train, and loops for
scan, while and budget; without any, all are run. Before a workload is timed, the two gradients are
compared. Groups that were run whole are written to their section of the report; other results are only
printed. Loops of unknown length are compared with equinox's, where it is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import funcgrad
from benchmarks import budget, scale, training
from benchmarks.loops import SCANS, WHILES, WhileWorkload
from benchmarks.measure import Comparison, largest_difference, measure
from benchmarks.unrolled import UNROLLED
from benchmarks.workloads import MODELS, Workload

RESULTS = Path(__file__).with_name("RESULTS.md")
GROUPS: dict[str, tuple[Workload | WhileWorkload, ...]] = {
    "models": MODELS,
    "unrolled": UNROLLED,
    "scan": SCANS,
    "while": WHILES,
}
"""Workloads by group; a group is one section of the report."""
SECTIONS = (*GROUPS, "budget", "scale", "train")
ALIASES = {"loops": ("scan", "while", "budget")}

REFERENCE = {"while": "`equinox.internal.while_loop` (checkpointed) under `jax.grad`"}
TARGETS = {
    "scan": "at most 0.75 for run and 0.55 for memory in the mean, and 1.03 for any one run",
    "while": "not slower than the other, and memory that does not grow with the trips",
}
GRADIENT_BOUND = 1e-4  # float32 rounding stays well below it, a wrong rule well above
LIMIT = 240.0  # seconds for a size in the group scale
CHECKPOINTS = 32  # states that a while loop keeps: funcgrad's default

MEANING = {
    "run": "time per call of the compiled function",
    "memory": "temporary memory of the compiled function, `memory_analysis().temp_size_in_bytes`",
    "trace": "time of `jax.jit(f).trace(*args)` with cold caches",
    "lower": "time of lowering the trace to StableHLO",
    "compile": "time of compiling that with XLA, caches cold and persistent cache off",
    "without jit": "time per call of the function not jitted, once warm",
    "equations": "equations in the jaxpr, those of inner jaxprs in place of the call",
    "HLO lines": "lines of optimised HLO",
    "reductions": "`reduce` operations in optimised HLO",
    "kernels": "fusions in optimised HLO that are not alike, each of which XLA compiles",
}
NOISY = ("run", "trace", "lower", "compile", "without jit")
RATIOS = ("run", "memory", "trace", "lower", "compile", "without jit")
COUNTS = ("equations", "HLO lines", "reductions", "kernels")


@dataclass(frozen=True)
class Settings:
    """How many pairs are measured."""

    pairs: int
    trace_pairs: int
    compile_pairs: int
    small: bool = False

    def __str__(self) -> str:
        traces = self.trace_pairs + self.compile_pairs
        return (
            f"{self.pairs} pairs for run and without jit, {traces} for trace, "
            f"{self.compile_pairs} for lower and compile"
        )


Row = Mapping[str, Comparison]


def sides(workload: Workload | WhileWorkload) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Ours and the reference: value_and_grad of the same loss."""
    if isinstance(workload, Workload):
        return funcgrad.value_and_grad(workload.loss), jax.value_and_grad(workload.loss)
    ours, reference = (
        partial(workload.loss, jax.lax.while_loop),
        partial(workload.loss, equinox_loop),
    )
    return funcgrad.value_and_grad(ours), jax.value_and_grad(reference)


def equinox_loop(test: Callable[..., Any], body: Callable[..., Any], init: Any) -> Any:
    """Equinox's loop with as many checkpoints as ours has."""
    from equinox.internal import while_loop

    return while_loop(test, body, init, kind="checkpointed", checkpoints=CHECKPOINTS)


def check_equal(name: str, fns: Iterable[Callable[..., Any]], args: tuple[Any, ...]) -> float:
    """The largest difference of a leaf, relative to its largest element; stops if it is large."""
    difference = largest_difference(*(jax.jit(fn)(*args) for fn in fns))
    if not difference <= GRADIENT_BOUND:  # also catches nan
        sys.exit(f"{name}: the gradients differ by {difference:.1e}, over {GRADIENT_BOUND}")
    return difference


def measure_workload(workload: Workload | WhileWorkload, settings: Settings) -> Row:
    """Measure one workload, once its two gradients are found equal."""
    start = time.perf_counter()
    args = workload.make_args(settings.small)
    fns = sides(workload)
    difference = check_equal(workload.name, fns, args)
    slow = isinstance(workload, WhileWorkload) and workload.slow
    pairs = min(settings.pairs, 3) if slow else settings.pairs
    row = measure(*fns, args, pairs, settings.trace_pairs, settings.compile_pairs)
    took = time.perf_counter() - start
    print(
        f"{workload.name}: gradients differ by {difference:.1e}; measured in {took:.0f} s",
        file=sys.stderr,
        flush=True,
    )
    return row


# --- the report


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def ratio(name: str, found: Comparison) -> str:
    noise = f" ({found.low:.2f} to {found.high:.2f})" if name in NOISY else ""
    return f"{found.ratio:.2f}{noise}"


def amount(name: str, value: float) -> str:
    if name == "memory":
        return f"{value / 2**20:.3g} MiB"
    if name in COUNTS:
        return f"{value:.0f}"
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def section(group: str, rows: Mapping[str, Row], settings: Settings) -> str:
    """The tables of one group of workloads."""

    def absolute(names: Iterable[str]) -> str:
        cells = (
            [w, *(f"{amount(n, row[n].ours)} / {amount(n, row[n].reference)}" for n in names)]
            for w, row in rows.items()
        )
        return table(["", *names], cells)

    ratios = [[w, *(ratio(n, row[n]) for n in RATIOS)] for w, row in rows.items()]
    means = ["geometric mean", *(f"{geometric_mean(rows, n):.2f}" for n in RATIOS)]
    described = {w.name: w.description for w in GROUPS[group]}
    other = REFERENCE.get(group, "`jax.grad`")
    parts = [
        f"## {group}",
        "\n".join(f"- {name}: {described[name]}" for name in rows),
        f"Settings: {settings}.",
        f"Ratio to {other} (below 1 is better):",
        table(["", *RATIOS], [*ratios, means]),
        *([f"Targets: {TARGETS[group]}."] if group in TARGETS else []),
        f"Medians, funcgrad / {other}:",
        absolute(RATIOS),
        f"Sizes of the programs, funcgrad / {other}:",
        absolute(COUNTS),
    ]
    return "\n\n".join(parts) + "\n"


def geometric_mean(rows: Mapping[str, Row], name: str) -> float:
    """Of the workloads' ratios; those without a ratio (nothing over nothing) are left out."""
    found = [row[name].ratio for row in rows.values() if row[name].ratio > 0]
    return math.exp(math.fsum(map(math.log, found)) / len(found)) if found else math.nan


def preamble() -> str:
    cores = os.cpu_count()
    machine = f"{jax.default_backend()} ({platform.machine()}, {cores} cores)"
    meanings = "\n".join(f"- **{name}**: {meaning}." for name, meaning in MEANING.items())
    return (
        "# funcgrad against jax.grad\n\n"
        f"Made by `python benchmarks/run.py` with JAX {jax.__version__} on {machine}.\n\n"
        "Both sides are `value_and_grad` of the same loss, in one process, all arrays passed as "
        "arguments; first their results are compared: no leaf may differ by more than "
        f"{GRADIENT_BOUND:g} of its largest element. Measurements alternate between the two; a ratio "
        "is the median of the pairs' ratios, with their interquartile range behind it. Memory and "
        "counts have no noise.\n\n"
        f"{meanings}\n"
    )


def update(text: str, sections: Mapping[str, str]) -> str:
    """The report with the sections of these groups replaced, those of others kept."""
    old = {part.split("\n", 1)[0]: f"## {part}" for part in re.split(r"(?m)^## ", text)[1:]}
    kept = {name: sections.get(name, old.get(name)) for name in SECTIONS}
    bodies = (body.rstrip() + "\n" for body in kept.values() if body)
    return "\n".join([preamble(), *bodies])


# --- the command line


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    workloads = [w.name for group in GROUPS.values() for w in group]
    names = [*SECTIONS, *ALIASES, *workloads]
    parser.add_argument("names", nargs="*", metavar="name", help=f"one of {', '.join(names)}")
    parser.add_argument("--pairs", type=int, default=15, help="pairs of timed calls (15)")
    parser.add_argument("--quick", action="store_true", help="small sizes, one pair, only print")
    parser.add_argument("--no-write", action="store_true", help="only print")
    options = parser.parse_args(argv)
    unknown = set(options.names) - set(names)
    if unknown:
        parser.error(f"no workload or group called {', '.join(sorted(unknown))}")
    options.names = [n for name in options.names or SECTIONS for n in ALIASES.get(name, (name,))]
    return options


def why_not(group: str) -> str | None:
    """The reason for which a group cannot be run here."""
    if group == "while" and importlib.util.find_spec("equinox") is None:
        return "equinox, with which it is compared, is not installed"
    libraries = ("flax", "equinox", "grain", "orbax", "sklearn", "tqdm")
    missing = [name for name in libraries if importlib.util.find_spec(name) is None]
    if group == "train" and missing:
        return f"{', '.join(missing)} not installed: pip install 'funcgrad[training]'"
    return None


def run_train(settings: Settings) -> str:
    """The section on whole training steps."""
    programs = {}
    with training.examples_importable():
        for program in training.PROGRAMS:
            print(f"train: {program.name}", file=sys.stderr, flush=True)
            programs[program.name] = training.measure_program(
                program, settings.small, settings.pairs
            )
    curves = training.growth_on_virtual_devices(settings.small)
    if not settings.small:
        training.draw(curves)
    return training.section(programs, curves)


def run_group(group: str, names: Iterable[str], settings: Settings) -> tuple[str, bool]:
    """What is to be printed of a group's workloads, and whether those were all."""
    if group == "budget":
        points = budget.measure_curve(settings.small, settings.pairs)
        if not settings.small:
            budget.draw(points)
        return budget.section(points), True
    if group == "scale":
        curves = scale.measure_axes([*scale.AXES], LIMIT, settings.small)
        if not settings.small:
            scale.draw(curves)
        return scale.section(curves, LIMIT, settings.small), True
    if group == "train":
        return run_train(settings), True
    workloads = GROUPS[group]
    chosen = [w for w in workloads if group in names or w.name in names]
    rows = {w.name: measure_workload(w, settings) for w in chosen}
    return section(group, rows, settings), len(chosen) == len(workloads)


def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    jax.config.update("jax_enable_compilation_cache", False)
    settings = Settings(1, 1, 1, True) if options.quick else Settings(options.pairs, 5, 5)
    sections = {}
    for group in SECTIONS:
        if not {group, *(w.name for w in GROUPS.get(group, ()))} & set(options.names):
            continue
        reason = why_not(group)
        if reason is not None:
            print(f"{group}: skipped, {reason}")
            continue
        text, whole = run_group(group, options.names, settings)
        print(text)
        if whole:
            sections[group] = text
    if sections and not options.no_write and not options.quick:
        text = RESULTS.read_text() if RESULTS.exists() else ""
        RESULTS.write_text(update(text, sections))
        print(f"wrote {RESULTS.name}", file=sys.stderr)


if __name__ == "__main__":
    main()
