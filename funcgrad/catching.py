"""Catching a function's calls while a differentiation records.

A function that a trace does not see as one call (``jax.nn.softmax``, ``jnp.mean``, a plain ``def`` in
somebody else's module) is one node if a rule for it is in use. For the length of the recording its
code is replaced by a call of :func:`dispatch` with the same signature, so that every reference to the
function, whoever imported it, leads there. Another thread, or a call outside the recording, runs the
original code: which functions are caught, and by which rules, is a setting of JAX's kind, local to a
thread and part of what JAX caches traced programs by.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax

from funcgrad import _jax, errors
from funcgrad.functions import Call, node_of
from funcgrad.keys import FunctionId, op_key
from funcgrad.registry import Rule, Rules


@dataclass(frozen=True)
class Caught:
    """The functions that are caught, each with its ops and their rules.

    Attributes:
      rules: of the innermost recording that catches functions.
      outer: what was caught around it.
      first: how many of the rules' functions are caught; None for all.
      marked: functions each of whose calls is put into a name scope of its own, and no more.
    """

    rules: Rules
    outer: Caught | None
    first: int | None = None
    marked: tuple[Any, ...] = ()

    def rule_of(
        self, function: Any, agrees: Callable[[FunctionId], bool]
    ) -> tuple[Any, Any, Any, bool]:
        """The op of a call, its rule, and what is caught inside the function; Nones without a rule.

        Last, whether the rule holds at some places alone. The function's other rules are for its other
        places: inside, the call is caught again, by these.
        """
        level: Caught | None = self
        while level is not None:
            functions = level.rules.functions[: level.first]
            for i, (op, rule, somewhere) in reversed([*enumerate(functions)]):
                if op.function is function and agrees(op):
                    inside = replace(level, first=i) if somewhere else level.outer
                    return op, rule, inside, somewhere
            level = level.outer
        return None, None, None, False

    def marks(self, function: Any) -> bool:
        """Whether a function's calls are put into a name scope."""
        return function in self.marked or (self.outer is not None and self.outer.marks(function))


@contextlib.contextmanager
def catching(rules: Rules, marked: Sequence[Any] = ()) -> Iterator[None]:
    """Catch the calls of the functions that `rules` override, in this thread, for a block.

    Those of the functions in `marked` are put into name scopes, so that a selector finds them.
    """
    if not rules.functions and not marked:
        yield
        return
    functions = [*(op.function for op, _, _ in rules.functions), *marked]
    with contextlib.ExitStack() as stack:
        for function in dict.fromkeys(functions):
            if inspect.isfunction(function):
                stack.enter_context(replaced_code(function))
        caught = Caught(rules, _jax.caught_functions.value, marked=tuple(marked))
        stack.enter_context(_jax.caught_functions(caught))
        yield


def caught() -> Caught | None:
    """What is caught in this thread at the moment."""
    return _jax.caught_functions.value


# --- replacing a function's code


@dataclass
class Replacement:
    """A function's own code, and in how many recordings it is replaced."""

    code: types.CodeType
    users: int = 0


@dataclass
class Replacements:
    """The functions whose code is replaced at the moment, in all threads."""

    of: dict[Any, Replacement] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


REPLACED = Replacements()


@contextlib.contextmanager
def replaced_code(function: types.FunctionType, to: To | None = None) -> Iterator[None]:
    """Let calls of `function` go to :func:`dispatch`, or elsewhere, for a block; blocks may overlap.

    Every reference to the function leads there, whoever imported it and when.
    """
    with REPLACED.lock:
        entry = REPLACED.of.setdefault(function, Replacement(function.__code__))
        if not entry.users:
            function.__code__ = forwarding_code(function, to or dispatch)
        entry.users += 1
    try:
        yield
    finally:
        with REPLACED.lock:
            entry.users -= 1
            if not entry.users:
                function.__code__ = REPLACED.of.pop(function).code


MARK = "funcgrad.catching.dispatch"
CALL = "funcgrad.call:"
"""What begins the name scope of a call of a marked function."""


To = Callable[[Any, Any, Any, Any], Any]
"""What is called instead of a function: with it, a copy with its own code, and the arguments."""


def forwarding_code(function: types.FunctionType, to: To) -> types.CodeType:
    """Code with the signature, name and place of `function` that calls `to`."""
    original = function.__code__
    if original.co_flags & (inspect.CO_GENERATOR | inspect.CO_COROUTINE):
        raise errors.NotAnOpError(function)
    copy = types.FunctionType(
        original,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__

    def forward(*args: Any, **kwargs: Any) -> Any:
        return to(function, copy, args, kwargs)

    parameters, arguments = _parameter_list(original)
    source = f"def forwarding({parameters}):\n return {MARK!r}({arguments})"
    namespace: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # a string is called, until it is replaced
        exec(compile(source, original.co_filename, "exec"), namespace)
    code = namespace["forwarding"].__code__
    return code.replace(
        co_consts=tuple(forward if const == MARK else const for const in code.co_consts),
        co_name=original.co_name,
        co_qualname=original.co_qualname,
        co_firstlineno=original.co_firstlineno,
        co_freevars=original.co_freevars,
    )


def _parameter_list(code: types.CodeType) -> tuple[str, str]:
    """A function's parameters as they stand in a definition, and in a call that hands them on."""
    names = iter(code.co_varnames)
    positional = [next(names) for _ in range(code.co_argcount)]
    keyword_only = [next(names) for _ in range(code.co_kwonlyargcount)]
    star = [f"*{next(names)}"] if code.co_flags & inspect.CO_VARARGS else []
    stars = [f"**{next(names)}"] if code.co_flags & inspect.CO_VARKEYWORDS else []
    first = code.co_posonlyargcount
    slash = ["/"] if first else []
    bare_star = ["*"] if keyword_only and not star else []
    parameters = [*positional[:first], *slash, *positional[first:], *star, *bare_star]
    arguments = [*positional, *star, *(f"{name}={name}" for name in keyword_only), *stars]
    return ", ".join([*parameters, *keyword_only, *stars]), ", ".join(arguments)


def dispatch(function: Any, original: Any, args: Any, kwargs: Any) -> Any:
    """A call of a function whose code is replaced: by its rule where this thread catches it."""
    now = caught()
    if now is None or not _jax.holds_arrays((args, kwargs)):
        return original(*args, **kwargs)
    if now.marks(function):
        with jax.named_scope(CALL + str(op_key(function))):
            return call_with_rule(now, function, original, args, kwargs)
    return call_with_rule(now, function, original, args, kwargs)


def call_with_rule(now: Caught, function: Any, original: Any, args: Any, kwargs: Any) -> Any:
    """Make a call one node, if a rule for it is in use."""
    call = Call.of(original, args, kwargs)
    op, rule, inside, somewhere = now.rule_of(function, call.agrees)
    if not isinstance(rule, Rule):
        return original(*args, **kwargs)

    def again(*args: Any, **kwargs: Any) -> Any:
        return call_with_rule(inside, function, original, args, kwargs)

    def run(call: Call) -> Any:
        with _jax.caught_functions(inside):
            return call.run(again if somewhere else original)

    return node_of(op, rule, call, run)
