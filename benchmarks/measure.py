"""How it is measured: two functions in one process, in turns, and the ratio of each pair."""

from __future__ import annotations

import gc
import math
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.extend.core import jaxprs_in_params

SAMPLE_SECONDS = 0.02
"""A sample of something faster is repeated until it takes about this long."""


@dataclass(frozen=True)
class Comparison:
    """One quantity, of ours and of the reference: medians, and quartiles of the pairs' ratios."""

    ours: float
    reference: float
    ratio: float
    low: float
    high: float

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, float]]) -> Comparison:
        ours, reference = zip(*pairs, strict=True)
        ratios = [a / b if b else math.nan for a, b in pairs]
        low, high = ratios[0], ratios[0]
        if len(ratios) > 1:
            low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
        medians = statistics.median(ours), statistics.median(reference)
        return cls(*medians, statistics.median(ratios), low, high)


@dataclass
class Built:
    """A function traced, lowered and compiled with cold caches, and how long each took."""

    traced: Any
    lowered: Any
    compiled: Any
    seconds: dict[str, float] = field(default_factory=dict)


def in_turns(
    sample: Callable[[Any], Any], ours: Any, reference: Any, pairs: int
) -> list[tuple[Any, Any]]:
    """Sample both sides `pairs` times; who goes first alternates."""
    results = []
    for i in range(pairs):
        if i % 2:
            second = sample(reference)
            results.append((sample(ours), second))
        else:
            first = sample(ours)
            results.append((first, sample(reference)))
    return results


def time_calls(
    ours: Callable[..., Any], reference: Callable[..., Any], args: tuple[Any, ...], pairs: int
) -> Comparison:
    """Seconds a call, once both are warm."""

    def seconds(fn: Callable[..., Any], number: int) -> float:
        start = time.perf_counter()
        for _ in range(number):
            jax.block_until_ready(fn(*args))
        return (time.perf_counter() - start) / number

    for fn in (ours, reference, ours, reference):
        seconds(fn, 1)
    quickest = min(seconds(ours, 1), seconds(reference, 1))
    number = max(1, math.ceil(SAMPLE_SECONDS / quickest))
    gc.collect()
    return Comparison.of(in_turns(lambda fn: seconds(fn, number), ours, reference, pairs))


def build(fn: Callable[..., Any], args: tuple[Any, ...], compile: bool = True) -> Built:
    """Trace, lower and compile `fn` with JAX's caches cleared."""
    jax.clear_caches()
    gc.collect()
    seconds = {}
    start = time.perf_counter()
    traced = jax.jit(fn).trace(*args)
    seconds["trace"] = time.perf_counter() - start
    if not compile:
        return Built(traced, None, None, seconds)
    start = time.perf_counter()
    lowered = traced.lower()
    seconds["lower"] = time.perf_counter() - start
    start = time.perf_counter()
    compiled = lowered.compile()
    seconds["compile"] = time.perf_counter() - start
    return Built(traced, lowered, compiled, seconds)


def largest_difference(ours: Any, reference: Any) -> float:
    """The largest difference of a leaf, relative to the leaf's largest element."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(reference), strict=True)
    return max(
        float(np.max(np.abs(x - y), initial=0.0) / max(np.max(np.abs(y), initial=0.0), 1e-30))
        for x, y in pairs
    )


def work_counted(compiled: Any) -> dict[str, float]:
    """What XLA counts of a compiled program: operations (elementary functions as one each), bytes moved
    and temporary memory. A loop counts as one step, and a call of LAPACK as nothing."""
    counted = compiled.cost_analysis() or {}
    return {
        "operations": counted.get("flops", 0.0) + counted.get("transcendentals", 0.0),
        "bytes": counted.get("bytes accessed", 0.0),
        "memory": float(compiled.memory_analysis().temp_size_in_bytes),
    }


def cpu_seconds(
    fns: Sequence[Callable[..., Any]], args: tuple[Any, ...], rounds: int
) -> list[list[float]]:
    """Seconds of CPU time a call, of each function in each of so many rounds, the functions in turns.

    CPU time, of all threads, since it is nearly the same beside other programs.
    """

    def seconds(fn: Callable[..., Any], number: int) -> float:
        start = time.process_time()
        for _ in range(number):
            jax.block_until_ready(fn(*args))
        return (time.process_time() - start) / number

    first = [min(seconds(fn, 1), seconds(fn, 2)) for fn in fns]
    number = max(1, math.ceil(SAMPLE_SECONDS / 4 / max(max(first), 1e-6)))
    return [
        list(found)
        for found in zip(*([seconds(fn, number) for fn in fns] for _ in range(rounds)), strict=True)
    ]


def count_equations(jaxpr: Any) -> int:
    """Equations of a jaxpr; a jitted call (or other equation with a body) counts as its body."""
    total = 0
    for eqn in jaxpr.eqns:
        inner = list(jaxprs_in_params(eqn.params))
        total += sum(count_equations(getattr(j, "jaxpr", j)) for j in inner) if inner else 1
    return total


def count_program(built: Built) -> dict[str, int]:
    """Sizes of a compiled program that carry no noise."""
    hlo = built.compiled.as_text()
    return {
        "memory": built.compiled.memory_analysis().temp_size_in_bytes,
        "equations": count_equations(built.traced.jaxpr.jaxpr),
        "HLO lines": sum(bool(line.strip()) for line in hlo.splitlines()),
        "reductions": len(re.findall(r" reduce\(", hlo)),
        "kernels": kernels_not_alike(hlo),
    }


def kernels_not_alike(hlo: str) -> int:
    """Fusions of optimised HLO that differ by more than names; library calls are none.

    XLA compiles those that are alike once. For a CPU its time is about in proportion to this count.
    """
    called = {*re.findall(r"kind=k(?!Custom)\w+, calls=%?([\w.-]+)", hlo)}
    found = set()
    for computation in hlo.split("\n\n"):
        head, *lines = computation.strip().split("\n")
        if head.split(" ")[0].lstrip("%") in called:
            text = re.sub(r",? metadata=\{[^}]*\}", "", "\n".join(lines))
            number = {name: f"%{i}" for i, name in enumerate(dict.fromkeys(NAME.findall(text)))}
            found.add(
                "".join(number.get(part, part) for part in re.split(f"({NAME.pattern})", text))
            )
    return len(found)


NAME = re.compile(r"%[\w.-]+")


def measure(
    ours: Callable[..., Any],
    reference: Callable[..., Any],
    args: tuple[Any, ...],
    pairs: int,
    trace_pairs: int,
    compile_pairs: int,
) -> dict[str, Comparison]:
    """All quantities of both functions, by name."""
    for fn in (ours, reference):
        build(fn, args, compile=False)
    traces = in_turns(lambda fn: build(fn, args, False), ours, reference, trace_pairs)
    builds = in_turns(lambda fn: build(fn, args), ours, reference, compile_pairs)
    result = {}
    for step, done in (("trace", [*traces, *builds]), ("lower", builds), ("compile", builds)):
        result[step] = Comparison.of([(a.seconds[step], b.seconds[step]) for a, b in done])
    built, built_reference = builds[-1]
    result["run"] = time_calls(built.compiled, built_reference.compiled, args, pairs)
    counts, reference_counts = count_program(built), count_program(built_reference)
    for name, count in counts.items():
        result[name] = Comparison.of([(count, reference_counts[name])])
    result["without jit"] = time_calls(ours, reference, args, pairs)
    return result
