"""Many random programs: the command line, processes, and files of those that fail."""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import jax

from funcgrad._jax import QUICKEST_COMPILATION
from funcgrad.testing.fuzz.generator import generate
from funcgrad.testing.fuzz.one import TIE, Outcome, affordable, check, plan, tolerance_of
from funcgrad.testing.fuzz.programs import Program, as_file, shrink
from funcgrad.testing.fuzz.tastes import MIXED, NESTED, Taste
from funcgrad.testing.fuzz.unoptimised import PROGRAMS, whose


def run(seeds: Sequence[int], taste: Taste = MIXED) -> Iterator[tuple[Program, str, int, Outcome]]:
    """Draw and check a program for each seed."""
    for seed in seeds:
        program = generate(Random(seed), affordable(taste, seed), seed)
        mode, order = plan(program, seed)
        yield program, mode, order, check(program, mode, order)


def shrunk(program: Program, fails: Callable[[Program], bool], seconds: float = 60.0) -> Program:
    """A smaller program that fails too."""
    end = time.monotonic() + seconds
    return shrink(program, fails, lambda: time.monotonic() < end)


def confirmed(program: Program, mode: str) -> bool:
    """Whether a program fails in a process of its own too, where XLA optimises as usual."""
    flags = os.environ.get("XLA_FLAGS", "").replace(QUICKEST_COMPILATION, "").strip()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.py"
        path.write_text(as_file(program, mode, "", tolerance_of(program)))
        environment = {**os.environ, "XLA_FLAGS": flags}
        done = subprocess.run([sys.executable, path], env=environment, capture_output=True)
    return done.returncode != 0


def work(seeds: Sequence[int], nested: bool, folder: str) -> collections.Counter[str]:
    """Check programs, write files of those that fail, and count outcomes by kind."""
    counts: collections.Counter[str] = collections.Counter()
    for program, mode, order, outcome in run(seeds, NESTED if nested else MIXED):
        counts["programs"] += 1
        counts[f"mode {mode}"] += 1
        counts["mode of second order"] += min(order, program.order) - 1
        if outcome.skipped == TIE:
            print(f"seed {program.seed}, {mode}: {TIE}", flush=True)
        if outcome.skipped:
            counts[f"no finite differences: {outcome.skipped}"] += 1
        if outcome.reference:
            counts[f"no jax.grad: {outcome.reference.splitlines()[0][:120]}"] += 1
        if outcome.failure:
            counts += report(program, mode, order, folder)
    jax.clear_caches()
    return counts


def report(program: Program, mode: str, order: int, folder: str) -> collections.Counter[str]:
    """Count a program that fails by whose the failure is; write a file of it if it is not XLA's."""
    fails = lambda p: check(p, mode, order).failure is not None  # noqa: E731
    kind, name = "failures", "failure"
    if not confirmed(program, mode):
        blamed = whose(program, mode, order)
        kind, name = f"{UNOPTIMISED}: {blamed}", "unoptimised"
        if blamed != PROGRAMS:
            print(f"seed {program.seed}, {mode}: {kind}", flush=True)
            return collections.Counter([kind])
        fails = lambda p: fails_apart(p, mode, order)  # noqa: E731
    small = shrunk(program, fails)
    flags = f" (XLA_FLAGS={QUICKEST_COMPILATION})" if name == "unoptimised" else ""
    title = f"seed {program.seed}, {mode}{flags}: {check(small, mode, order).failure}"
    path = Path(folder) / f"{name}_{program.seed}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(as_file(small, mode, title, tolerance_of(program)))
    print(f"{name}: {path}\n{title}\n{small.text}", flush=True)
    return collections.Counter([kind])


UNOPTIMISED = "differences only when XLA does not optimise"


def fails_apart(program: Program, mode: str, order: int) -> bool:
    """Whether a program fails here, and not since XLA compiles one side otherwise."""
    failed = check(program, mode, order).failure is not None
    return failed and whose(program, mode, order) == PROGRAMS


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m funcgrad.testing.fuzz",
        description="Random programs against jax.grad and finite differences.",
    )
    parser.add_argument("--programs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the first program")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--nested", action="store_true", help="cheap operations, deep nesting")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after these")
    parser.add_argument("--failures", default="fuzz_failures", help="folder for programs that fail")
    options = parser.parse_args(arguments)
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICKEST_COMPILATION}"
    start, total = time.monotonic(), collections.Counter()
    seeds = range(options.seed, options.seed + options.programs)
    chunks = [seeds[i : i + 50] for i in range(0, len(seeds), 50)]
    try:
        for counts in results_of(chunks, options):
            total += counts
            seconds = time.monotonic() - start
            print(
                f"{total['programs']} programs, {total['failures']} failures, {seconds:.0f} s",
                flush=True,
            )
            if seconds > 60 * options.minutes:
                break
    finally:  # an interrupted run says how far it came
        print(summary(total, time.monotonic() - start), flush=True)
    return 1 if total["failures"] else 0


def results_of(chunks: Sequence[Any], options: Any) -> Iterator[collections.Counter[str]]:
    """Counts of the chunks as they are done, in one process or several."""
    if options.jobs == 1:
        yield from (work(chunk, options.nested, options.failures) for chunk in chunks)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(options.jobs, context) as pool:
        try:
            jobs = [pool.submit(work, chunk, options.nested, options.failures) for chunk in chunks]
            for job in concurrent.futures.as_completed(jobs):
                yield job.result()
        finally:
            pool.shutdown(cancel_futures=True)


def summary(total: collections.Counter[str], seconds: float) -> str:
    """The counts in words."""
    number = max(1, total["programs"])
    skipped = sum(n for name, n in total.items() if name.startswith("no finite differences"))
    lines = [
        f"{total['programs']} programs in {seconds:.0f} s, {total['failures']} failures",
        f"finite differences were not compared for {skipped} ({100 * skipped / number:.1f} %)",
    ]
    lines += [
        f"  {name}: {n}" for name, n in sorted(total.items()) if name[:3] in ("no ", "mod", "dif")
    ]
    return "\n".join(lines)
