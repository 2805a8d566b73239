"""custom_jvp and custom_vjp functions: the user's own derivative, in reverse.

A ``custom_vjp`` brings its backward function. A ``custom_jvp`` brings a function that is linear in
the tangents: it is run on tangents without values, which are written on a tape of their own, and that
tape is walked backward. (Differentiating the function's body instead would be wrong at kinks.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from funcgrad import _jax, errors
from funcgrad.backward import walk
from funcgrad.registry import FunctionId
from funcgrad.tangents import TangentTrace
from funcgrad.tape import FrozenTape, TapeTrace, freeze


def custom_jvp_call(trace: TapeTrace, primitive: Any, tracers: Any, params: dict[str, Any]) -> Any:
    """Run a custom_jvp function and write it down with the transpose of its rule."""
    fun, jvp = params["subfuns"]
    if isinstance(trace, TangentTrace):
        return inline(trace, fun, tracers)
    primals, slots = trace.split(tracers)
    op = FunctionId(_jax.description_of_wrapped(fun))
    rule = trace.rules.find(op)
    if rule is not None:
        return trace.record_function(op, rule, primitive, primals, slots, params)
    symbolic = params["symbolic_zeros"]
    inner = TangentTrace(trace.parent_trace, trace.rules, str(op))
    tangents = [
        _jax.instantiate(None, _jax.tangent_aval(x), symbolic)
        if slot is None
        else inner.new_tangent(_jax.tangent_aval(x))
        for x, slot in zip(primals, slots, strict=True)
    ]
    try:
        with _jax.set_current_trace(inner):
            outs = jvp.call_wrapped(*primals, *tangents)
        primal_outs, tangent_outs = outs[: len(outs) // 2], outs[len(outs) // 2 :]
        out_slots = tuple(inner.split(tangent_outs)[1])
    finally:
        inner.invalidate()
    frozen, leaves = freeze(inner.tape)
    pullback = TapePullback(frozen, out_slots, sum(slot is not None for slot in slots))
    present = [slot is not None for slot in out_slots]
    return trace.record(op, {}, slots, primal_outs, present, pullback, leaves)


def custom_vjp_call(trace: TapeTrace, primitive: Any, tracers: Any, params: dict[str, Any]) -> Any:
    """Run a custom_vjp function's forward and write it down with its backward."""
    fun, fwd, bwd = params["subfuns"]
    if isinstance(trace, TangentTrace):
        return inline(trace, fun, tracers)
    primals, slots = trace.split(tracers)
    op = FunctionId(_jax.description_of_wrapped(fun))
    rule = trace.rules.find(op)
    if rule is not None:
        return trace.record_function(op, rule, primitive, primals, slots, params)
    pairs = zip(primals, slots, strict=True)
    results = fwd.call_wrapped(*(item for x, slot in pairs for item in (x, slot is not None)))
    _, residual_tree, forwarded = params["out_trees"]()
    num_new = residual_tree.num_leaves - sum(index is not None for index in forwarded)
    new, outs = iter(results[:num_new]), results[num_new:]
    residuals = [next(new) if index is None else primals[index] for index in forwarded]
    wanted = tuple(i for i, slot in enumerate(slots) if slot is not None)
    ct_avals = tuple(_jax.tangent_aval(y) for y in outs)
    pullback = CustomVjpPullback(bwd, ct_avals, wanted, params["symbolic_zeros"])
    present = [_jax.is_inexact(_jax.typeof(y)) for y in outs]
    return trace.record(op, {}, slots, outs, present, pullback, residuals)


def custom_linear_call(
    trace: TapeTrace, primitive: Any, tracers: Any, params: dict[str, Any]
) -> Any:
    """What ``jax.jvp`` makes of a custom_vjp function: known only backward, by the user's backward."""
    primals, slots = trace.split(tracers)
    num_residuals = params["num_res"]
    outs = trace.evaluate(primitive, primals, params)
    places = [i for i, zero in enumerate(params["in_zeros"]) if not zero]
    pairs = zip(places, slots[num_residuals:], strict=True)
    wanted = tuple(i for i, slot in pairs if slot is not None)
    ct_avals = tuple(_jax.tangent_aval(aval) for aval in params["out_avals"])
    residuals = primals[:num_residuals]
    trace.check_residuals(primitive, residuals)
    if any(slot is not None for slot in slots[:num_residuals]):
        raise errors.NonLinearJvpError(trace.description, primitive, _jax.here())
    pullback = CustomVjpPullback(params["bwd"], ct_avals, wanted, params["symbolic_zeros"])
    present = [_jax.is_inexact(aval) for aval in ct_avals]
    return trace.record(primitive, {}, slots, outs, present, pullback, residuals)


def inline(trace: TangentTrace, fun: Any, tracers: Any) -> Any:
    """A function applied to tangents is linear in them: its own program says all."""
    with _jax.set_current_trace(trace):
        return fun.call_wrapped(*tracers)


@dataclass(frozen=True, eq=False)
class TapePullback:
    """Walks a tape of its own: that of a custom_jvp rule's tangents, whose inputs come first."""

    tape: FrozenTape
    outputs: tuple[int | None, ...]
    num_inputs: int
    late: bool = False

    def __call__(self, residuals: Sequence[Any], cts: Sequence[Any], eager: bool) -> Sequence[Any]:
        seeds = zip(self.outputs, cts, strict=True)
        return walk(self.tape.thaw(residuals), seeds, range(self.num_inputs), consume=True)


@dataclass(frozen=True, eq=False)
class CustomVjpPullback:
    """Calls the backward function of a jax.custom_vjp."""

    bwd: Any
    ct_avals: tuple[Any, ...]
    wanted: tuple[int, ...]
    symbolic_zeros: bool
    late: bool = False

    def __call__(self, residuals: Sequence[Any], cts: Sequence[Any], eager: bool) -> Sequence[Any]:
        results = _jax.call_custom_vjp_backward(
            self.bwd, residuals, cts, self.ct_avals, self.symbolic_zeros
        )
        return [results[i] for i in self.wanted]
