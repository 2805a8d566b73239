"""Equal programs as one object, so that caches know a function that was traced again.

The body of a loop is most often a function of its own in each trace, and so is its jaxpr. Two jaxprs are
*equal* here if they say the same: the same operations on the same variables, numbers and types, in the
same name scopes, from the same lines of the same function.
"""

from __future__ import annotations

import inspect
import os
import sys
from types import FunctionType
from typing import Any

import jax
import numpy as np
from jax._src.api_util import fun_sourceinfo
from jax._src.custom_derivatives import custom_jvp_call_p
from jax._src.linear_util import WrappedFun
from jax._src.source_info_util import is_user_filename
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.sharding import AbstractMesh, Mesh

from funcgrad._jax.jaxprs import cache, called_function, close, is_literal, weak_cache
from funcgrad._jax.types import Atom, Equation, Var
from funcgrad._jax.values import is_plain_array_type

KEPT = 256
"""How many programs are kept to be found again."""

OWN_FILES = os.path.dirname(jax.__file__) + os.sep

FILES_OF_NN = os.path.join(OWN_FILES, "_src", "nn", "")

_JAXPRS = frozenset({Jaxpr, ClosedJaxpr})


def with_known_jaxprs(params: dict[str, Any]) -> dict[str, Any]:
    """A call's params in which each jaxpr is the first one that is equal to it."""
    changed: dict[str, Any] = {}
    for name, value in params.items():
        if type(value) in _JAXPRS:
            changed[name] = known(value)
        elif type(value) is tuple and value and type(value[0]) in _JAXPRS:
            changed[name] = tuple([known(jaxpr) for jaxpr in value])
    return {**params, **changed}


def known(jaxpr: Any) -> Any:
    """The first jaxpr that is equal to this one and has not been forgotten: perhaps itself."""
    found = _found(jaxpr)
    return jaxpr if found is None or found is OPAQUE else found


class Opaque(Exception):
    """Something in a jaxpr is its own: a constant, an effect, a function that may hold values."""


OPAQUE = object()


@weak_cache
def _found(jaxpr: Any) -> Any:
    """The first equal jaxpr; None if this is the first, OPAQUE if no other can be equal."""
    try:
        text = _Text(jaxpr)
    except Opaque:
        return OPAQUE
    first = _first(text).jaxpr
    return None if first is jaxpr else first


@cache(max_size=KEPT)
def _first(text: _Text) -> _Text:
    return text


class _Text:
    """What a jaxpr says, to be compared.

    Attributes:
      jaxpr: the jaxpr.
      outline: enough of it to part most programs.
      content: all of it, without the lines.
    """

    def __init__(self, jaxpr: Any):
        inner = close(jaxpr).jaxpr
        if close(jaxpr).consts or inner.constvars or inner.effects:
            raise Opaque
        self.jaxpr = jaxpr
        self.eqns: list[Equation] = inner.eqns
        info = inner.debug_info
        self.outline = (info.func_src_info, tuple([eqn.primitive for eqn in self.eqns]))
        numbers: dict[Var, int] = {}
        inputs = tuple([_new(v, numbers) for v in inner.invars])
        eqns = tuple([_content_of(eqn, numbers) for eqn in self.eqns])
        outputs = tuple([_operand(v, numbers) for v in inner.outvars])
        self.content = type(jaxpr), info.traced_for, info.arg_names, inputs, eqns, outputs

    def __hash__(self) -> int:
        return hash(self.outline)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Text) or self.outline != other.outline:
            return False
        try:
            same = bool(self.content == other.content)
        except (TypeError, ValueError):  # a param whose comparison is no truth
            return False
        return same and all(map(_same_line, self.eqns, other.eqns))


def _content_of(eqn: Equation, numbers: dict[Var, int]) -> tuple[Any, ...]:
    operands = tuple([_operand(v, numbers) for v in eqn.invars])
    params = tuple([(name, _param(value, eqn)) for name, value in eqn.params.items()])
    outputs = tuple([_new(v, numbers) for v in eqn.outvars])
    return eqn.primitive, operands, params, outputs, eqn.ctx, eqn.source_info.name_stack


def _new(v: Var, numbers: dict[Var, int]) -> Any:
    if not is_plain_array_type(v.aval):
        raise Opaque
    numbers[v] = len(numbers)
    return v.aval


def _operand(v: Atom, numbers: dict[Var, int]) -> Any:
    return (v.aval, by_bits(v.val)) if is_literal(v) else numbers[v]


def by_bits(x: Any) -> tuple[Any, ...]:
    """A number so that others are not equal to it: 0.0 and -0.0 are two, as are 1, 1.0 and True."""
    return type(x), getattr(x, "dtype", None), x.tobytes() if hasattr(x, "tobytes") else repr(x)


def _param(value: Any, eqn: Equation) -> Any:
    """A param to be compared."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if isinstance(value, (bool, int, float, complex, np.generic)):
        return by_bits(value)
    if kind in _JAXPRS:
        found = _found(value)
        if found is OPAQUE and not _is_of_jax(close(value).jaxpr.debug_info.func_src_info):
            raise Opaque
        return value if found is None or found is OPAQUE else found
    if isinstance(value, tuple):
        return kind, tuple([_param(item, eqn) for item in value])
    if isinstance(value, WrappedFun) or (callable(value) and not isinstance(value, type)):
        return _function(value, eqn)
    if _cannot_be_compared(value):
        raise Opaque
    return value


def _function(value: Any, eqn: Equation) -> Any:
    """A function among an operation's params, to be compared."""
    if isinstance(value, FunctionType) and value.__closure__ is None:
        return value
    name = called_function(eqn) if eqn.primitive is custom_jvp_call_p else None
    if name is not None and _has_derivative_of_jax(name):
        return name
    raise Opaque


@cache()
def _has_derivative_of_jax(function: str) -> bool:
    """Whether this names a function of a module of JAX's whose ``custom_jvp`` rule no argument changes.

    Then the name says which rule it is. Such are ``jax.nn.relu`` and ``jax.scipy.special.xlogy``.
    """
    if not _is_of_jax(function):
        return False
    name, place = function.split(" at ")
    path = place.rpartition(":")[0]
    modules = [m for m in sys.modules.values() if getattr(m, "__file__", None) == path]
    called = [getattr(module, name) for module in modules if hasattr(module, name)]
    found = [inspect.unwrap(function, stop=_is_custom_jvp) for function in called]
    return any(
        _is_custom_jvp(f) and not f.nondiff_argnums and fun_sourceinfo(f.fun) == function
        for f in found
    )


def _is_custom_jvp(function: Any) -> bool:
    return isinstance(function, jax.custom_jvp)


_PLAIN = frozenset({type(None), str, bytes, Mesh, AbstractMesh})


def _is_of_jax(function: str | None) -> bool:
    """Whether a function, as a trace names it, is written in JAX itself."""
    return function is not None and f" at {OWN_FILES}" in function


def _cannot_be_compared(value: Any) -> bool:
    if hasattr(value, "__array__") and not isinstance(value, type):
        return True
    try:
        hash(value)
    except TypeError:
        return True
    return False


def _same_line(one: Equation, other: Equation) -> bool:
    """Whether two operations come from one place in one line."""
    return _place(one.source_info.traceback) == _place(other.source_info.traceback)


def _place(traceback: Any) -> list[Any]:
    """The user's innermost frame, after those of ``jax.nn`` inside it.

    JAX's other frames depend on what its caches hold.
    """
    codes, lasts = traceback.raw_frames() if traceback else ([], [])
    frames: list[Any] = []
    for code, last in zip(codes, lasts, strict=True):
        if is_user_filename(code.co_filename):
            return [*frames, (code.co_filename, code.co_firstlineno, last)]
        if code.co_filename.startswith(FILES_OF_NN):
            frames.append(code.co_name)
    return frames
