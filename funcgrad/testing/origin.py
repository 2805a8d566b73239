"""Where a gradient that is not finite begins: the first op whose rule makes it of finite cotangents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from funcgrad import _jax
from funcgrad.backward import walk
from funcgrad.tape import Node, record
from funcgrad.testing.problem import Problem


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
        if _finite(cts) and not _finite(results):
            raise Found(self.node)
        return results


def _finite(cts: Sequence[Any]) -> bool:
    return all(bool(np.isfinite(ct).all()) for ct in cts if ct is not None)


def origin_of_infinite(problem: Problem) -> str:
    """The op and its place in the user's source, in words; nothing where it cannot be told.

    The function is run without jit, so that every op has a node of its own.
    """
    everything = range(len(problem.xs))
    try:
        with jax.disable_jit():
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
