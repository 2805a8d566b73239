"""Calls that mean what their jaxpr means, and say something to the compiler or to vmap besides.

A *wrapped* call's forward and backward programs are calls of the same primitive. A *replayed* call's
forward is the user's own, untouched, so that what recognises it still does; its backward program begins
by computing again what it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import linear_call as jax_linear_call

from funcgrad import _jax, errors
from funcgrad.backward import walk
from funcgrad.calls.checkpoint import RematProgram, program_of_remat
from funcgrad.calls.custom import TangentTrace
from funcgrad.partition.split import Call, Split, StagedPullback, split_of
from funcgrad.registry import FunctionId, Rules
from funcgrad.tape import TapeTrace, record

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


# --- replayed calls


def replayed(trace: TapeTrace, primitive: Any, tracers: Any, params: dict[str, Any]) -> Any:
    """A call that is run as it is: what is derived of it computes again what it reads."""
    return run_replayed(trace, primitive, tracers, params, lambda program, _: program)


def batched_by_rule(trace: TapeTrace, primitive: Any, tracers: Any, params: dict[str, Any]) -> Any:
    """A custom_vmap function: batched, its gradient is the gradient of the user's batching rule."""

    def pullback(program: RematProgram, wanted: tuple[int, ...]) -> BatchedByRule:
        return BatchedByRule(program, wanted, params["rule"], params["in_tree"], trace.rules)

    return run_replayed(trace, primitive, tracers, params, pullback)


def run_replayed(
    trace: TapeTrace,
    primitive: Any,
    tracers: Any,
    params: dict[str, Any],
    pullback_of: Callable[[RematProgram, tuple[int, ...]], RematProgram | BatchedByRule],
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
        by_rule = isinstance(pullback, BatchedByRule)
        residuals = primals if by_rule else inputs_kept(program, primals)
        return trace.record(op, params, slots, outs, program.split.present, pullback, residuals)

    return inlined_or_by_rule(trace, primitive, tracers, params, derived)


def inputs_kept(program: RematProgram, primals: Sequence[Any]) -> list[Any]:
    """The operands that a program reads which computes the rest again."""
    inputs = dict(zip(program.inputs, primals, strict=True))
    return [inputs[v] for v in program.plan.kept]


@dataclass(frozen=True, eq=False)
class BatchedByRule(StagedPullback):
    """The pullback of a custom_vmap function, itself a custom_vmap function.

    Attributes:
      program: the pullback of one element.
      wanted: positions of the differentiated operands.
      rule: the user's batching rule.
      in_tree: what the operands are leaves of: closed-over values, and the arguments.
    """

    program: RematProgram
    wanted: tuple[int, ...]
    rule: Any
    in_tree: Any
    rules: Rules
    programs: dict[Any, Any] = field(default_factory=dict)

    def trace_backward(self, residuals: list[Any], cts: list[Any]) -> list[Any]:
        """The operands' cotangents, by a function that knows how to be batched."""
        backward = jax.custom_batching.custom_vmap(self.backward)
        backward.def_vmap(self.batched_backward)
        return backward(residuals, cts)

    def backward(self, primals: list[Any], cts: list[Any]) -> list[Any]:
        """Cotangents of one element."""
        kept = inputs_kept(self.program, primals)
        results = self.program.trace_backward(kept, cts)
        return self.instantiated(results, primals)

    def instantiated(self, results: Sequence[Any], primals: Sequence[Any]) -> list[Any]:
        pairs = zip(results, self.wanted, strict=True)
        return [jnp.zeros_like(primals[i]) if ct is None else ct for ct, i in pairs]

    def batched_backward(
        self, axis_size: int, in_batched: Any, primals: list[Any], cts: list[Any]
    ) -> tuple[list[Any], list[bool]]:
        """Cotangents of a batch: a walk over the tape of the user's batching rule."""
        batched, cts_batched = in_batched
        if min(self.wanted) < self.in_tree.children()[0].num_leaves:  # a value closed over
            axes = jax.tree.map(lambda there: 0 if there else None, [batched, cts_batched])
            results = jax.vmap(self.backward, axes, axis_size=axis_size)(primals, cts)
            return results, [True] * len(results)

        def stacked(x: Any) -> Any:
            return jnp.broadcast_to(x, (axis_size, *jnp.shape(x)))

        mask = [i in self.wanted for i in range(len(primals))]
        flags = [there or wanted for there, wanted in zip(batched, mask, strict=True)]
        primals = [
            stacked(x) if wanted and not there else x
            for x, there, wanted in zip(primals, batched, mask, strict=True)
        ]
        outs_batched: list[bool] = []

        def run(*operands: Any) -> list[Any]:
            args, which = self.in_tree.unflatten(operands), self.in_tree.unflatten(flags)
            outs, there = self.rule(axis_size, list(which), *args)
            outs_batched[:] = jax.tree.leaves(there)
            return jax.tree.leaves(outs)

        _, slots, tape = record(run, primals, mask, self.rules, "a batching rule")
        seeds = []
        for slot, ct, there, expected in zip(slots, cts, cts_batched, outs_batched, strict=True):
            if ct is not None and expected and not there:
                ct = stacked(ct)
            elif ct is not None and there and not expected:
                ct = jnp.sum(ct, 0)
            seeds.append((slot, ct))
        results = walk(tape, seeds, range(len(self.wanted)), consume=True)
        return self.instantiated(results, primals), [True] * len(results)


# --- linear_call


def linear_call(trace: TapeTrace, primitive: Any, tracers: Any, params: dict[str, Any]) -> Any:
    """Run a linear function and write it down with the transpose that its user gave."""
    primals, slots = trace.split(tracers)
    outs = trace.evaluate(primitive, primals, params)
    num_consts = params["num_callee_consts"]
    first = num_consts + params["num_res"]
    transpose, consts = params["transpose_thunk"]()
    wanted = tuple(i for i, slot in enumerate(slots) if slot is not None)
    by_residuals = any(i < first for i in wanted)
    known = primals if by_residuals else primals[:first]
    residuals = [*known, *trace.split(consts)[0]]
    trace.check_residuals(primitive, residuals)
    out_avals = tuple(_jax.tangent_aval(trace.type_of(y)) for y in outs)
    pullback = LinearPullback(
        params["callee"], transpose, num_consts, first, len(known), wanted, out_avals, trace.rules
    )
    present = [_jax.is_inexact(aval) for aval in out_avals]
    return trace.record(primitive, params, slots, outs, present, pullback, residuals)


@dataclass(frozen=True, eq=False)
class LinearPullback:
    """Calls the transpose of y = f(r, x), linear in x; the cotangent of r is that of f's own tape.

    Attributes:
      callee: f, with what it closes over, then r, then x.
      transpose: with what it closes over, then r, then the cotangents of y.
      num_consts: how many values f closes over.
      first: position of the first linear operand.
      num_known: how many operands are residuals; what the transpose closes over follows them.
    """

    callee: Any
    transpose: Any
    num_consts: int
    first: int
    num_known: int
    wanted: tuple[int, ...]
    out_avals: tuple[Any, ...]
    rules: Rules
    late: bool = False

    def __call__(self, residuals: Sequence[Any], cts: Sequence[Any], eager: bool) -> list[Any]:
        known, t_consts = residuals[: self.num_known], residuals[self.num_known :]
        given = [
            _jax.zeros(aval) if ct is None else ct
            for ct, aval in zip(cts, self.out_avals, strict=True)
        ]
        found: dict[int, Any] = {}
        if self.wanted and self.wanted[-1] >= self.first:
            transposed = self.transposed(known[: self.first], t_consts, given)
            found |= dict(enumerate(transposed, start=self.first))
        if self.num_known > self.first:
            found |= self.residual_cotangents(known, given)
        return [found.get(i) for i in self.wanted]

    def transposed(self, known: Sequence[Any], t_consts: Sequence[Any], cts: Any) -> list[Any]:
        """The linear operands' cotangents, by a linear call whose transpose is f again."""

        def run(known: Any, cts: Any) -> Any:
            _, res, t_consts = known
            return tuple(_jax.eval_closed_jaxpr(self.transpose, [*t_consts, *res, *cts]))

        def back(known: Any, xs: Any) -> Any:
            consts, res, _ = known
            return tuple(_jax.eval_closed_jaxpr(self.callee, [*consts, *res, *xs]))

        residuals = known[: self.num_consts], known[self.num_consts :], t_consts
        return list(jax_linear_call(run, back, residuals, tuple(cts)))

    def residual_cotangents(self, known: Sequence[Any], cts: Sequence[Any]) -> dict[int, Any]:
        """Cotangents of the operands in which f need not be linear."""
        wanted = [i for i in self.wanted if i < self.first]
        mask = [i in wanted for i in range(len(known))]

        def run(*operands: Any) -> list[Any]:
            return _jax.eval_closed_jaxpr(self.callee, operands)

        _, slots, tape = record(run, known, mask, self.rules, "a linear call")
        results = walk(tape, zip(slots, cts, strict=True), range(len(wanted)), consume=True)
        return dict(zip(wanted, results, strict=True))
