"""Compare funcgrad with jax.grad and write benchmarks/RESULTS.md.

    python benchmarks/run.py [names...] [--pairs N] [--quick] [--no-write]

Names are workloads or groups of them; without any, all are run. Groups that were run whole are
written to their section of the report; other results are only printed.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import funcgrad
from benchmarks.measure import Comparison, measure
from benchmarks.workloads import GROUPS, Workload

RESULTS = Path(__file__).with_name("RESULTS.md")

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
}
NOISY = ("run", "trace", "lower", "compile", "without jit")
RATIOS = ("run", "memory", "trace", "lower", "compile", "without jit")
COUNTS = ("equations", "HLO lines", "reductions")


@dataclass(frozen=True)
class Settings:
    """How many pairs are measured."""

    pairs: int
    trace_pairs: int
    compile_pairs: int

    def __str__(self) -> str:
        traces = self.trace_pairs + self.compile_pairs
        return (
            f"{self.pairs} pairs for run and without jit, {traces} for trace, "
            f"{self.compile_pairs} for lower and compile"
        )


Row = Mapping[str, Comparison]


def measure_workload(workload: Workload, settings: Settings) -> Row:
    """Measure one workload; both sides are value_and_grad of the same loss."""
    ours = funcgrad.value_and_grad(workload.loss)
    reference = jax.value_and_grad(workload.loss)
    counts = settings.pairs, settings.trace_pairs, settings.compile_pairs
    return measure(ours, reference, workload.make_args(False), *counts)


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

    ratios = ([w, *(ratio(n, row[n]) for n in RATIOS)] for w, row in rows.items())
    described = {w.name: w.description for w in GROUPS[group]}
    parts = [
        f"## {group}",
        "\n".join(f"- {name}: {described[name]}" for name in rows),
        f"Settings: {settings}.",
        "Ratio to `jax.grad` (below 1 is better):",
        table(["", *RATIOS], ratios),
        "Medians, funcgrad / `jax.grad`:",
        absolute(RATIOS),
        "Sizes of the programs, funcgrad / `jax.grad`:",
        absolute(COUNTS),
    ]
    return "\n\n".join(parts) + "\n"


def preamble() -> str:
    cores = os.cpu_count()
    machine = f"{jax.default_backend()} ({platform.machine()}, {cores} cores)"
    meanings = "\n".join(f"- **{name}**: {meaning}." for name, meaning in MEANING.items())
    return (
        "# funcgrad against jax.grad\n\n"
        f"Made by `python benchmarks/run.py` with JAX {jax.__version__} on {machine}.\n\n"
        "Both sides are `value_and_grad` of the same loss, in one process, all arrays passed as "
        "arguments. Measurements alternate between the two; a ratio is the median of the pairs' "
        "ratios, with their interquartile range behind it. Memory and counts have no noise.\n\n"
        f"{meanings}\n"
    )


def update(text: str, sections: Mapping[str, str]) -> str:
    """The report with the sections of these groups replaced, those of others kept."""
    old = {part.split("\n", 1)[0]: f"## {part}" for part in re.split(r"(?m)^## ", text)[1:]}
    kept = {name: sections.get(name, old.get(name)) for name in GROUPS}
    bodies = (body.rstrip() + "\n" for body in kept.values() if body)
    return "\n".join([preamble(), *bodies])


# --- the command line


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    names = [*GROUPS, *(w.name for group in GROUPS.values() for w in group)]
    parser.add_argument("names", nargs="*", metavar="name", help=f"one of {', '.join(names)}")
    parser.add_argument("--pairs", type=int, default=15, help="pairs of timed calls (15)")
    parser.add_argument("--quick", action="store_true", help="few pairs, for a first look")
    parser.add_argument("--no-write", action="store_true", help="only print")
    options = parser.parse_args(argv)
    unknown = set(options.names) - set(names)
    if unknown:
        parser.error(f"no workload or group called {', '.join(sorted(unknown))}")
    return options


def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    jax.config.update("jax_enable_compilation_cache", False)
    settings = Settings(5, 1, 2) if options.quick else Settings(options.pairs, 5, 5)
    sections = {}
    for group, workloads in GROUPS.items():
        names = options.names or list(GROUPS)
        chosen = [w for w in workloads if group in names or w.name in names]
        rows = {}
        for workload in chosen:
            start = time.perf_counter()
            rows[workload.name] = measure_workload(workload, settings)
            took = time.perf_counter() - start
            print(f"{workload.name}: measured in {took:.0f} s", file=sys.stderr, flush=True)
        if rows:
            text = section(group, rows, settings)
            print(text)
            if len(chosen) == len(workloads):
                sections[group] = text
    if sections and not options.no_write:
        text = RESULTS.read_text() if RESULTS.exists() else ""
        RESULTS.write_text(update(text, sections))
        print(f"wrote {RESULTS.name}", file=sys.stderr)


if __name__ == "__main__":
    main()
