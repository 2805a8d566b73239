"""The cheap-gradient bound: what value and gradient of each operation cost, in forwards.

    python benchmarks/bound.py [names...] [--rounds N] [--write]

For each operation of `operations.py`, at three sizes: the cost of value and gradient by all operands,
divided by that of the value, ours and jax.grad's, as XLA counts operations and in CPU time. Theory
allows 4 (Griewank). With --write, docs/bound.md is made again.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import funcgrad
from benchmarks.measure import cpu_seconds, largest_difference, work_counted
from benchmarks.operations import OPERATIONS, Operation, weighted
from benchmarks.run import GRADIENT_BOUND, table

PAGE = Path(__file__).parents[1] / "docs" / "bound.md"
BOUND = 4.0
ROUNDS = 7
"""Of timing the three functions in turns; the median counts."""


@dataclass(frozen=True)
class Cost:
    """The costs of a forward, of our value and gradient, and of jax.grad's.

    Attributes:
      seconds: CPU time a call.
      operations: as XLA counts; zero where LAPACK, of which XLA counts nothing, does some of the work.
    """

    seconds: tuple[float, float, float]
    operations: tuple[float, float, float]

    def ratio(self, kind: str, side: int) -> float:
        """Ours (1) or jax.grad's (2), in forwards; nan where the forward counts as nothing."""
        found = getattr(self, kind)
        return found[side] / found[0] if found[0] else math.nan


def differentiated(args: tuple[Any, ...]) -> tuple[int, ...]:
    """The numbers of the arguments that have a gradient."""
    return tuple(i for i, x in enumerate(args) if jnp.issubdtype(x.dtype, jnp.inexact))


class Unequal(Exception):
    """The gradients of an operation differ: it is not timed."""


def cost_of(name: str, operation: Operation, size: str, rounds: int) -> Cost:
    """Measure one operation at one size, once its two gradients are found equal."""
    args = operation.make_args(operation.sides[size])
    loss, argnums = partial(weighted, operation.fun), differentiated(args)
    forms = loss, *(f(loss, argnums) for f in (funcgrad.value_and_grad, jax.value_and_grad))
    compiled = [jax.jit(form).lower(*args).compile() for form in forms]
    _, ours, reference = (fn(*args) for fn in compiled)
    difference = largest_difference(ours, reference)
    if not difference <= GRADIENT_BOUND:
        raise Unequal(f"{name}, {size}: the gradients differ by {difference:.1e}")
    seconds = [statistics.median(found) for found in cpu_seconds(compiled, args, rounds)]
    counted = [operations_counted(fn) for fn in compiled]
    return Cost(tuple(seconds), tuple(counted))


def operations_counted(compiled: Any) -> float:
    """XLA's count of operations; zero where it does not know all."""
    calls_lapack = 'custom_call_target="lapack' in compiled.as_text()
    return 0.0 if calls_lapack else work_counted(compiled)["operations"]


# --- the page

COMPARED = (
    "forward, one comparison an element; back, an element is compared with the result, equal ones are "
    "counted, and the cotangent is divided among them. All of it is a few passes over memory"
)
CHOSEN = (
    "forward, one comparison for each place of a window; back, one more each that says which element "
    "was chosen, and for each place a comparison with that choice and a sum"
)
BACKWARDS = (
    "back, the combinations of a parallel scan in the opposite order, each with two cotangents: no "
    "division, so that a zero has its slope, and equal elements share theirs"
)
WHY: dict[str, str] = {
    "reduce_max": COMPARED,
    "reduce_min": COMPARED,
    "reduce_prod": (
        "halves are multiplied down to one element, and back up each half gets the other's product: no "
        "division, so that an element of zero has its slope"
    ),
    **dict.fromkeys(("cumprod", "cummax", "cummin"), BACKWARDS),
    **dict.fromkeys(("reduce_window_max", "reduce_window_min"), CHOSEN),
    "digamma": "its derivative is `polygamma`, whose series is longer than that of `digamma`",
    "gather embedding": (
        "forward, a few rows of a table are read; the cotangent is as large as the table, and its zeros "
        "are written"
    ),
    "conv_general_dilated strided": (
        "two convolutions more, of as many operations as the forward each. XLA's CPU takes 1.4 forwards "
        "for that of the input's cotangent and 3.8 for that of the kernel's, whose window is dilated"
    ),
    "conv_general_dilated by channel": (
        "the kernel's cotangent is a convolution of groups of batches, of which XLA counts each channel "
        "with every other; by the clock the gradient takes two forwards"
    ),
}
"""What is said of operations above the bound."""

INTRODUCTION = """\
# The cheap-gradient bound

How much a gradient costs in units of its function: value and gradient by all operands, over the value
alone. Griewank's bound says that four suffices where the derivative of an elementary operation costs a
small number of operations of its kind. The function here is one operation and a weighted sum of its
results.

Made by `python benchmarks/bound.py --write` with JAX {version} on {backend}, float32.

- **small, medium, large**: CPU time, medians of {rounds} rounds in turns. Below 20 microseconds the
  call itself is most of the time.
- **counted**: operations as XLA counts them, an elementary function as one. XLA counts one step of a
  loop, and nothing of what LAPACK does: a dash says that the forward would count as nothing.
- **jax.grad**: the same of `jax.grad` at the largest size.
"""


def number(ratio: float) -> str:
    return "-" if math.isnan(ratio) else f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"


def line(name: str, costs: Mapping[str, Cost]) -> list[str]:
    """One row of a table: time at all sizes, and counts."""
    large = costs["large"]
    return [
        f"`{name}`",
        f"{large.seconds[0] * 1e6:.0f}",
        *(number(cost.ratio("seconds", 1)) for cost in costs.values()),
        number(large.ratio("seconds", 2)),
        *(number(large.ratio("operations", side)) for side in (1, 2)),
    ]


HEADER = (
    "operation",
    "forward (us)",
    "small",
    "medium",
    "large",
    "jax.grad",
    "counted",
    "jax.grad's",
)


def above(costs: Mapping[str, Cost]) -> bool:
    """Whether an operation costs more than the bound, by time at the larger sizes or by count."""
    found = [costs[size].ratio("seconds", 1) for size in costs if size != "small"]
    return any(ratio > BOUND for ratio in (*found, costs["large"].ratio("operations", 1)))


def page(found: Mapping[str, Mapping[str, Cost]], rounds: int) -> str:
    over = {name: costs for name, costs in found.items() if above(costs)}
    text = INTRODUCTION.format(
        version=jax.__version__, backend=jax.default_backend().upper(), rounds=rounds
    )
    explained = [
        f"- `{name}`: {WHY.get(name.split()[0], WHY.get(name, 'not explained'))}" for name in over
    ]
    return "\n".join(
        [
            text,
            f"## Above {BOUND:g}\n",
            f"{len(over)} of {len(found)} operations.\n",
            table(HEADER, (line(name, costs) for name, costs in over.items())),
            "",
            *explained,
            "",
            "## All\n",
            table(HEADER, (line(name, costs) for name, costs in found.items())),
            "",
        ]
    )


def measure_all(
    names: Iterable[str], rounds: int
) -> tuple[dict[str, dict[str, Cost]], list[Unequal]]:
    """The costs of these operations by size, and what is wrong with those that are left out."""
    found: dict[str, dict[str, Cost]] = {}
    wrong = []
    for name in names:
        operation = OPERATIONS[name]
        try:
            found[name] = {s: cost_of(name, operation, s, rounds) for s in operation.sides}
        except Unequal as error:
            wrong.append(error)
            print(error, file=sys.stderr, flush=True)
            continue
        print(" | ".join(line(name, found[name])), file=sys.stderr, flush=True)
        jax.clear_caches()
    return found, wrong


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="name", help="operations; all without any")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    options = parser.parse_args(argv)
    unknown = set(options.names) - set(OPERATIONS)
    if unknown or (options.write and options.names):
        what = (
            f"no operation called {', '.join(sorted(unknown))}" if unknown else "--write takes all"
        )
        parser.error(what)
    found, wrong = measure_all(options.names or OPERATIONS, options.rounds)
    text = page(found, options.rounds)
    print(text)
    if options.write and not wrong:
        PAGE.write_text(text)
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main())
