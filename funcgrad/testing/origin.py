"""Where a gradient that is not finite begins: the first op whose rule makes it of finite cotangents."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
from jax import lax

from funcgrad import _jax
from funcgrad.backward import walk
from funcgrad.tape import Node, record
from funcgrad.testing.numerical import is_finite
from funcgrad.testing.problem import Problem, traced

MOST_OPERATIONS = 10_000
"""How many may run one by one: a few seconds of them."""


class Found(Exception):
    """Ends the walk at the node it is about."""


@dataclass(frozen=True)
class Watched:
    """A node's pullback that looks at what it gives."""

    node: Node

    @property
    def late(self) -> bool:
        return self.node.pullback.late

    def __call__(self, residuals: Sequence[Any], cts: Sequence[Any], eager: bool) -> Sequence[Any]:
        results = self.node.pullback(residuals, cts, eager)
        cts, found = ([ct for ct in given if ct is not None] for given in (cts, results))
        if is_finite(cts) and not is_finite(found):
            raise Found(self.node)
        return results


def operations_run(jaxpr: Any) -> float:
    """How many operations run, in all steps of loops; infinite where only running tells."""
    total = 0.0
    for eqn in jaxpr.eqns:
        inner = sum(map(operations_run, _jax.inner_jaxprs(eqn.params)))
        times = eqn.params["length"] if eqn.primitive is lax.scan_p else 1
        total += math.inf if eqn.primitive is lax.while_p else 1 + times * inner
    return total


def origin_of_infinite(problem: Problem) -> str:
    """The op and its place in the user's source, in words; nothing where it cannot be told.

    The function is run without jit, so that every op has a node of its own; but with it, where that may
    take long: then the op may be a whole loop.
    """
    everything = range(len(problem.xs))
    jaxpr = traced(problem.fun, *problem.xs)
    is_quick = jaxpr is not None and operations_run(jaxpr) <= MOST_OPERATIONS
    try:
        with jax.disable_jit() if is_quick else contextlib.nullcontext():
            mask = [True] * len(problem.xs)
            _, slots, tape = record(problem.fun, problem.xs, mask, problem.rules, problem.name)
            tape.nodes[:] = [replace(node, pullback=Watched(node)) for node in tape.nodes]
            walk(tape, zip(slots, problem.cts, strict=True), everything)
    except Found as found:
        node: Node = found.args[0]
        return f"; it begins at `{node.op}` ({_jax.where(node.source) or 'of unknown place'})"
    except Exception:
        return ""
    return ""
