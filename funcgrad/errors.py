"""Errors that say what was asked, what was found and what to do.

Each is a :class:`FuncgradError`, and of the type that JAX or Python raises in such a case, too.

Example:
  >>> import jax.numpy as jnp, funcgrad
  >>> try:
  ...     funcgrad.grad(lambda x: 2 * x)(jnp.ones(3))
  ... except funcgrad.errors.OutputError as error:
  ...     print(isinstance(error, TypeError), "float32[3]" in str(error))
  True True
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax

from funcgrad import messages


class FuncgradError(Exception):
    """Base of every error that funcgrad raises itself."""


class InputError(FuncgradError, TypeError):
    """A differentiated function got, or was asked for, something that has no gradient."""


class OutputError(FuncgradError, TypeError):
    """A differentiated function returned something that cannot be differentiated."""


class ArgnumsError(FuncgradError, TypeError, ValueError):
    """`argnums` names no argument of the call."""


class CotangentError(FuncgradError, TypeError, ValueError):
    """A pullback was given cotangents that do not match the function's output."""


class LogError(FuncgradError, ValueError):
    """What backward functions log cannot be returned (``pullback.with_logs``)."""


class NotAnOpError(FuncgradError, TypeError):
    """Something was used as an op that a trace could never show as one."""

    def __init__(self, op: Any):
        super().__init__(
            f"A rule was asked for of {op!r}, which is a {type(op).__name__}. Rules belong to "
            "JAX primitives (such as jax.lax.sin_p) or to functions written in Python: plain, jitted, "
            "with a custom derivative, or made with funcgrad.op. For a callable object name its method, "
            "type(object).__call__."
        )


class NotARuleError(FuncgradError, TypeError):
    """Something other than rules was given where rules are wanted."""


class MissingPackageError(FuncgradError, ImportError):
    """A package is not installed that only some tools need."""

    def __init__(self, what: str, package: str, install: str):
        super().__init__(f"{package!r} is needed {what}, and it is not installed: {install}")


class UnusedOverrideWarning(UserWarning):
    """An override never applied while a function was differentiated."""


class UnusedOverrideError(FuncgradError, ValueError):
    """The same where ``strict=True`` was asked for."""


class SelectorError(FuncgradError, ValueError):
    """A selector of places that cannot be understood, or that means no place of the function."""


class EditError(FuncgradError, TypeError):
    """A tap, an edit or an override by place that cannot be made at the place that is meant."""


class FactorError(FuncgradError, ValueError):
    """A large parameter's gradient is not known as a sum of outer products."""


class RuleError(FuncgradError):
    """A rule could not be called with an op's cotangent, operands and params, or it raised."""

    def __init__(self, rule: Any, op: Any, problem: str, where: str):
        name, source = getattr(rule, "name", "?"), getattr(rule, "source", "?")
        super().__init__(f"The rule `{name}` ({source}) of op `{op}`, used at {where}, {problem}")

    def __str__(self) -> str:
        return str(self.args[0])


class UncaughtCallError(FuncgradError, RuntimeError):
    """A call of an overridden function was met that cannot be given to its rule."""

    def __init__(self, op: Any, rule: Any, where: str):
        super().__init__(
            f"`{op}` is overridden by `{rule.name}` ({rule.source}). A call of it at {where} cannot be "
            "given to the rule: it was traced before the differentiation began, or it is of another "
            "function with the same definition. Pass to rules.override the function object that is "
            "called, and let it be called, not its jaxpr, while the gradient is taken; or make the "
            "function an op with @funcgrad.op."
        )


class ForwardModeError(FuncgradError, TypeError):
    """JAX was to run a function forward that has only a backward rule."""

    def __init__(self, ops: Any):
        names = ", ".join(f"`{op}`" for op in ops)
        super().__init__(
            "A forward derivative (jax.jvp, jax.jacfwd, jax.linearize) was to be computed by JAX inside "
            "the function that is differentiated, and met a function of which only a backward rule is "
            f"known. These are overridden: {names}; a jax.custom_vjp function is another. Use a "
            "derivative backward there (jax.vjp, jax.grad), or leave the override out."
        )


class ClosedOverError(FuncgradError, TypeError):
    """An overridden function reads a differentiated value that is not among its arguments."""

    def __init__(self, op: Any, rule: Any, where: str):
        super().__init__(
            f"`{op}`, called at {where}, is overridden by `{rule.name}` ({rule.source}), which gives "
            "cotangents to its arguments alone. The function also reads a differentiated value that it "
            "closes over, or that an object holds which is not a pytree. Pass that value as an argument."
        )


class DuplicateRuleError(FuncgradError, ValueError):
    """Two rules for one op."""

    def __init__(self, op: Any, first: Any, second: Any):
        super().__init__(
            f"Two rules were registered for op `{op}`: {_describe(first)} and {_describe(second)}. "
            "Keep one of them, or replace the first on purpose with rules.override({op: rule})."
        )


class MissingRuleError(FuncgradError, NotImplementedError):
    """An op on the way from a differentiated input to the output has no rule."""

    def __init__(self, op: Any, operands: int, params: Any, where: str):
        xs = ", ".join(f"x{i}" for i in range(operands))
        returns = ", ".join(f"ct_x{i}" for i in range(operands))
        identifier = "".join(c if c.isalnum() else "_" for c in str(op).split(" ")[0])
        names = f"  # params: {', '.join(sorted(params))}" if params else ""
        super().__init__(
            f"A gradient was asked for through op `{op}`, used at {where}, and the rules in use have "
            "none for it. Write one and pass it in:\n\n"
            f"    def {identifier}_vjp(ct, {xs}, *, out, **params):{names}\n"
            f"        return {returns}\n\n"
            f"    funcgrad.grad(f, rules=funcgrad.DEFAULT.override({{op: {identifier}_vjp}}))\n\n"
            f"where `op` is {messages.found_as(op)}. To treat its result as a constant, wrap it in "
            "jax.lax.stop_gradient."
        )


class OpaqueOpError(MissingRuleError, ValueError):
    """An op on the way runs code of the user's that cannot be differentiated."""

    def __init__(self, op: Any, target: str, where: str):
        Exception.__init__(self, messages.ask_for_a_function(op, target, where))


class KinkError(FuncgradError, FloatingPointError):
    """A gradient was asked for at a kink, a tie or a pole, and the rules refuse one there."""

    def __init__(self, op: Any, words: str, where: str):
        super().__init__(
            f"The gradient of op `{op}`, used at {where}, was asked for where {words} (x and y are its "
            "operands, in order). There it has none: the slopes from two sides differ, or are infinite. "
            'rules=funcgrad.kinks("raise") refuses that; kinks("zero") and kinks("torch") take a value.'
        )


def missing_rule(op: Any, operands: int, params: Any, target: str) -> Unlocated:
    """The error for an op that has no rule; `target` is the foreign function that it calls."""
    if str(op) in messages.OPAQUE:
        return Unlocated(OpaqueOpError, op, target)
    return Unlocated(MissingRuleError, op, operands, params)


class PrimitiveWithoutRuleError(MissingRuleError):
    """A primitive of ``jax.experimental.hijax`` brings no rule for what was asked of it."""

    def __init__(self, name: str, wanted: str, where: str):
        NotImplementedError.__init__(
            self,
            f"A gradient was asked for through the hijax primitive `{name}`, used at {where}, whose "
            f"class does not define {wanted}. Its operations are not differentiated in its place. "
            "Define that on the class, or wrap the result in jax.lax.stop_gradient.",
        )


class PrimitiveRuleError(FuncgradError, TypeError):
    """A rule of a primitive of ``jax.experimental.hijax`` returned something else than it must."""

    def __init__(self, name: str, problem: str, where: str):
        super().__init__(f"The hijax primitive `{name}`, used at {where}, {problem}")


class UnknownCallError(FuncgradError, NotImplementedError):
    """A function was called by a primitive that no rule says anything of."""

    def __init__(self, op: Any, where: str):
        super().__init__(
            f"A gradient was asked for through `{op}`, used at {where}. It calls a function, and the "
            "rules in use do not say what that call means for a gradient, so the function is not "
            "differentiated in its place. Say it with funcgrad.extend.defcall and rules.extend, or call "
            "the function itself."
        )


class UnknownExamplesError(FuncgradError, NotImplementedError):
    """A vmapped loop has an op of which it cannot be known whether it keeps the examples apart."""

    def __init__(self, op: Any, where: str, loop: str):
        super().__init__(
            "A gradient was asked for through a vmapped while loop whose examples end one by one, used "
            f"at {loop}. Its body has the op `{op}`, used at {where}. JAX knows no function of arrays "
            "for it. So it cannot be told which values are those of an example that has ended, which "
            "might make the gradients of others NaN. Differentiate one example and vmap that: "
            "jax.vmap(funcgrad.grad(f))."
        )


class MutableValueError(FuncgradError, NotImplementedError):
    """A differentiated value was put where no gradient can follow it: in a box, a log, a callback."""

    def __init__(self, op: Any, where: str):
        super().__init__(
            f"A differentiated value was given to `{op}` at {where}, which stores it or sends it away "
            "and returns nothing, so that no gradient could follow it. Give it jax.lax.stop_gradient of "
            "the value, or return the value itself."
        )


class RuleResultError(FuncgradError, TypeError, ValueError):
    """A rule returned the wrong number of cotangents, or one of the wrong shape or dtype."""

    def __init__(self, rule: Any, op: Any, problem: str, where: str):
        super().__init__(
            f"The rule `{rule.name}` ({rule.source}) of op `{op}`, used at {where}, {problem}"
        )


def wrong_count(found: int, expected: int) -> str:
    """What is wrong with a rule that returned `found` cotangents."""
    return (
        f"returned {found} cotangent(s) for {expected} operand(s). Return one for each operand, "
        "None where there is no gradient."
    )


class NoDerivativeError(FuncgradError, NotImplementedError, ValueError):
    """An op is used in a way in which it has no derivative."""

    def __init__(self, op: Any, problem: str, where: str):
        super().__init__(
            f"A gradient was asked for through op `{op}`, used at {where}, which {problem}"
        )


def no_derivative(op: Any, problem: str) -> Unlocated:
    """The same from within a rule, which does not know the user's line.

    A rule raises it, or returns it as the cotangent of the one operand that it holds for.
    """
    return Unlocated(NoDerivativeError, op, problem)


class InitialValueError(FuncgradError, NotImplementedError):
    """The initial value of a reduction was differentiated."""

    def __init__(self, op: Any, where: str):
        super().__init__(
            f"A gradient was asked for by the initial value of `{op}`, used at {where}. It must be the "
            "identity of the reduction's function, and how often it is applied is not defined. Wrap it "
            "in jax.lax.stop_gradient, and apply a value of your own after the reduction."
        )


class TransposeSolveError(FuncgradError, TypeError):
    """A custom_linear_solve cannot be differentiated backward."""

    def __init__(self, where: str):
        super().__init__(
            f"A gradient was asked for through jax.lax.custom_linear_solve, used at {where}, which was "
            "given no transpose_solve. Pass one, or symmetric=True if the matrix is symmetric."
        )


class BudgetError(FuncgradError, ValueError):
    """A budget of memory is too small: for a checkpointed function, or for a row of a Jacobian."""


class NonLinearJvpError(FuncgradError, TypeError):
    """A custom_jvp rule is not linear in its tangents."""

    def __init__(self, name: str, op: Any, where: str):
        super().__init__(
            f"The jax.custom_jvp rule of `{name}` was to be run backward, but it applies `{op}` "
            f"at {where} to its tangents, which is not linear in them or has no rule. A JVP rule "
            "must be linear in the tangents; rewrite it, or give the function a rule of ours with "
            "rules.override({function: rule}). A solver that looks at its right-hand side, as gmres at "
            "its norm, is linear inside jax.lax.custom_linear_solve(matvec, tangent, solve, "
            "transpose_solve)."
        )


class MutableReferenceError(FuncgradError, NotImplementedError):
    """A mutable reference is used where no gradient can follow what it holds."""

    def __init__(self, op: Any, problem: str, where: str):
        super().__init__(
            f"A gradient was asked for through a mutable reference given to `{op}` at {where}, "
            f"{problem} "
            "Pass and return the value itself there, or store jax.lax.stop_gradient of it in the "
            "reference."
        )


class CheckpointEffectError(FuncgradError, NotImplementedError):
    """A checkpointed function does something that may not be done twice."""

    def __init__(self, op: Any, effect: Any, where: str):
        super().__init__(
            f"A gradient was asked for of a function under jax.checkpoint in which op `{op}`, used at "
            f"{where}, has the effect {effect}. The backward pass would have it again. Move it out of "
            "the checkpointed function, or use jax.debug.callback, which may run twice. (JAX: Effects "
            f"not supported in partial-eval of `checkpoint`/`remat`: {effect}.)"
        )


class NotFiniteError(FuncgradError, FloatingPointError):
    """A value or a gradient is not finite, and somebody looks for that.

    Attributes:
      report: a :class:`funcgrad.inspect.NonFinite`, which says where it begins; None under
        ``jax_debug_nans``.
    """

    def __init__(self, message: str, report: Any = None):
        super().__init__(message)
        self.report = report

    @classmethod
    def of(cls, report: Any) -> NotFiniteError:
        """The error with what is known of the place in its message."""
        return cls(
            f"Under debug_nans=True the value and the gradient must be finite.\n{report}", report
        )


class GradientError(FuncgradError, AssertionError):
    """A check of a gradient failed.

    Attributes:
      report: the report of all checks that ran.
      check: the first that failed.
      cotangent: a cotangent that shows the failure, a pytree like the function's output, or None.
    """

    def __init__(self, report: Any, check: Any, cotangent: Any, shown: str):
        self.report, self.check, self.cotangent = report, check, cotangent
        with_cotangent = f"\nCotangent: {shown}" if cotangent is not None else ""
        super().__init__(
            f"A gradient of `{report.name}` was checked and is wrong.\n"
            f"{check.name}: {check.detail}{with_cotangent}\n\n{report}"
        )


class LeakedTracerError(FuncgradError, jax.errors.UnexpectedTracerError):
    """A value from inside a differentiation was used after the differentiation ended.

    Under ``jax_check_tracer_leaks``: was kept until after that.
    """

    def __init__(self, function: str, done: str = "kept and used"):
        FuncgradError.__init__(
            self,
            f"A value traced while `{function}` was being differentiated was {done} after that "
            "differentiation had ended. Such a value belongs to its differentiation alone: return it "
            "from the function instead, with has_aux=True, or store "
            "jax.lax.stop_gradient of it only within the function.",
        )


def _describe(entry: Any) -> str:
    if hasattr(entry, "name"):
        return f"`{entry.name}` ({entry.source})"
    return "a declaration that its derivative is zero"


class Unlocated(Exception):
    """An error on its way to where the user's source line is known; never leaves funcgrad."""

    def __init__(self, kind: type[Exception], *args: Any, cause: Exception | None = None):
        super().__init__(kind.__name__, *args)
        self.kind, self.arguments, self.cause = kind, args, cause

    def at(self, where: str | None) -> Exception:
        """The error proper, with its place in the user's source; this one while it is unknown.

        An error that a rule raised comes with the rule's own frames.
        """
        if where is None:
            return self
        cause = self.cause
        return self.kind(*self.arguments, where).with_traceback(cause and cause.__traceback__)


@contextlib.contextmanager
def located_at(where: Callable[[], str | None]) -> Iterator[None]:
    """Give errors that come out of the block a place, which is looked up only then."""
    try:
        yield
    except Unlocated as problem:
        raise problem.at(where()) from problem.cause


def wrong_signature(signature: Any, args: Any, kwargs: Any) -> str:
    """What is wrong with a rule that cannot be called with these arguments."""
    keywords = ", ".join(dict.fromkeys(kwargs))
    return (
        f"has the signature {signature}, but is called with ({', '.join(args)}; by name: {keywords}). "
        "Take the operands by position and `out` and the params by name, or the rest as **params."
    )


def call_rule(rule: Any, op: Any, args: Any, kwargs: Any) -> Any:
    """Call a rule; what it raises names the rule and the op as well."""
    try:
        return rule.fn(*args, **kwargs)
    except (FuncgradError, Unlocated, NotImplementedError):
        raise
    except Exception as problem:
        words = f"raised {type(problem).__name__}: {problem}"
        if isinstance(problem, TypeError):
            words = _misfit(rule.fn, args, kwargs) or words
        words = words.removesuffix(".") + messages.own_arithmetic(args)
        raise Unlocated(_error_like(problem), rule, op, words, cause=problem) from problem


def _misfit(fn: Any, args: Any, kwargs: Any) -> str | None:
    """What is wrong with a rule's signature, if that is what is wrong."""
    try:
        signature = inspect.signature(fn, follow_wrapped=False)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        names = ["ct", *(f"x{i}" for i in range(len(args) - 1))]
        return wrong_signature(signature, names, kwargs)
    return None


def _error_like(problem: Exception) -> type[Exception]:
    """A RuleError that is of the problem's class too, so that code which expects that catches it."""
    try:
        kind = type("RuleError", (RuleError, type(problem)), {"__module__": __name__})
        kind(None, None, "", "")
    except Exception:  # a class that cannot be mixed in, or made from a message
        return RuleError
    return kind


def at_worst_unknown() -> contextlib.AbstractContextManager[None]:
    """Give errors that come out of the block without a place one that says so."""
    return located_at(lambda: "<unknown line>")
