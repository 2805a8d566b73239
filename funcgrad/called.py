"""The functions that calls call, as a trace names them: where an override of one applies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from funcgrad import _jax, errors
from funcgrad.functions import mark_of, signature_of, unmarked
from funcgrad.keys import FunctionId
from funcgrad.registry import Rule, Rules

Params = dict[str, Any]


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


@dataclass(frozen=True)
class CalledJaxpr:
    """A :class:`CalledFunction` that a call carries as a jaxpr.

    Attributes:
      closed: the jaxpr.
      own_lines: its operations keep the lines of the source on which they were traced.
    """

    closed: _jax.ClosedJaxpr
    own_lines: bool

    @property
    def name(self) -> str:
        """How a trace names the function."""
        return _jax.function_of(self.closed)

    def run(self, *args: Any) -> Any:
        """Run its operations in the current trace."""
        return _jax.eval_closed_jaxpr(self.closed, args, self.own_lines)

    def leads_to(self, op: FunctionId) -> bool:
        """Whether running it calls a function whose calls are caught."""
        return op.description in _marked_calls(self.closed.jaxpr)


def of_jaxpr(own_lines: bool = True) -> Callable[[Params], CalledJaxpr]:
    """The function that a call carries as a jaxpr, for the argument `function` of ``defcall``.

    Args:
      own_lines: its operations keep the lines of the source on which they were traced.

    Returns:
      A function from the call's params to the function that it calls.

    Example:
      :func:`defcall` has one.
    """

    def function(params: Params) -> CalledJaxpr:
        return CalledJaxpr(_jax.close(params[_jax.jaxpr_param(params)]), own_lines)

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


INLINED = object()
"""Says that a function's operations are recorded, since its calls are caught in them or not meant."""


def rule_of(
    called: CalledFunction | CalledJaxpr, rules: Rules, count: int
) -> tuple[FunctionId, Any]:
    """A called function's op, and its rule, None if it has none, or INLINED.

    A transform may have made another function of it, of the same name and with operands of its own
    before these, as checkify does: by the `count` of operands it is seen that no rule is meant.
    """
    if isinstance(called, CalledJaxpr):
        return _rule_of_jaxpr(called.closed, rules, count)
    return _rule_of(called, rules, count)


@_jax.weak_cache
def _rule_of_jaxpr(closed: _jax.ClosedJaxpr, rules: Rules, count: int) -> tuple[FunctionId, Any]:
    return _rule_of(CalledJaxpr(closed, own_lines=True), rules, count)


def _rule_of(
    called: CalledFunction | CalledJaxpr, rules: Rules, count: int
) -> tuple[FunctionId, Any]:
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
