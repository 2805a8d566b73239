"""Errors about rules: what is no rule, and what a rule does wrong."""

from __future__ import annotations

from typing import Any

from funcgrad import messages
from funcgrad.errors.base import FuncgradError, Unlocated, unfit_signature


class NotAnOpError(FuncgradError, TypeError):
    """Something was used as an op that a trace could never show as one.

    Example:
      >>> import funcgrad
      >>> funcgrad.DEFAULT.override({"sin": lambda ct, x, *, out: ct})  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      funcgrad.errors.NotAnOpError: A rule was asked for of 'sin', which is a str...
    """

    def __init__(self, op: Any):
        super().__init__(
            f"A rule was asked for of {op!r}, which is a {type(op).__name__}. Rules belong to "
            "JAX primitives (such as jax.lax.sin_p) or to functions written in Python: plain, jitted, "
            "with a custom derivative, or made with funcgrad.op. For a callable object name its method, "
            "type(object).__call__."
        )


class NotARuleError(FuncgradError, TypeError):
    """Something other than rules was given where rules are wanted.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> funcgrad.grad(jnp.sin, rules={})(1.0)  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      funcgrad.errors.NotARuleError: rules={} was given, a dict. Pass funcgrad.Rules...
    """


class DuplicateRuleError(FuncgradError, ValueError):
    """Two rules for one op.

    Example:
      >>> import jax, funcgrad
      >>> sin_rule = funcgrad.DEFAULT[jax.lax.sin_p]
      >>> funcgrad.Rules([sin_rule, sin_rule])  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      funcgrad.errors.DuplicateRuleError: Two rules were registered for op `sin`...
    """

    def __init__(self, op: Any, first: Any, second: Any):
        super().__init__(
            f"Two rules were registered for op `{op}`: {_describe(first)} and {_describe(second)}. "
            "Keep one of them, or replace the first on purpose with rules.override({op: rule})."
        )


class RuleError(FuncgradError):
    """A rule could not be called with an op's cotangent, operands and params, or it raised.

    Example:
      >>> import jax, funcgrad
      >>> rules = funcgrad.DEFAULT.override({jax.lax.sin: lambda ct: ct})  # the operand is forgotten
      >>> funcgrad.grad(jax.lax.sin, rules=rules)(1.0)  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      funcgrad.errors.RuleError: ...of op `sin`...has the signature (ct), but is called with (ct, x0;...
    """

    def __init__(self, rule: Any, op: Any, problem: str, where: str):
        name, source = getattr(rule, "name", "?"), getattr(rule, "source", "?")
        super().__init__(f"The rule `{name}` ({source}) of op `{op}`, used at {where}, {problem}")

    def __str__(self) -> str:
        return str(self.args[0])


class RuleResultError(FuncgradError, TypeError, ValueError):
    """A rule returned the wrong number of cotangents, or one of the wrong shape or dtype.

    Example:
      >>> import jax, funcgrad
      >>> rules = funcgrad.DEFAULT.override({jax.lax.sin: lambda ct, x, *, out, **_: (ct, ct)})
      >>> funcgrad.grad(jax.lax.sin, rules=rules)(1.0)  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      funcgrad.errors.RuleResultError: ...returned 2 cotangent(s) for 1 operand(s)...
    """

    def __init__(self, rule: Any, op: Any, problem: str, where: str):
        super().__init__(
            f"The rule `{rule.name}` ({rule.source}) of op `{op}`, used at {where}, {problem}"
        )


class NonLinearJvpError(FuncgradError, TypeError):
    """A custom_jvp rule is not linear in its tangents.

    Example:
      >>> import jax, funcgrad
      >>> square = jax.custom_jvp(lambda x: x * x)
      >>> @square.defjvp
      ... def square_jvp(primals, tangents):
      ...     return square(*primals), tangents[0] ** 2
      >>> funcgrad.grad(square)(1.0)  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      funcgrad.errors.NonLinearJvpError: ...applies `integer_pow`...to its tangents...
    """

    def __init__(self, name: str, op: Any, where: str):
        super().__init__(
            f"The jax.custom_jvp rule of `{name}` was to be run backward, but it applies `{op}` "
            f"at {where} to its tangents, which is not linear in them or has no rule. A JVP rule "
            "must be linear in the tangents; rewrite it, or give the function a rule of ours with "
            "rules.override({function: rule}). A solver that looks at its right-hand side, as gmres at "
            "its norm, is linear inside jax.lax.custom_linear_solve(matvec, tangent, solve, "
            "transpose_solve)."
        )


class PrimitiveRuleError(FuncgradError, TypeError):
    """A rule of a primitive of ``jax.experimental.hijax`` returned something else than it must.

    Example:
      >>> import jax, funcgrad
      >>> from jax.experimental import hijax
      >>> class Sine(getattr(hijax, "HiPrim", None) or hijax.VJPHiPrimitive):  # from JAX 0.12: HiPrim
      ...     def __init__(self, aval):
      ...         self.in_avals, self.out_aval, self.params = (aval,), aval, {}
      ...         super().__init__()
      ...     def expand(self, x):
      ...         return jax.numpy.sin(x)
      ...     def vjp_fwd(self, wanted, x):
      ...         return self(x), x
      ...     def vjp_bwd(self, x, ct, ct_x):
      ...         return "done"
      >>> funcgrad.grad(lambda x: Sine(jax.typeof(x))(x))(1.0)  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      funcgrad.errors.PrimitiveRuleError: ...must return None from `vjp_bwd`...it returned str...
    """

    def __init__(self, name: str, problem: str, where: str):
        super().__init__(f"The hijax primitive `{name}`, used at {where}, {problem}")


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


def wrong_count(found: int, expected: int) -> str:
    """What is wrong with a rule that returned `found` cotangents."""
    return (
        f"returned {found} cotangent(s) for {expected} operand(s). Return one for each operand, "
        "None where there is no gradient."
    )


def wrong_signature(signature: Any, args: Any, kwargs: Any) -> str:
    """What is wrong with a rule that cannot be called with these arguments."""
    keywords = ", ".join(dict.fromkeys(kwargs))
    return (
        f"has the signature {signature}, but is called with ({', '.join(args)}; by name: {keywords}). "
        "Take the operands by position and `out` and the params by name, or the rest as **params."
    )


def _misfit(fn: Any, args: Any, kwargs: Any) -> str | None:
    """What is wrong with a rule's signature, if that is what is wrong."""
    signature = unfit_signature(fn, args, kwargs)
    if signature is None:
        return None
    return wrong_signature(signature, ["ct", *(f"x{i}" for i in range(len(args) - 1))], kwargs)


def _error_like(problem: Exception) -> type[Exception]:
    """A RuleError that is of the problem's class too, so that code which expects that catches it."""
    try:
        kind = type("RuleError", (RuleError, type(problem)), {"__module__": RuleError.__module__})
        kind(None, None, "", "")
    except Exception:  # a class that cannot be mixed in, or made from a message
        return RuleError
    return kind


def _describe(entry: Any) -> str:
    if hasattr(entry, "name"):
        return f"`{entry.name}` ({entry.source})"
    return "a declaration that its derivative is zero"
