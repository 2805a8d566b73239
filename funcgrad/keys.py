"""Ops: what a rule is registered for, a primitive or a function.

A user names an op by the primitive, or by any callable that stands for a function: plain, jitted,
``custom_jvp``, ``custom_vjp``, checkpointed, partial, a method, or made with ``funcgrad.op``.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from funcgrad import _jax, errors

Op = Any
"""What a rule is registered for: a primitive, or the :class:`FunctionId` of a function."""


@dataclass(frozen=True, eq=False)
class FunctionId:
    """A function as a trace sees it: its name and where it is defined, not its bare name.

    Two closures of one definition have one description; they differ by the function, where that is
    known. As a trace names it, a function equals each of them.

    Attributes:
      description: ``name at file:line``.
      fixed: the arguments that a ``functools.partial`` or a method fixes: of calls with others,
        the rule knows nothing.
      function: the function itself, where it is known, so that its calls can be caught.
      serial: which of the overridden functions of this description.
    """

    description: str
    fixed: Fixed | None = None
    function: Callable[..., Any] | None = field(default=None, repr=False)
    serial: int = field(default=0, repr=False)

    def __str__(self) -> str:
        return self.description

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FunctionId) or self.fixed != other.fixed:
            return False
        known = self.function is not None and other.function is not None
        return self.description == other.description and (
            not known or self.function is other.function
        )

    def __hash__(self) -> int:
        return hash((self.description, self.fixed))


@dataclass(frozen=True)
class Fixed:
    """The leading arguments and the keyword arguments that a partial function fixes."""

    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]

    def agrees(self, signature: inspect.Signature, arguments: Mapping[str, Any]) -> bool:
        """Whether a call's arguments are the fixed ones, as far as these go."""
        bound = signature.bind_partial(*self.args, **dict(self.kwargs)).arguments
        return all(name in arguments and same(arguments[name], x) for name, x in bound.items())


def same(a: Any, b: Any) -> bool:
    """Whether two arguments are the same, neither being made of arrays."""
    return a is b or (type(a) is type(b) and not _jax.holds_arrays(a) and bool(a == b))


def op_key(op: Any) -> Op:
    """Return what the registry files `op` under.

    Args:
      op: a JAX primitive, or a function. A function of ``jax.lax`` that stands for one primitive
        means that primitive.

    Raises:
      errors.NotAnOpError: `op` is none of these.
    """
    if isinstance(op, (_jax.Primitive, FunctionId)):
        return op
    function, args, kwargs = underlying(op)
    primitive = _jax.primitive_of(function)
    if primitive is not None:
        return primitive
    fixed = Fixed(args, tuple(sorted(kwargs.items()))) if args or kwargs else None
    description = _jax.own_description(function) or _jax.function_description(function)
    if description is None:
        raise errors.NotAnOpError(op)
    try:
        hash(fixed)
    except TypeError:
        raise errors.NotAnOpError(op) from None
    return FunctionId(description, fixed, function)


def underlying(op: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """The function that a callable calls in the end, and the arguments that it fixes."""
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    while not hasattr(op, "defbackward"):
        if isinstance(op, functools.partial):
            op, args, kwargs = op.func, (*op.args, *args), {**op.keywords, **kwargs}
        elif isinstance(op, types.MethodType):
            op, args = op.__func__, (op.__self__, *args)
        elif (wrapped := _jax.wrapped_function(op)) is not None:
            op = wrapped
        else:
            break
    return op, args, kwargs
