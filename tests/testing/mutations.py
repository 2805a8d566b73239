"""Every rule of the registry, corrupted in five ways: does check_rule see it?

    python -m tests.testing.mutations            # writes the section of docs/reliability.md
    python -m tests.testing.mutations dot_general sin

A rule is corrupted in one operand's cotangent at a time, and checked on its own rows in tests/rules
until a row shows it.
"""

from __future__ import annotations

import collections
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tests.conftest  # noqa: F401  before JAX starts

import jax  # isort: skip
import jax.numpy as jnp  # isort: skip
import numpy as np  # isort: skip

import funcgrad
from funcgrad._jax import is_array_leaf
from funcgrad.errors import InputError
from funcgrad.registry import Rule, op_key
from funcgrad.testing import GradientError, check_rule
from funcgrad.testing.problem import is_inexact
from tests.rules.cases import Case, random_like
from tests.rules.rows import rows

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
MODES = ("jax", "dot", "numerical")
SEES_ALONE = ("dot", "numerical")


def transposed(ct: Any) -> Any:
    return (
        jnp.swapaxes(ct, -1, -2).reshape(ct.shape) if ct.ndim > 1 else ct[::-1] if ct.ndim else ct
    )


def largest_zeroed(ct: Any) -> Any:
    if ct.size == 0:
        return ct
    place = jnp.argmax(jnp.abs(ct.reshape(-1)))
    return ct * (jnp.arange(ct.size) != place).reshape(ct.shape)


MUTATIONS: dict[str, Callable[[Any], Any]] = {
    "scaled by 1.01": lambda ct: (ct * 1.01).astype(ct.dtype),
    "sign flipped": lambda ct: -ct,
    "dropped": lambda ct: None,
    "transposed": transposed,
    "one element zeroed": largest_zeroed,
}
NO_EFFECT = "the gradient is the same, bit by bit, on every row"
SURVIVED = "NOT EXPLAINED"
NOT_JUDGED = "Not judged, since the output is not finite there"
PHASE = (
    "Differences say otherwise, rightly: eigenvectors of a complex matrix are unique up to a phase, "
    "which LAPACK fixes and the derivative, as JAX's, leaves out"
)
REFUSALS = ("ShardingTypeError", "NotImplementedError")
"""What JAX raises where a value that is to be summed over a mesh axis is not just passed on."""


def mutated(rule: Rule, operand: int, change: Callable[[Any], Any]) -> Rule:
    """The rule with one operand's cotangent changed."""

    def corrupted(ct: Any, *operands: Any, **kwargs: Any) -> Any:
        found = rule.fn(ct, *operands, **kwargs)
        cts = list(found) if isinstance(found, (tuple, list)) else [found]
        if operand < len(cts) and is_array_leaf(cts[operand]):
            cts[operand] = change(cts[operand])
        return tuple(cts)

    return replace(rule, fn=corrupted)


def table() -> dict[Any, list[Case]]:
    """The rows of every rule, the plainest first."""
    found: dict[Any, list[Case]] = {}
    for _, case in rows():
        found.setdefault(op_key(case.op), []).append(case)
    for cases in found.values():
        cases.sort(key=lambda case: (min(map(np.size, case.args)) < 2, not case.smooth))
    return found


def rules_of_one_op() -> dict[Any, Rule]:
    return {
        op: replace(entry, ops=(op,))
        for op, entry in funcgrad.DEFAULT.items()
        if isinstance(entry, Rule)
    }


def operands_of(rule: Rule, cases: list[Case]) -> list[int]:
    """The operands that get a cotangent in some row."""
    met: set[int] = set()

    def recorded(ct: Any, *operands: Any, **kwargs: Any) -> Any:
        found = rule.fn(ct, *operands, **kwargs)
        cts = found if isinstance(found, (tuple, list)) else (found,)
        met.update(i for i, ct in enumerate(cts) if is_array_leaf(ct))
        return found

    for case in cases:
        gradient(replace(rule, fn=recorded), case)
    return sorted(met)


def float_only(case: Case) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A row's function of its differentiable arguments, giving its differentiable outputs."""
    where = [i for i, x in enumerate(case.args) if is_inexact(x)]

    def fn(*xs: Any) -> tuple[Any, ...]:
        args: list[Any] = [jnp.asarray(x) for x in case.args]
        for i, x in zip(where, xs, strict=True):
            args[i] = x
        return tuple(y for y in jax.tree.leaves(case.fn(*args)) if is_inexact(y))

    return fn, tuple(jnp.asarray(case.args[i]) for i in where)


def gradient(rule: Rule, case: Case) -> list[Any]:
    with jax.enable_x64(True):
        fn, xs = float_only(case)
        rules = funcgrad.DEFAULT.override({rule.ops[0]: rule})
        out, pullback = funcgrad.vjp(fn, *xs, rules=rules)
        return list(map(np.asarray, pullback(tuple(random_like(y, 3) for y in out))))


@dataclass(frozen=True)
class Result:
    """One corrupted rule: which checks saw it, on which row; or why none did."""

    op: str
    mutation: str
    operand: int
    caught: tuple[str, ...]
    row: str
    survivor: str = ""


def failures(rule: Rule, case: Case) -> tuple[str, ...]:
    """The checks that fail on a row."""
    modes = MODES if case.smooth else ("jax", "dot")
    try:
        check_rule(rule, *case.args, through=case.fn, options={"order": 1, "modes": modes})
    except GradientError as error:
        return tuple(dict.fromkeys(row.mode for row in error.report.of_status("FAILED")))
    return ()


def try_mutation(rule: Rule, cases: list[Case], operand: int, name: str) -> Result:
    wrong = mutated(rule, operand, MUTATIONS[name])
    try:
        for case in cases:
            if caught := failures(wrong, case):
                return Result(str(rule.ops[0]), name, operand, caught, case.id)
        same = all(
            np.array_equal(a, b, equal_nan=True)
            for case in cases
            for a, b in zip(gradient(rule, case), gradient(wrong, case), strict=True)
        )
    except Exception as error:
        kind = type(error).__name__
        reason = (
            f"{kind}: JAX refuses the corrupted rule"
            if kind in REFUSALS
            else f"{SURVIVED}: {error}"
        )
        return Result(str(rule.ops[0]), name, operand, (), "", reason)
    reason = NO_EFFECT if same else SURVIVED
    return Result(str(rule.ops[0]), name, operand, (), "", reason)


def results(ops: list[str] | None = None) -> Iterator[Result]:
    """Every rule, operand and mutation."""
    rows = table()
    for op, rule in rules_of_one_op().items():
        if op not in rows or (ops and str(op) not in ops):
            continue
        for operand in operands_of(rule, rows[op]):
            for name in MUTATIONS:
                yield try_mutation(rule, rows[op], operand, name)


def false_alarms(ops: list[str] | None = None) -> tuple[int, dict[str, list[str]]]:
    """The number of rows on which rules are checked as they are, and those that fail, by reason."""
    number, found, rows = 0, collections.defaultdict(list), table()
    for op, rule in rules_of_one_op().items():
        for case in rows.get(op, []) if not ops or str(op) in ops else []:
            number += 1
            try:
                failed = ", ".join(failures(rule, case))
            except InputError as error:
                failed = NOT_JUDGED if "not finite" in str(error) else repr(error)
            except Exception as error:
                failed = repr(error)
            if failed == "numerical" and "numerical" in case.without:
                failed = PHASE
            if failed:
                print(f"{case.id}: {failed}", flush=True)
                found[failed].append(case.id)
        jax.clear_caches()
    return number, found


def section(found: list[Result], rows: int, failing: dict[str, list[str]]) -> str:
    """The part of the page about the mutation test."""
    alarms = sum(len(ids) for why, ids in failing.items() if why not in (NOT_JUDGED, PHASE))
    without = sorted(str(op) for op in rules_of_one_op() if op not in table())
    lines = [
        "## Mutation test",
        "",
        "Every backward rule of the registry is corrupted in five ways, in one operand's cotangent at a",
        "time, and given to `funcgrad.testing.check_rule` on its own rows in `tests/rules`, until a row",
        "shows it. A part of this runs in `tests/testing/test_mutations.py`; the table is written by",
        f"`python -m tests.testing.mutations`, last on JAX {jax.__version__}.",
        "",
        "- *Transposed*: the last two axes swapped, a single one reversed. *One element zeroed*: the",
        "  largest.",
        "- *Without jax.grad*: those that the dot-product identity or differences see, which is all",
        "  that there is for an op that JAX cannot differentiate.",
        "- *No effect*: the gradient is the same, bit by bit, on every row (a scalar has no",
        "  transpose; an operand that is empty or a constant in every row has no gradient), or the",
        "  corrupted rule cannot run. Shares are of those that have an effect.",
        "",
        "| corruption | corrupted rules | caught | without jax.grad | no effect | survivors |",
        "|---|---|---|---|---|---|",
    ]
    for name in (*MUTATIONS, "all"):
        some = [r for r in found if name in (r.mutation, "all")]
        caught = sum(bool(r.caught) for r in some)
        alone = sum(bool({*SEES_ALONE} & {*r.caught}) for r in some)
        silent = sum(bool(r.survivor) and SURVIVED not in r.survivor for r in some)
        left = len(some) - caught - silent
        share = f"{caught / max(1, len(some) - silent):.1%}"
        lines.append(f"| {name} | {len(some)} | {caught} ({share}) | {alone} | {silent} | {left} |")
    lines += [
        "",
        f"{len({r.op for r in found})} rules. Not in a table of rows, but tested by themselves: "
        f"{', '.join(f'`{op}`' for op in without) or 'none'}.",
        f"The same checks on the rules as they are: {alarms} false alarms on {rows} rows.",
        "",
    ]
    lines += [f"- {why}: {', '.join(f'`{i}`' for i in ids)}." for why, ids in failing.items()]
    lines += ["", "Not caught, by operand, and why:", ""]
    reasons: dict[tuple[str, str], list[str]] = {}
    for r in found:
        if not r.caught:
            reasons.setdefault((r.mutation, r.survivor), []).append(f"`{r.op}` {r.operand}")
    lines += [
        f"- *{name}*, {why}: {', '.join(map(_short, ops))}." for (name, why), ops in reasons.items()
    ]
    blind = [r for r in found if r.caught and not {*SEES_ALONE} & {*r.caught}]
    if blind:
        seen = [f"{_short(f'`{r.op}` {r.operand}')} ({r.mutation}; row `{r.row}`)" for r in blind]
        lines += ["", f"Seen by the comparison with jax.grad alone: {', '.join(seen)}."]
    return "\n".join(lines) + "\n"


def _short(name: str) -> str:
    return re.sub(r" at [^`]*", "", name)


def write(text: str) -> None:
    """Put the section into the page, which may have others."""
    page = PAGE.read_text() if PAGE.exists() else "# Reliability\n"
    parts = re.split(r"^(?=## )", page, flags=re.MULTILINE)
    kept = [part.rstrip() + "\n" for part in parts if not part.startswith("## Mutation test")]
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text("\n".join([kept[0], text, *kept[1:]]))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    chosen = sys.argv[1:]
    start, done = time.time(), []
    for result in results(chosen):
        done.append(result)
        seconds = time.time() - start
        print(f"{seconds:6.0f} s", result, flush=True)
        if len(done) % 100 == 0:
            jax.clear_caches()
    page = section(done, *false_alarms(chosen))
    print(page)
    if not chosen:
        write(page)
