"""Calls that run as they are: a backward program computes again what it reads.

The forward is the user's own, untouched, so that what recognises it still does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from funcgrad import _jax, errors
from funcgrad.calls.checkpoint import RematProgram, program_of_remat
from funcgrad.calls.wrapped import inlined_or_by_rule
from funcgrad.registry import FunctionId
from funcgrad.tape import TapeTrace


def replayed(trace: TapeTrace, primitive: Any, tracers: Any, params: dict[str, Any]) -> Any:
    """A call that is run as it is: what is derived of it computes again what it reads."""
    return run_replayed(trace, primitive, tracers, params, lambda program, _: program)


def run_replayed(
    trace: TapeTrace,
    primitive: Any,
    tracers: Any,
    params: dict[str, Any],
    pullback_of: Callable[[RematProgram, tuple[int, ...]], Any],
    keep_all: bool = False,
) -> Any:
    """Run a call as it is, and write it down with a pullback that reads operands only."""

    def derived(closed: _jax.ClosedJaxpr, op: FunctionId, primals: Any, slots: Any) -> Any:
        wanted = tuple(i for i, slot in enumerate(slots) if slot is not None)
        mask = tuple(slot is not None for slot in slots)
        with errors.located_at(_jax.current_where):
            program = program_of_remat(closed.jaxpr, mask, trace.rules, None, False)
        outs = trace.evaluate(primitive, primals, params)
        if not any(program.split.present):
            return outs
        pullback = pullback_of(program, wanted)
        residuals = primals if keep_all else inputs_kept(program, primals)
        return trace.record(op, params, slots, outs, program.split.present, pullback, residuals)

    return inlined_or_by_rule(trace, primitive, tracers, params, derived)


def inputs_kept(program: RematProgram, primals: Sequence[Any]) -> list[Any]:
    """The operands that a program reads which computes the rest again."""
    inputs = dict(zip(program.inputs, primals, strict=True))
    return [inputs[v] for v in program.plan.kept]
