"""JAX's derivatives inside ours: which overrides hold there, and which do not.

``jax.jvp``, ``jax.grad`` and their like differentiate by JAX where they are called in a function that is
differentiated, or in a custom rule. An overridden function is one node there too, since its calls are
caught. An overridden primitive has JAX's derivative: that is reported. JAX's traces have their methods'
code replaced for that (`catching.py` says how).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from funcgrad import _jax, errors
from funcgrad.called import INLINED, CalledFunction, CalledJaxpr, of_jaxpr, of_wrapped
from funcgrad.catching import Caught, Seen, catching, caught, forwarding_code, replaced_code
from funcgrad.functions import called_again, unmarked
from funcgrad.keys import FunctionId
from funcgrad.registry import Rules
from funcgrad.unused import count_as_used, report_passed_over


@contextlib.contextmanager
def holding(rules: Rules, name: str, marked: Sequence[Any] = ()) -> Iterator[Seen]:
    """Let overrides hold, in this thread, while `name` runs: catching, and JAX's derivatives watched.

    Calls of the functions in `marked` are put into name scopes.

    Raises:
      errors.ForwardModeError: JAX was to run a function forward that has only a rule backward.
    """
    if not rules.overridden and not rules.functions:
        with catching(rules, marked=marked):
            yield Seen()
        return
    seen = _seen_by(rules, name)
    with contextlib.ExitStack() as stack:
        for method_name, to in WATCHED.items():
            for method in _jax.methods_of_derivatives(method_name):
                stack.enter_context(replaced_code(method, to, _forwarding_code))
        try:
            with catching(rules, seen, marked):
                yield seen
        except TypeError as problem:
            if not rules.functions or _jax.REFUSED_FORWARD not in str(problem):
                raise
            raise errors.ForwardModeError([op for op, *_ in rules.functions]) from problem
    around = caught()
    if around is not None:
        around.seen.update(seen)


@_jax.cache()
def _seen_by(rules: Rules, name: str) -> Seen:
    """What is seen in one function: kept, since what JAX has traced once is not seen again."""
    return Seen()


@_jax.weak_cache
def _seen_in(jaxpr: Any, held: Caught, differentiated: tuple[bool, ...]) -> Seen:
    """The same of a jaxpr, of which JAX keeps the derivative."""
    return Seen()


@contextlib.contextmanager
def backward(rules: Rules, fun: Any) -> Iterator[None]:
    """Let overrides hold while a user's own backward function runs, and report those that do not."""
    name = _jax.description_of_wrapped(fun)
    with holding(rules, name) as seen:
        yield
    count_as_used(seen)
    around = caught()
    if around is None or around.rules != rules:  # the recording around, by these rules, reports it
        report_passed_over(rules, name, seen)


def _begin(function: Any, original: Any, args: Any, kwargs: Any) -> None:
    """A derivative of JAX's begins: the rules that hold in it are those that hold now."""
    original(*args, **kwargs)
    args[0].funcgrad_caught = caught()


def _primitive(function: Any, original: Any, args: Any, kwargs: Any) -> Any:
    """JAX differentiates a primitive: by a rule of its own, even where that is overridden."""
    trace, primitive, tracers, params = args
    with _held_in(trace) as held:
        differentiated = () if held is None else _jax.differentiated_by(trace, tracers)
        if held is None or not any(differentiated):
            return original(*args, **kwargs)
        if primitive is _jax.jit_p:
            _how_caught(of_jaxpr()(params), held)
        if any(primitive in level.rules.overridden for level in held.levels()):
            held.seen.passed_over.setdefault(primitive, _jax.here())
        inner = [_seen_in(jaxpr, held, differentiated) for jaxpr in _jax.inner_jaxprs(params)]
        if not inner:
            return original(*args, **kwargs)
        with _jax.caught_functions(replace(held, seen=inner[0])):
            results = original(*args, **kwargs)
        held.seen.update(inner[0])
        return results


def _custom(function: Any, original: Any, args: Any, kwargs: Any) -> Any:
    """JAX differentiates a function with a derivative of its own: by the rule that overrides that."""
    trace, primitive, *subfuns, tracers = args
    with _held_in(trace) as held:
        if held is None or not any(_jax.differentiated_by(trace, tracers)):
            return original(*args, **kwargs)
        called = of_wrapped({"subfuns": subfuns})
        how = _how_caught(called, held)
        if how is INLINED:
            with _jax.set_current_trace(trace):
                return called.run(*tracers)
        results = list(original(*args, **kwargs))
        if how is None:
            return results
        params = {"subfuns": tuple(subfuns), **kwargs}
        call = called_again(subfuns[0]) or functools.partial(primitive.bind, **params)
        return _jax.with_values_from_outside(trace, tracers, results, call)


WATCHED = {
    "__init__": _begin,
    "process_primitive": _primitive,
    "process_custom_jvp_call": _custom,
    "process_custom_vjp_call": _custom,
}
"""Methods of the traces by which JAX differentiates, with what is called instead."""


_forwarding_code = functools.cache(forwarding_code)
"""Of these methods, which are always the same."""


@contextlib.contextmanager
def _held_in(trace: Any) -> Iterator[Caught | None]:
    """What held where a derivative of JAX's began holds in all of it, and nothing else."""
    held = getattr(trace, "funcgrad_caught", None)
    if held is caught():
        yield held
        return
    with _jax.caught_functions(held):
        yield held


def _how_caught(called: CalledFunction | CalledJaxpr, held: Caught) -> Any:
    """INLINED for an overridden function, which leads to a call with a mark; the op for that call.

    Raises:
      errors.UncaughtCallError: an overridden function does not lead to a call with a mark.
    """
    name, mark = unmarked(called.name)
    for level in held.levels():
        ops = [op for op, *_ in level.rules.functions if op.description == name]
        if mark and ops:
            held.seen.applied.add(FunctionId(name))
            return ops[-1]
        if any(map(called.leads_to, ops)):
            return INLINED
        if ops:
            raise errors.UncaughtCallError(ops[-1], level.rules[ops[-1]], _jax.here())
    return None
