"""A search for programs of which our gradient costs more than jax.grad's.

    python benchmarks/losers.py [operations] [workloads] [random] [ecosystem]
                                [--only TEXT] [--programs N] [--seed N] [--worst N]

operations: those of `operations.py` at three sizes; workloads: the losses of `fields.py`, the models,
unrolled loops and scans of `run.py`; random: programs of `funcgrad.testing.fuzz`; ecosystem: every
loss that a test in `tests/ecosystem` compares. Without any, all. The two gradients are compared first.
XLA then counts what both compiled programs do, which no busy machine changes. What looks worse by the
counts or by a few calls is timed with care.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import funcgrad
from benchmarks.bound import differentiated
from benchmarks.fields import FIELDS
from benchmarks.loops import SCANS
from benchmarks.measure import cpu_seconds, work_counted
from benchmarks.operations import OPERATIONS, weighted
from benchmarks.run import GRADIENT_BOUND, table
from benchmarks.unrolled import UNROLLED
from benchmarks.workloads import MODELS
from funcgrad.testing.fuzz.generator import generate
from funcgrad.testing.fuzz.one import affordable
from funcgrad.testing.fuzz.tastes import MIXED

COUNTS = ("operations", "bytes", "memory")
SUSPICIOUS = 1.02
"""What has a larger ratio of counts, or of a few calls times `QUICK_NOISE`, is timed with care."""
QUICK_NOISE, QUICK_ROUNDS, ROUNDS = 1.08, 3, 21
SLIGHT = {"operations": 200, "bytes": 2000, "memory": 1024}
"""Differences that are too small to matter to anybody."""


@dataclass(frozen=True)
class Candidate:
    """A loss with arguments.

    Attributes:
      name: with the source in front.
      loss: for us.
      args: its arguments.
      reference: the same function for jax.grad, where that needs another form of loops.
      settings: of value_and_grad.
      x64: whether it runs in double precision.
    """

    name: str
    loss: Callable[..., Any]
    args: tuple[Any, ...]
    reference: Callable[..., Any] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    x64: bool = False


@dataclass(frozen=True)
class Found:
    """What a candidate's gradient costs, ours over jax.grad's.

    Attributes:
      name: of the candidate.
      counts: ours and jax.grad's, by their names.
      run: the median ratio of CPU times, and its quartiles; a single one of a few calls.
      careful: whether it was timed with care.
    """

    name: str
    counts: Mapping[str, tuple[float, float]]
    run: tuple[float, float, float]
    careful: bool

    def ratio(self, count: str) -> float:
        """Ours over jax.grad's; 1 where the difference is slight."""
        ours, reference = self.counts[count]
        if abs(ours - reference) <= SLIGHT[count]:
            return 1.0
        return ours / reference if reference else math.inf


class NotCompared(Exception):
    """A candidate that has no finite gradient by jax.grad: the reason."""


class Unequal(NotCompared):
    """A candidate whose two gradients differ: it is not timed, and the search fails."""


def look(candidate: Candidate) -> Found:
    """Compare, count and time one candidate."""
    with jax.enable_x64(candidate.x64), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries
        args = candidate.args
        ours = compiled(funcgrad.value_and_grad(candidate.loss, **candidate.settings), args)
        reference = candidate.reference or candidate.loss
        theirs = compiled(jax.value_and_grad(reference, **candidate.settings), args)
        check_equal(candidate, ours(*args), theirs(*args))
        counted = [work_counted(fn) for fn in (ours, theirs)]
        counts = {name: (counted[0][name], counted[1][name]) for name in COUNTS}
        found = Found(candidate.name, counts, ratios(ours, theirs, args, QUICK_ROUNDS), False)
        worst = max(*(found.ratio(name) for name in COUNTS), found.run[0] / QUICK_NOISE)
        if worst > SUSPICIOUS:
            run = ratios(ours, theirs, args, ROUNDS)
            found = dataclasses.replace(found, run=run, careful=True)
        return found


def compiled(fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    try:
        return jax.jit(fn).lower(*args).compile()
    except NotImplementedError as error:  # an operation that JAX has no derivative of
        raise NotCompared(str(error)) from error


def check_equal(candidate: Candidate, ours: Any, theirs: Any) -> None:
    """Compare the gradients; leaves without floats are left out."""
    pairs = [
        (np.asarray(a), np.asarray(b))
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
        if jax.dtypes.issubdtype(b.dtype, np.inexact)
    ]
    if not all(np.isfinite(b).all() for _, b in pairs):
        raise NotCompared("jax.grad's gradient is not finite")
    size = max((float(np.max(np.abs(b), initial=0.0)) for _, b in pairs), default=0.0)
    if size == 0.0:
        return
    difference = max(float(np.max(np.abs(a - b), initial=0.0)) for a, b in pairs) / size
    if not difference <= GRADIENT_BOUND:
        raise Unequal(f"the gradients differ by {difference:.1e}")


def ratios(ours: Any, theirs: Any, args: Any, rounds: int) -> tuple[float, float, float]:
    """The median of the rounds' ratios of CPU times, and its quartiles."""
    first, second = cpu_seconds((ours, theirs), args, rounds)
    pairs = [a / b for a, b in zip(first, second, strict=True) if b]
    low, middle, high = statistics.quantiles(pairs, n=4, method="inclusive")
    return middle, low, high


# --- where candidates come from


def operations(options: argparse.Namespace) -> Iterator[Candidate]:
    for name, operation in OPERATIONS.items():
        for size, side in operation.sides.items():
            args = operation.make_args(side)
            settings = {"argnums": differentiated(args)}
            loss = partial(weighted, operation.fun)
            yield Candidate(f"operation {name}, {size}", loss, args, settings=settings)


def workloads(options: argparse.Namespace) -> Iterator[Candidate]:
    for workload in (*FIELDS, *MODELS, *UNROLLED, *SCANS):
        yield Candidate(f"workload {workload.name}", workload.loss, workload.make_args(False))


def random(options: argparse.Namespace) -> Iterator[Candidate]:
    for seed in range(options.seed, options.seed + options.programs):
        program = generate(Random(seed), affordable(MIXED, seed), seed)
        with jax.enable_x64(True):
            args = tuple(program.values())
            every = {"argnums": tuple(range(len(args)))}
            ours, reference = program.function(), program.function(reference=True)
        yield Candidate(f"random program {seed}", ours, args, reference, every, True)


def ecosystem(options: argparse.Namespace) -> Iterator[Candidate]:
    """The losses that the tests give to `tests.ecosystem.compare.check`."""
    import pytest

    collector = Collector()
    folder = Path(__file__).parents[1] / "tests" / "ecosystem"
    quiet = ["-q", "-n", "0", "-m", "", "-p", "no:cacheprovider", "--no-header", "--tb=no", "-k"]
    wanted = f"not guide and {options.only}" if options.only else "not guide"
    pytest.main([*quiet, wanted, str(folder)], plugins=[collector])
    yield from collector.candidates


class Collector:
    """A pytest plugin that takes the losses instead of comparing their gradients."""

    def __init__(self) -> None:
        self.candidates: list[Candidate] = []
        self.name = ""

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Keep the tests that compare a gradient, and replace their comparison."""
        items[:] = [item for item in items if hasattr(item.module, "check")]
        for module in {item.module for item in items}:
            module.check = self.take

    def pytest_runtest_setup(self, item: Any) -> None:
        self.name = item.nodeid.rsplit("/", 1)[-1]

    def take(
        self, loss: Any, *args: Any, argnums: Any = 0, has_aux: bool = False, **more: Any
    ) -> Any:
        """Stand in for `check`."""
        settings = {
            "argnums": argnums,
            "has_aux": has_aux,
            "allow_int": more.get("allow_int", False),
        }
        x64 = bool(jax.config.jax_enable_x64)
        self.candidates.append(Candidate(self.name, loss, args, settings=settings, x64=x64))


SOURCES: Mapping[str, Callable[[argparse.Namespace], Iterator[Candidate]]] = {
    "operations": operations,
    "workloads": workloads,
    "random": random,
    "ecosystem": ecosystem,
}


# --- the report


def worst(found: Sequence[Found], by: str, count: int) -> str:
    """A table of the worst by run (timed with care alone) or by a count."""
    key = (lambda f: f.run[0]) if by == "run" else (lambda f: f.ratio(by))
    chosen = [f for f in found if (f.careful or by != "run") and key(f) > SUSPICIOUS]
    rows = [
        [
            f.name,
            f"{f.run[0]:.2f}" + (f" ({f.run[1]:.2f} to {f.run[2]:.2f})" if f.careful else ""),
            *(f"{f.ratio(c):.2f} ({f.counts[c][0]:.3g} / {f.counts[c][1]:.3g})" for c in COUNTS),
        ]
        for f in sorted(chosen, key=key, reverse=True)[:count]
    ]
    title = f"By {by}, {len(chosen)} of {len(found)} above {SUSPICIOUS}:"
    return "\n".join([title, "", table(["", "run", *COUNTS], rows), ""])


def mean(found: Sequence[Found], key: Callable[[Found], float]) -> float:
    values = [v for v in map(key, found) if 0 < v < math.inf]
    return math.exp(math.fsum(map(math.log, values)) / len(values)) if values else math.nan


def search(options: argparse.Namespace) -> tuple[list[Found], list[str], int]:
    """What was found of all candidates; which could not be compared and why; how many were unequal."""
    found, skipped, unequal = [], [], 0
    for source in options.sources:
        for candidate in SOURCES[source](options):
            if options.only not in candidate.name:
                continue
            try:
                now = look(candidate)
            except NotCompared as reason:
                skipped.append(f"{candidate.name}: {reason}")
                unequal += isinstance(reason, Unequal)
                continue
            found.append(now)
            counted = " ".join(f"{now.ratio(name):.2f}" for name in COUNTS)
            print(f"{now.name}: run {now.run[0]:.2f}, {counted}", file=sys.stderr, flush=True)
            jax.clear_caches()
    return found, skipped, unequal


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("sources", nargs="*", metavar="source", help=", ".join(SOURCES))
    parser.add_argument("--only", default="", metavar="TEXT", help="those with this in their names")
    parser.add_argument("--programs", type=int, default=500, help="random programs (500)")
    parser.add_argument("--seed", type=int, default=0, help="of the first random program")
    parser.add_argument("--worst", type=int, default=10, help="rows of a table (10)")
    options = parser.parse_args(argv)
    if unknown := set(options.sources) - set(SOURCES):
        parser.error(f"no source called {', '.join(sorted(unknown))}")
    options.sources = options.sources or [*SOURCES]
    found, skipped, unequal = search(options)
    for by in ("run", *COUNTS):
        print(worst(found, by, options.worst))
    means = [f"{name} {mean(found, lambda f, name=name: f.ratio(name)):.2f}" for name in COUNTS]
    print(
        f"Geometric means of {len(found)}: run {mean(found, lambda f: f.run[0]):.2f}, {', '.join(means)}"
    )
    print("\n".join(["Not compared:", *skipped] if skipped else []))
    return int(unequal > 0)


if __name__ == "__main__":
    sys.exit(main())
