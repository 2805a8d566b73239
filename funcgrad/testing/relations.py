"""What must hold of a pullback whatever the function: the checks that need no differences."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcgrad import errors, transforms
from funcgrad.testing.differences import element_message
from funcgrad.testing.problem import Problem, compiled, random_like, traced
from funcgrad.testing.report import PASSED, Check, failed, first_line, not_run, passed

MOST_SUBSETS = 16
RANDOM = (
    "two calls with the same arguments give different outputs, so there is no gradient. Pass what is "
    "random as an argument."
)


def compared(
    problem: Problem,
    name: str,
    found: Sequence[Any],
    expected: Sequence[Any],
    source: str,
    labels: Sequence[str] = (),
    noisy: bool = True,
) -> list[Check]:
    """One row: what was `found` against what is `expected` by `source`; cotangents, if not labelled."""
    labels = labels or [f"the cotangent of {label}" for label in problem.labels]
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        if jnp.shape(a) != jnp.shape(b) or jnp.result_type(a) != jnp.result_type(b):
            detail = f"{labels[i]} is {_type(a)}, and {_type(b)} by {source}"
            return [failed(name, detail, None, problem.cts)]
    worst = problem.difference(found, expected, noisy)
    if worst.share <= 1:
        return [passed(name, worst.share, problem.precision)]
    detail = element_message(labels[worst.leaf], worst.index, worst.found, worst.expected, source)
    detail += f" (allowed: {worst.allowed:.1e})"
    return [failed(name, detail, worst.share, problem.cts)]


def _type(x: Any) -> str:
    return f"{jnp.result_type(x)}[{','.join(map(str, jnp.shape(x)))}]"


def guarded(problem: Problem, name: str, ours: Callable[[], list[Check]]) -> list[Check]:
    """A check in which funcgrad itself may fail, where it did not before."""
    try:
        return ours()
    except errors.FuncgradError as error:
        return [failed(name, f"funcgrad raises {first_line(error)}", None, problem.cts, error)]


def check_value(problem: Problem, name: str) -> list[Check]:
    """The output under differentiation is the function's."""
    expected = problem.fun(*problem.xs)
    outputs = [f"output {i}" for i in range(len(expected))]
    again = compared(problem, name, problem.fun(*problem.xs), expected, "", outputs, noisy=False)
    if again[0].status != "passed":
        return [failed(name, RANDOM, again[0].error)]
    found, _ = transforms.vjp(problem.fun, *problem.xs, rules=problem.rules)
    outputs = [f"under differentiation {output}" for output in outputs]
    return compared(problem, name, found, expected, "a plain call", outputs, noisy=False)


def check_jax(problem: Problem, name: str, ours: Sequence[Any]) -> list[Check]:
    """The same cotangents by jax.vjp: compiled, or else as it is.

    Compiling is quicker; but the compiler may change what JAX answers at a kink or an infinity.
    """
    rows: list[Check] = []
    for pull in (compiled(problem.jax_pull, problem.xs, problem.cts), problem.jax_pull):
        try:
            expected = pull(problem.xs, problem.cts)
        except Exception as error:
            return [not_run(name, f"JAX does not differentiate it: {first_line(error)}")]
        rows = compared(problem, name, ours, expected, "jax.vjp")
        if rows[0].status == PASSED:
            break
    return rows


def check_linear(problem: Problem, name: str) -> list[Check]:
    """vjp(a ct + b ct') = a vjp(ct) + b vjp(ct')."""
    if not all(bool(jnp.isfinite(ct).all()) for ct in problem.gradient):
        return [not_run(name, "the gradient is not finite")]
    other = tuple(random_like(ct, (problem.seed, 2, i)) for i, ct in enumerate(problem.cts))

    def mix(first: Sequence[Any], second: Sequence[Any]) -> tuple[Any, ...]:
        pairs = zip(first, second, strict=True)
        return tuple((2.5 * a - 0.75 * b).astype(a.dtype) for a, b in pairs)

    found = problem.pull(problem.xs, mix(problem.cts, other))
    expected = mix(problem.gradient, problem.pull(problem.xs, other))
    rows = compared(problem, name, found, expected, "linearity in the cotangent")
    hint = ". If the rule clips or rounds on purpose, leave `linear` and `outputs` out of modes"
    return [
        failed(r.name, r.detail + hint, r.error, mix(problem.cts, other))
        if r.status == "FAILED"
        else r
        for r in rows
    ]


def check_jit(problem: Problem, name: str) -> list[Check]:
    """The same under jax.jit."""
    try:
        jax.jit(problem.fun).trace(*problem.xs)
    except Exception as error:
        return [not_run(name, f"JAX does not jit it: {first_line(error)}")]

    def run() -> list[Check]:
        found = jax.jit(problem.pull)(problem.xs, problem.cts)
        return compared(problem, name, found, problem.gradient, "the same without jit")

    return guarded(problem, name, run)


def check_vmap(problem: Problem, name: str) -> list[Check]:
    """The same under jax.vmap, for two examples."""

    def nearby(x: Any, salt: int) -> Any:
        return (x * (1 + 0.01 * random_like(x, (problem.seed, 4, salt)))).astype(x.dtype)

    second = tuple(nearby(x, i) for i, x in enumerate(problem.xs))
    second_cts = tuple(random_like(ct, (problem.seed, 5, i)) for i, ct in enumerate(problem.cts))

    def stack(a: Sequence[Any], b: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(jnp.stack(pair) for pair in zip(a, b, strict=True))

    batch, cts = stack(problem.xs, second), stack(problem.cts, second_cts)
    if traced(jax.vmap(problem.fun), *batch) is None:
        try:
            jax.vmap(problem.fun)(*batch)
        except Exception as error:
            return [not_run(name, f"JAX does not vmap it: {first_line(error)}")]

    def run() -> list[Check]:
        found = compiled(jax.vmap(problem.pull), batch, cts)(batch, cts)
        expected = stack(problem.gradient, problem.pull(second, second_cts))
        return compared(problem, name, found, expected, "the same one by one")

    return guarded(problem, name, run)


def check_operands(problem: Problem, name: str) -> list[Check]:
    """The same when only some operands are differentiated."""
    count = len(problem.xs)
    if count == 1:
        return [not_run(name, "one operand")]
    subsets = _subsets(count)

    def on(subset: tuple[int, ...]) -> Any:
        def restricted(*some: Any) -> Any:
            xs = list(problem.xs)
            for i, x in zip(subset, some, strict=True):
                xs[i] = x
            return problem.fun(*xs)

        some = [problem.xs[i] for i in subset]
        return transforms.vjp(restricted, *some, rules=problem.rules)[1](problem.cts)

    def run() -> list[Check]:
        rows: list[Check] = []
        for subset in subsets:
            found, expected = list(problem.gradient), list(problem.gradient)
            for i, ct in zip(subset, on(subset), strict=True):
                found[i] = ct
            rows += compared(problem, name, found, expected, "differentiating all operands")
            if rows[-1].status == "FAILED":
                alone = ", ".join(problem.labels[i] for i in subset)
                row = rows[-1]
                detail = f"differentiating only {alone}: {row.detail}"
                return [failed(name, detail, row.error, problem.cts)]
        total = 2**count - 2
        errors_found = [row.error or 0.0 for row in rows]
        return [passed(name, max(errors_found), f"{len(subsets)} of {total} subsets")]

    return guarded(problem, name, run)


def _subsets(count: int) -> list[tuple[int, ...]]:
    """Every proper subset of a few operands; of many, single ones and all but one."""
    everything = range(count)
    if count <= 4:
        sizes = range(1, count)
        return [s for size in sizes for s in itertools.combinations(everything, size)]
    each = np.linspace(0, count - 1, min(count, MOST_SUBSETS // 2)).astype(int).tolist()
    return [(i,) for i in each] + [tuple(j for j in everything if j != i) for i in each]


def check_outputs(problem: Problem, name: str) -> list[Check]:
    """The cotangents of single outputs, where the others' never arrive, add up."""
    count = len(problem.cts)
    if count == 1:
        return [not_run(name, "one output")]

    def on(i: int) -> Any:
        def one(*xs: Any) -> Any:
            return problem.fun(*xs)[i]

        return transforms.vjp(one, *problem.xs, rules=problem.rules)[1](problem.cts[i])

    def run() -> list[Check]:
        parts = [on(i) for i in range(count)]
        found = [sum(ct[1:], ct[0]) for ct in zip(*parts, strict=True)]
        return compared(problem, name, found, problem.gradient, "all outputs together")

    return guarded(problem, name, run)


def check_over(problem: Problem, name: str, expected: Sequence[Any], found: Any) -> list[Check]:
    """JAX's derivative of our gradient, or why there is none, is our derivative of it."""
    if isinstance(found, Exception):
        return [not_run(name, f"JAX does not differentiate our gradient: {first_line(found)}")]
    return compared(problem, name, found, expected, "funcgrad over funcgrad")
