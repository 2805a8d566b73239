"""Errors where a cotangent arrives at a kink, a tie or a pole: the rules of ``kinks("raise")``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcgrad import _jax, errors
from funcgrad.functions import unmarked
from funcgrad.keys import FunctionId, Op
from funcgrad.registry import CallRule, Entry, Rule, Rules
from funcgrad.surgery.kink_points import POINTS
from funcgrad.tangents import TangentTrace
from funcgrad.tape import FrozenTape, Node, NodePullback, TapeTrace


def watched_rules(rules: Rules) -> Iterator[tuple[Op, Entry]]:
    """The rules of ops with kinks, whose pullbacks look out for them, and of calls of functions."""
    for op in POINTS:
        entry = rules.find(op)
        if isinstance(op, _jax.Primitive) and isinstance(entry, (Rule, CallRule)):
            yield op, watched(op, entry)
    for op in (_jax.jit_p, _jax.custom_jvp_call_p):
        entry = rules.find(op)
        if isinstance(entry, CallRule):
            yield op, watched(op, opened(entry) if op is _jax.jit_p else entry)


def opened(entry: CallRule) -> CallRule:
    """A jitted function without kinks of its own, whose operations are recorded in its place.

    They are run one by one outside jit, and come from the user's line.
    """

    def run(trace: TapeTrace, primitive: Any, tracers: Sequence[Any], params: Any) -> Any:
        closed = _jax.close(params["jaxpr"])
        name, mark = unmarked(_jax.function_of(closed))
        function, caught = FunctionId(name), trace.rules.functions
        known = function in POINTS or trace.rules.find(function) is not None
        if mark or known or any(op.description == name for op, *_ in caught):
            return entry.fn(trace, primitive, tracers, params)
        of_user = any(_jax.where(eqn.source_info) for eqn in closed.eqns)
        with _jax.set_current_trace(trace):
            return _jax.eval_closed_jaxpr(closed, tracers, own_lines=of_user)

    return replace(entry, fn=run)


def watched(op: Op, entry: Rule | CallRule) -> CallRule:
    """What an entry does; of the node that it records, the pullback looks out for kinks."""

    def watch(run: Callable[..., Any]) -> Callable[..., Any]:
        def run_watched(
            trace: TapeTrace, primitive: Any, tracers: Sequence[Any], params: Any
        ) -> Any:
            before = len(trace.tape.nodes)
            outs = run(trace, primitive, tracers, params)
            recorded = trace.tape.nodes[before:]
            theirs = isinstance(trace, TangentTrace)  # a custom derivative, by its author
            if len(recorded) == 1 and not theirs and recorded[0].op not in trace.rules.overridden:
                watch_node(recorded[0], trace.split(tracers)[0], trace.split(_listed(outs))[0])
            return outs

        return run_watched

    if isinstance(entry, Rule):
        return CallRule(watch(recorded_by(entry)), (op,))
    again = entry.in_checkpoint and watch(entry.in_checkpoint)
    return replace(entry, fn=watch(entry.fn), in_checkpoint=again)


def recorded_by(rule: Rule) -> Callable[..., Any]:
    """A function that runs a primitive and records it with this rule."""

    def run(trace: TapeTrace, primitive: Any, tracers: Sequence[Any], params: Any) -> Any:
        primals, slots = trace.split(tracers)
        outs = trace.evaluate(primitive, primals, params)
        multiple = primitive.multiple_results
        results = trace.record_rule(primitive, params, primals, slots, outs, rule, multiple)
        return results if multiple else results[0]

    return run


def _listed(outs: Any) -> Sequence[Any]:
    return outs if isinstance(outs, (list, tuple)) else [outs]


def watch_node(node: Node, primals: Sequence[Any], outs: Sequence[Any]) -> None:
    """Have a node's pullback look out for kinks, if its op has any."""
    point = POINTS.get(node.op)
    if point is None or isinstance(node.pullback, Watched):
        return
    multiple = isinstance(node.op, _jax.Primitive) and node.op.multiple_results
    out = tuple(outs) if multiple else outs[0]
    at = point.at(*primals, out=out, **node.params)
    points = at if isinstance(at, tuple) else (at,)
    node.residuals = (*node.residuals, *points)
    node.pullback = Watched(node.pullback, node.op, point.words, node.where, len(points))


@dataclass(frozen=True)
class Watched:
    """A pullback that refuses cotangents other than 0 at some points.

    Attributes:
      pullback: computes the operands' cotangents.
      op: the op.
      words: which operands are at such a point.
      where: ``file:line (function)`` of the op.
      count: how many of the residuals, the last ones, say which elements are at such a point.
    """

    pullback: NodePullback
    op: Op
    words: str
    where: str | None
    count: int
    late: bool = False

    @property
    def inner(self) -> Mapping[str, FrozenTape]:
        """The tapes inside."""
        return self.pullback.inner

    def __call__(self, residuals: Sequence[Any], cts: Sequence[Any], eager: bool) -> Sequence[Any]:
        points = residuals[-self.count :]
        arrived = [ct != 0 for ct in cts if ct is not None]
        met = [jnp.any(point & there) for point in points for there in arrived]
        known = [_jax.to_concrete_value(found) for found in met]
        if any(found is None for found in known):
            jax.debug.callback(self.check, jnp.stack(met).any())
        else:
            self.check(np.any(known))
        return self.pullback(residuals[: -self.count], cts, eager)

    def check(self, met: Any) -> None:
        """Raise an error if a cotangent arrived at such a point.

        Raises:
          errors.KinkError: one did.
        """
        if met:
            raise errors.KinkError(self.op, self.words, self.where or "<unknown line>")
