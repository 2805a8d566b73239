"""Calls that mean what their jaxpr means, and say something to the compiler or to vmap besides.

A *wrapped* call's forward and backward programs are calls of the same primitive. A *replayed* call's
forward is the user's own, untouched, so that what recognises it still does; its backward program begins
by computing again what it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from funcgrad import _jax, errors
from funcgrad.partition.split import Call, Split, split_of
from funcgrad.registry import FunctionId
from funcgrad.tangents import TangentTrace
from funcgrad.tape import TapeTrace

Settings = Callable[[dict[str, Any], Call, bool], dict[str, Any]]
"""Params of the forward program's call (if true) or of the backward program's, from the user's."""


def as_jitted(trace: TapeTrace, primitive: Any, tracers: Any, params: dict[str, Any]) -> Any:
    """A call that says nothing besides: its programs are jitted functions."""

    def run(call: Call, args: Sequence[Any], forward: bool) -> list[Any]:
        return call.jitted(*call.consts, *args)

    return run_split(trace, primitive, tracers, params, run)


def wrapped(settings: Settings) -> Callable[..., Any]:
    """A call whose programs are calls of the same primitive, with `settings` of their own."""

    def wrapped_call(trace: TapeTrace, primitive: Any, tracers: Any, params: dict[str, Any]) -> Any:
        name = _jax.jaxpr_param(params)

        def run(call: Call, args: Sequence[Any], forward: bool) -> list[Any]:
            own = {**params, name: call.closed, **settings(params, call, forward)}
            return primitive.bind(*call.consts, *args, **own)

        return run_split(trace, primitive, tracers, params, run)

    return wrapped_call


def with_memory_spaces(params: dict[str, Any], call: Call, forward: bool) -> dict[str, Any]:
    """compute_on: what the user did not name stays in the memory where it is."""
    named = params["out_memory_spaces"] if forward else ()
    others = [aval.memory_space for aval in call.closed.out_avals[len(named) :]]
    return {"out_memory_spaces": (*named, *others)}


def with_metadata(params: dict[str, Any], call: Call, forward: bool) -> dict[str, Any]:
    """xla_metadata_call: the user may have other metadata for what is derived."""
    derived = params["ad_metadata"]
    if forward or derived == "same":
        return {}
    return {"xla_metadata": derived, "ad_metadata": "same"}


def with_excluded(params: dict[str, Any], call: Call, forward: bool) -> dict[str, Any]:
    """program_order: inputs that need not wait; of the backward program's, all wait."""
    mask = params["exclude_mask"] if forward else ()
    num_inputs = len(call.closed.in_avals)
    return {"exclude_mask": (*(False,) * (num_inputs - len(mask)), *mask)}


def run_split(
    trace: TapeTrace,
    primitive: Any,
    tracers: Any,
    params: dict[str, Any],
    run: Callable[[Call, Sequence[Any], bool], list[Any]],
) -> Any:
    """Run the forward program by `run` and write it down with the backward program."""

    def derived(closed: _jax.ClosedJaxpr, op: FunctionId, primals: Any, slots: Any) -> Any:
        with errors.located_at(_jax.current_where):
            split = split_of(closed, tuple(slot is not None for slot in slots), trace.rules)
        outs, residuals = split.find_residuals(primals, run(split.forward, primals, True))
        if not any(split.present):
            return outs
        pullback = WrappedPullback(split, run)
        return trace.record(op, params, slots, outs, split.present, pullback, residuals)

    return inlined_or_by_rule(trace, primitive, tracers, params, derived)


def inlined_or_by_rule(
    trace: TapeTrace,
    primitive: Any,
    tracers: Any,
    params: dict[str, Any],
    derived: Callable[[_jax.ClosedJaxpr, FunctionId, Any, Any], Any],
) -> Any:
    """A call by its function's rule, if it has one, or by what is `derived` of its jaxpr.

    Applied to tangents it is linear in them: its operations say all.
    """
    closed = _jax.close(params[_jax.jaxpr_param(params)])
    if isinstance(trace, TangentTrace):
        with _jax.set_current_trace(trace):
            return _jax.eval_closed_jaxpr(closed, tracers)
    primals, slots = trace.split(tracers)
    op = FunctionId(_jax.function_of(closed))
    rule = trace.rules.find(op)
    if rule is not None:
        return trace.record_function(op, rule, primitive, primals, slots, params)
    return derived(closed, op, primals, slots)


@dataclass(frozen=True, eq=False)
class WrappedPullback:
    """Runs a call's backward program as its forward program was run."""

    split: Split
    run: Callable[[Call, Sequence[Any], bool], list[Any]]
    late: bool = False

    def __call__(self, residuals: Sequence[Any], cts: Sequence[Any], eager: bool) -> list[Any]:
        return self.split.apply_backward(
            residuals, cts, lambda call, args: self.run(call, args, False)
        )
