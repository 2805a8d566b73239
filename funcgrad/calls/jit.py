"""jit: a jitted function has a forward and a backward program, both jitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from funcgrad import _jax, errors
from funcgrad.partition.split import Call, Split, split_of
from funcgrad.registry import FunctionId
from funcgrad.tangents import TangentTrace
from funcgrad.tape import TapeTrace


def jit_call(trace: TapeTrace, primitive: Any, tracers: Any, params: dict[str, Any]) -> Any:
    """Run a jitted function's forward program and write it down with its backward program."""
    closed = params["jaxpr"]
    primals, slots = trace.split(tracers)
    op = FunctionId(_jax.function_of(closed))
    rule = trace.rules.find(op)
    if rule is not None:
        return trace.record_function(op, rule, primitive, primals, slots, params)
    staged = not _jax.is_eager(trace.parent_trace)
    if isinstance(trace, TangentTrace) or (_jax.is_inlined(params) and staged):
        with _jax.set_current_trace(trace):
            return _jax.eval_closed_jaxpr(closed, tracers, own_lines=False)
    wanted = tuple(slot is not None for slot in slots)
    with errors.located_at(_jax.current_where):
        split = split_of(closed, wanted, trace.rules)
    outs, residuals = split.run_forward(primals, params)
    if not any(split.present):
        return outs
    pullback = JitPullback(split, params)
    return trace.record(op, {}, slots, outs, split.present, pullback, residuals)


@dataclass(frozen=True, eq=False)
class JitPullback:
    """Calls the backward program of a jitted function, jitted."""

    split: Split
    params: dict[str, Any]
    late: bool = False

    def __call__(self, residuals: Sequence[Any], cts: Sequence[Any], eager: bool) -> Sequence[Any]:
        def run(call: Call, args: Sequence[Any]) -> list[Any]:
            return call(args, self.params, shared=False)

        return self.split.apply_backward(residuals, cts, run)
