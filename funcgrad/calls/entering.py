"""The way into a call: the rule of the function that it calls, its operations, or a program.

A *call* is a primitive that carries a function. Where the rules in use have a rule for the function,
the call is one node. Where the function's operations say all (it is applied to tangents, in which it is
linear, or JAX would inline it), they are recorded one by one. Otherwise the call's author says how it is
differentiated as a whole, by a :class:`CallProgram`, and meets no tracer, slot or node.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from funcgrad import _jax, errors
from funcgrad.functions import mark_of, signature_of, unmarked
from funcgrad.keys import FunctionId
from funcgrad.registry import CallRule, Rule, Rules, ZeroRule, defrecord
from funcgrad.tangents import TangentTrace
from funcgrad.tape import FrozenTape, TapeTrace

Params = dict[str, Any]


class CallProgram(Protocol):
    """How a call is differentiated: its forward program, and its pullback.

    Attributes:
      present: which outputs carry a gradient; None until the forward program has run, if only that
        tells.
      inner: the tapes inside the call, by name (``"body"``, ``"branch 0"``), for tools.
      late: whether the pullback takes cotangents that are still broadcast.
    """

    @property
    def present(self) -> Sequence[bool] | None: ...

    @property
    def inner(self) -> Mapping[str, FrozenTape]: ...

    @property
    def late(self) -> bool: ...

    def forward(self, primals: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        """The outputs, and the residuals that the pullback reads."""
        ...

    def __call__(self, residuals: Sequence[Any], cts: Sequence[Any], eager: bool) -> Sequence[Any]:
        """The cotangents of the differentiated operands; None for one that did not arrive."""
        ...


ProgramOf = Callable[[Any, Params, tuple[bool, ...], Rules], CallProgram]
"""From a call's primitive, its params, which operands are differentiated, and the rules."""


@dataclass(frozen=True)
class CalledFunction:
    """The function that a call calls.

    Attributes:
      name: how a trace names the function, ``name at file:line``.
      run: runs its operations in the current trace.
      leads_to: whether running it calls a function whose calls are caught.
    """

    name: str
    run: Callable[..., Any]
    leads_to: Callable[[FunctionId], bool]


def of_jaxpr(own_lines: bool = True) -> Callable[[Params], CalledFunction]:
    """The function that a call carries as a jaxpr."""

    def function(params: Params) -> CalledFunction:
        closed = _jax.close(params[_jax.jaxpr_param(params)])
        return CalledFunction(
            _jax.function_of(closed),
            lambda *args: _jax.eval_closed_jaxpr(closed, args, own_lines),
            leads_to_in(closed.jaxpr),
        )

    return function


def of_wrapped(params: Params) -> CalledFunction:
    """The function that a custom derivative carries, as its first."""
    fun = params["subfuns"][0]

    def leads_to(op: FunctionId) -> bool:
        closed = _jax.jaxpr_behind(fun)
        if closed is not None:
            return op.description in _marked_calls(closed.jaxpr)
        return _jax.function_behind(fun) is op.function

    return CalledFunction(_jax.description_of_wrapped(fun), fun.call_wrapped, leads_to)


def leads_to_in(jaxpr: Any) -> Callable[[FunctionId], bool]:
    """Whether running a jaxpr calls a function whose calls are caught, as a question."""
    return lambda op: op.description in _marked_calls(jaxpr)


def _marked_calls(jaxpr: Any) -> set[str]:
    """The functions whose calls were caught while a jaxpr was traced."""
    names = [unmarked(name) for name in _jax.called_functions(jaxpr)]
    return {name for name, mark in names if mark}


def defcall(
    *ops: Any,
    function: Callable[[Params], CalledFunction] | None = None,
    inlined: Callable[[Params, bool], bool] | None = None,
    apart: bool = True,
    opened_on_tangents: bool = True,
) -> Callable[[ProgramOf], CallRule]:
    """Make the decorated function say how the call primitives `ops` are differentiated.

    Args:
      ops: primitives; one that this JAX version lacks is given as ``None`` and ignored.
      function: from a call's params, the function that it calls, so that its rule is looked up; None
        if the call calls no function of the user's, as a loop.
      opened_on_tangents: on tangents, in which a function is linear, its operations are recorded in the
        place of the call. False for a function that has a backward function of its own.
      inlined: from a call's params, and whether operations are being staged, whether the function's
        operations are recorded in the place of the call.
      apart: the function's operations are traced by themselves, so that they know only the name
        scopes inside the function, and the rules are narrowed to the scope of the call.
    """

    def register(program_of: ProgramOf) -> CallRule:
        how = How(program_of, function, inlined, apart, opened_on_tangents)

        def call(trace: TapeTrace, primitive: Any, tracers: Sequence[Any], params: Params) -> Any:
            with errors.located_at(_jax.current_where):
                return enter(trace, primitive, tracers, params, how)

        functools.update_wrapper(call, program_of)
        return defrecord(*ops)(call)

    return register


@dataclass(frozen=True)
class How:
    """How a call is differentiated; see :func:`defcall`."""

    program_of: ProgramOf
    function: Callable[[Params], CalledFunction | None] | None = None
    inlined: Callable[[Params, bool], bool] | None = None
    apart: bool = True
    opened_on_tangents: bool = True


def enter(
    trace: TapeTrace, primitive: Any, tracers: Sequence[Any], params: Params, how: How
) -> Any:
    """Run a call and write it down."""
    primals, slots = trace.split(tracers)
    if trace.contents:  # a reference given to a function with a derivative of its own
        slots = [
            trace.content_slot(x) if s is None else s for x, s in zip(primals, slots, strict=True)
        ]
    op = primitive
    called = None if how.function is None else how.function(params)
    if called is not None:
        staged = not _jax.is_eager(trace.parent_trace)
        op, found = rule_of(called, trace.rules, len(primals))
        inlined = how.inlined is not None and how.inlined(params, staged)
        on_tangents = isinstance(trace, TangentTrace)
        opened = on_tangents and (how.opened_on_tangents or found is not None)
        if opened or found is INLINED or inlined:
            with _jax.set_current_trace(trace):
                return called.run(*tracers)
        if isinstance(found, (Rule, ZeroRule)):
            return trace.record_function(op, found, primitive, primals, slots, params)
    differentiated = tuple(slot is not None for slot in slots)
    rules = trace.rules_inside() if how.apart else trace.rules
    program = how.program_of(primitive, params, differentiated, rules)
    present = program.present
    if present is not None and not any(present):
        return trace.evaluate(primitive, primals, params)
    outs, residuals = trace.run_forward(program, primals, op)
    if present is None:
        present = program.present or ()
    if not any(present):
        return outs
    trace.check_residuals(op, residuals)
    kept = params if op is primitive else {}
    return trace.record(op, kept, slots, outs, present, program, residuals)


INLINED = object()
"""Says that a function's operations are recorded, since its calls are caught in them or not meant."""


def rule_of(called: CalledFunction, rules: Rules, count: int) -> tuple[FunctionId, Any]:
    """A called function's op, and its rule, None if it has none, or INLINED.

    A transform may have made another function of it, of the same name and with operands of its own
    before these, as checkify does: by the `count` of operands it is seen that no rule is meant.
    """
    name, mark = unmarked(called.name)
    known = [(op, rule) for op, rule, _ in rules.functions if op.description == name]
    if mark:  # one node by some user's rule: by one of ours, or by another differentiation's
        ours = [op for op, rule in known if mark_of(op, rule) == mark]
        return (ours[-1], None) if ours else (FunctionId(name), INLINED)
    if not known:
        op = FunctionId(name)
        found = rules.find(op)
        return op, None if isinstance(found, Rule) and not takes(found, count) else found
    op, rule = known[-1]
    if any(called.leads_to(op) for op, _ in known):
        return op, INLINED
    element_by_element = rule.broadcasts and op.fixed is None  # so batched or not
    if element_by_element and takes(rule, count):
        return op, rule
    raise errors.Unlocated(errors.UncaughtCallError, op, rule)


def takes(rule: Rule, count: int) -> bool:
    """Whether a rule can be given this many operands."""
    try:
        signature_of(rule.fn).bind_partial(None, *(None,) * count)
    except TypeError:
        return False
    return True
