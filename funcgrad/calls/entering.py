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
from funcgrad.called import INLINED, CalledFunction, CalledJaxpr, Params, rule_of
from funcgrad.calls.templates import record_by_template
from funcgrad.functions import run_with_rule
from funcgrad.keys import FunctionId
from funcgrad.registry import CallRule, Rule, Rules, ZeroRule, defrecord
from funcgrad.rules.functions import DERIVED_APART
from funcgrad.tangents import TangentTrace
from funcgrad.tape import FrozenTape, TapeTrace


class CallProgram(Protocol):
    """How a call is differentiated: its forward program, and its pullback.

    Attributes:
      present: which outputs carry a gradient; None until the forward program has run, if only that
        tells.
      inner: the tapes inside the call, by name (``"body"``, ``"branch 0"``), for tools.
      late: whether the pullback takes cotangents that are still broadcast.

    Example:
      :func:`defcall` has one: the call that :func:`wrapped` returns makes such a program.
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


def defcall(
    *ops: Any,
    function: Callable[[Params], CalledFunction | CalledJaxpr] | None = None,
    inlined: Callable[[Params, bool], bool] | None = None,
    apart: bool = True,
    opened_on_tangents: bool = True,
    integers: bool = False,
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
      integers: the params that the function is given have one more, ``"integers"``: for each operand,
        the integer that it is if that is known when the call is traced, else None.

    Returns:
      A decorator of a function from (primitive, params, which operands are differentiated, rules) to a
      :class:`CallProgram`. What it returns is an entry for :meth:`Rules.extend`.

    Example:
      >>> import jax, jax.numpy as jnp, funcgrad
      >>> from jax.extend.core import Primitive, jaxpr_as_fun
      >>> from funcgrad import extend
      >>> run_p = Primitive("run")  # runs a jaxpr, and says how
      >>> run_p.multiple_results = True
      >>> impl = run_p.def_impl(lambda *xs, jaxpr, how: jaxpr_as_fun(jaxpr)(*xs))
      >>> rule = run_p.def_abstract_eval(lambda *xs, jaxpr, how: jaxpr.out_avals)
      >>> def settings(params, call, forward):
      ...     return {"how": params["how"] + (" forward" if forward else " backward")}
      >>> entry = extend.defcall(run_p, function=extend.of_jaxpr())(extend.wrapped(settings))
      >>> sine = lambda x: run_p.bind(x, jaxpr=jax.make_jaxpr(jnp.sin)(0.0), how="fast")[0]
      >>> print(funcgrad.grad(sine, rules=funcgrad.DEFAULT.extend(entry))(0.0))
      1.0
    """

    def register(program_of: ProgramOf) -> CallRule:
        how = How(program_of, function, inlined, apart, opened_on_tangents, integers)
        call = functools.partial(enter, how)  # no frame of its own: nested calls are deep
        functools.update_wrapper(call, program_of)
        return defrecord(*ops)(call)

    return register


@dataclass(frozen=True)
class How:
    """How a call is differentiated; see :func:`defcall`."""

    program_of: ProgramOf
    function: Callable[[Params], CalledFunction | CalledJaxpr | None] | None = None
    inlined: Callable[[Params, bool], bool] | None = None
    apart: bool = True
    opened_on_tangents: bool = True
    integers: bool = False


def enter(
    how: How, trace: TapeTrace, primitive: Any, tracers: Sequence[Any], params: Params
) -> Any:
    """Run a call and write it down."""
    try:
        primals, slots = trace.split(tracers)
        if trace.contents:  # a reference given to a function with a derivative of its own
            slots = [
                trace.content_slot(x) if s is None else s
                for x, s in zip(primals, slots, strict=True)
            ]
        op = primitive
        inlined = how.inlined is not None and how.inlined(
            params, not _jax.is_eager(trace.parent_trace)
        )
        if inlined:
            outs = record_by_template(trace, _jax.close(params["jaxpr"]), tracers, primals)
            if outs is not None:
                return outs
        called = None if how.function is None else how.function(params)
        if called is not None:
            op, found = rule_of(called, trace.rules, len(primals))
            on_tangents = isinstance(trace, TangentTrace)
            opened = on_tangents and (how.opened_on_tangents or found is not None)
            if opened or found is INLINED or inlined:
                with _jax.set_current_trace(trace):
                    return called.run(*tracers)
            if isinstance(found, (Rule, ZeroRule)):
                by = None
                if isinstance(found, Rule) and op in DERIVED_APART:
                    by = _with_derivative(op, found, primitive)
                return trace.record_function(op, found, primitive, primals, slots, params, by)
        differentiated = tuple([slot is not None for slot in slots])
        rules = trace.rules_inside() if how.apart else trace.rules
        given = _jax.with_known_jaxprs(params)
        if how.integers:
            given["integers"] = tuple(map(_jax.known_integer, primals))
        program = how.program_of(primitive, given, differentiated, rules)
        present = program.present
        if present is not None and not any(present):
            return trace.evaluate(primitive, primals, params)
        outs, residuals = trace.run_forward(program, primals, op)
        if present is None:
            present = program.present or ()
        if not any(present):
            return outs
        pullback, residuals = trace.usable(op, program, residuals)
        kept = params if op is primitive else {}
        return trace.record(op, kept, slots, outs, present, pullback, residuals)
    except errors.Unlocated as problem:
        raise problem.at(_jax.current_where()) from problem.cause


def _with_derivative(op: FunctionId, rule: Rule, primitive: Any) -> Callable[..., Any]:
    """A call that has the rule as its derivative in JAX's transforms of the gradient, too.

    To JAX's forward mode, which has no such derivative, the call is an error.
    """

    def run(*primals: Any, **params: Any) -> list[Any]:
        def call(operands: tuple[Any, ...]) -> Any:
            outs = primitive.bind(*operands, **params)
            return tuple(outs) if len(outs) > 1 else outs[0]

        return run_with_rule(op, rule, (), call, primals)

    return run
