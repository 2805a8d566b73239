"""How much work a gradient is, in counts that no busy machine changes, beside those of the last commit.

    python benchmarks/counts.py [names...] [--write]

prints for each workload, at its small size, what changed against `counts.json`, and with --write makes
the counts the new baseline. `tests/benchmarks/test_counts.py` fails where a count has grown.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import funcgrad
from benchmarks.loops import SCANS, WHILES, WhileWorkload
from benchmarks.measure import count_equations
from benchmarks.workloads import MODELS, Workload, normal
from tests.counts import calls_made

BASELINE = Path(__file__).with_name("counts.json")

MEANING = {
    "equations": "equations of value_and_grad's jaxpr, those of inner jaxprs in place of the call",
    "lines": "lines of StableHLO",
    "reductions": "`reduce` operations in it",
    "residuals": "bytes that `vjp` keeps for the way back, arguments included",
    "programs": "programs that are traced of rules, with cold caches",
    "trace": "functions called in a cold trace, in hundredths of those of jax.grad",
    "trace again": "the same once more, caches warm",
    "without jit": "functions called by a gradient without jit, warm, in hundredths of jax.grad's",
}
RATIOS = ("trace", "trace again", "without jit")
SLACK = 3
"""By how much a ratio may grow unnoticed, in hundredths: JAX's own caches are not always alike."""

Counts = dict[str, int]


# --- workloads: those of the benchmarks, and single operations


def embedding_loss(table: Array, tokens: Array) -> Array:
    return jnp.sum(jnp.sin(table[tokens]))


def embedding_args(small: bool) -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    return normal(rng, 50, 8), jnp.asarray(rng.integers(50, size=(4, 16)))


def sort_loss(x: Array) -> Array:
    return jnp.sum(jnp.sort(x) * jnp.arange(x.shape[-1]))


def segments_loss(x: Array, segments: Array) -> Array:
    return jnp.sum(jax.ops.segment_sum(x, segments, num_segments=8) ** 2)


def rows_args(small: bool) -> tuple[Any, ...]:
    return (normal(np.random.default_rng(0), 16, 32),)


def segments_args(small: bool) -> tuple[Any, ...]:
    return *rows_args(small), jnp.arange(16) // 2


SINGLE = (
    Workload("embedding", "rows of a table", embedding_loss, embedding_args),
    Workload("sort", "of each row", sort_loss, rows_args),
    Workload("segments", "sums of segments", segments_loss, segments_args),
    Workload("logsumexp", "of each row", lambda x: jax.nn.logsumexp(x, 1).sum(), rows_args),
)

# the three widths of a recurrent network are one where sizes are small
WORKLOADS: Mapping[str, Workload | WhileWorkload] = {
    w.name: w for w in (*MODELS, *SCANS, *WHILES, *SINGLE) if not w.name.endswith(("_128", "_256"))
}


def loss_of(workload: Workload | WhileWorkload) -> Callable[..., Array]:
    if isinstance(workload, WhileWorkload):
        return partial(workload.loss, jax.lax.while_loop)
    return workload.loss


# --- counts


def counts_of(name: str) -> Counts:
    """All counts of a workload; ratios are left out where `jax.grad` has no gradient."""
    workload = WORKLOADS[name]
    loss, args = loss_of(workload), workload.make_args(True)
    ours = funcgrad.value_and_grad(loss)
    traced = jax.jit(ours).trace(*args)
    text = traced.lower().as_text()
    pullback = jax.eval_shape(lambda *args: funcgrad.vjp(loss, *args)[1], *args)
    found = {
        "equations": count_equations(traced.jaxpr.jaxpr),
        "lines": len(text.splitlines()),
        "reductions": len(re.findall(r"stablehlo\.reduce\b", text)),
        "residuals": sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(pullback)),
        "programs": programs_traced(ours, args),
    }
    if isinstance(workload, Workload):
        reference = jax.value_and_grad(loss)
        for kind, calls in (("trace", cold), ("trace again", warm), ("without jit", eager)):
            found[kind] = round(100 * calls(ours, args) / calls(reference, args))
    return found


def programs_traced(gradient: Callable[..., Any], args: tuple[Any, ...]) -> int:
    """How many programs of rules a cold trace makes."""
    count = 0

    def on_event(frame: Any, event: str, arg: Any) -> None:
        nonlocal count
        code = frame.f_code
        if event == "call" and code.co_name == "stage":
            count += code.co_filename == funcgrad.rule_program.__file__

    jax.clear_caches()
    before = sys.getprofile()
    sys.setprofile(on_event)
    try:
        jax.jit(gradient).trace(*args)
    finally:
        sys.setprofile(before)
    return count


def cold(gradient: Callable[..., Any], args: tuple[Any, ...]) -> int:
    jax.clear_caches()
    gc.collect()
    return calls_made(lambda: jax.jit(gradient).trace(*args))


def warm(gradient: Callable[..., Any], args: tuple[Any, ...]) -> int:
    jax.jit(lambda *args: gradient(*args)).trace(*args)
    gc.collect()
    return calls_made(lambda: jax.jit(lambda *args: gradient(*args)).trace(*args))


def eager(gradient: Callable[..., Any], args: tuple[Any, ...]) -> int:
    for _ in range(2):
        gradient(*args)
    gc.collect()
    return calls_made(lambda: gradient(*args))


# --- the baseline


def baseline() -> dict[str, Any]:
    """The JAX version of the last counts, and the counts of each workload."""
    return json.loads(BASELINE.read_text())


def grown(found: Counts, before: Counts) -> list[str]:
    """What is more than it was, in words."""
    slack = {kind: SLACK if kind in RATIOS else 0 for kind in MEANING}
    return [
        f"{kind}: {before[kind]} -> {count} ({MEANING[kind]})"
        for kind, count in found.items()
        if kind not in before or count > before[kind] + slack[kind]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(WORKLOADS)}")
    parser.add_argument("--write", action="store_true", help="make the counts the new baseline")
    options = parser.parse_args()
    if unknown := set(options.names) - set(WORKLOADS):
        parser.error(f"no workload is called {', '.join(sorted(unknown))}")
    known = baseline() if BASELINE.exists() else {"jax": jax.__version__, "counts": {}}
    if known["jax"] != jax.__version__:
        print(f"The baseline was counted with JAX {known['jax']}; this is {jax.__version__}.")
    print(f"{'':16}" + "".join(f"{kind:>13}" for kind in MEANING))
    for name in options.names or WORKLOADS:
        found, before = counts_of(name), known["counts"].get(name, {})
        cells = [cell(found.get(kind), before.get(kind)) for kind in MEANING]
        print(f"{name:16}" + "".join(f"{text:>13}" for text in cells), flush=True)
        known["counts"][name] = found
    for kind in RATIOS:
        ratios = [counts[kind] / 100 for counts in known["counts"].values() if kind in counts]
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        print(f"{kind}: {mean:.2f} of jax.grad in the geometric mean, worst {max(ratios):.2f}")
    if options.write:
        known["jax"] = jax.__version__
        BASELINE.write_text(json.dumps(known, indent=1) + "\n")


def cell(found: int | None, before: int | None) -> str:
    if found is None:
        return "-"
    return str(found) if found == before or before is None else f"{before}->{found}"


if __name__ == "__main__":
    main()
