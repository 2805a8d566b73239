"""Ops: primitives, functions, and where in the user's source they are used."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

import jax
from jax._src import api_util, dispatch
from jax._src.interpreters import mlir
from jax._src.interpreters.ad import primitive_jvps, primitive_linearizations, primitive_transposes
from jax._src.interpreters.batching import (
    broadcast_batcher,
    fancy_primitive_batchers,
    vectorized_batcher,
)
from jax.extend import source_info_util
from jax.extend.core import Primitive

source_info_util.register_exclusion(os.path.dirname(os.path.dirname(__file__)))


current_source: Callable[[], Any] = source_info_util.current


def source_within(outer: Any, inner: Any) -> Any:
    """The source `outer`, in the name scopes of `inner` besides."""
    names = inner.name_stack
    return outer.replace(name_stack=outer.name_stack + names) if names.stack else outer


def where(source: Any) -> str | None:
    """``file:line (function)`` of the user's frame, if there is one."""
    return source_info_util.summarize(source) or None


def current_where() -> str | None:
    """``file:line (function)`` of the user's frame that the current operation comes from."""
    return where(current_source())


def scope_of(source: Any) -> str:
    """The name scopes around an operation: ``encoder/layer_0``, or an empty string."""
    return str(source.name_stack)


def current_scope() -> str:
    """The name scopes around the current operation."""
    return scope_of(current_source())


def here_if_known() -> str | None:
    """``file:line (function)`` of the user's frame that is running, if JAX lets it be seen."""
    with source_info_util.user_context(None):
        return where(current_source())


def here() -> str:
    """The same, or words that say that the line is not known."""
    return here_if_known() or "<unknown line>"


DERIVATIVES = (primitive_jvps, primitive_linearizations, primitive_transposes)
"""Where JAX keeps what it was told of primitives' derivatives."""


@functools.cache
def is_foreign(primitive: Primitive) -> bool:
    """Whether a primitive is of a package other than JAX that told JAX its derivative."""
    if not any(primitive in told for told in DERIVATIVES):
        return False
    own = (module for name, module in sys.modules.items() if name.split(".")[0] == "jax")
    return not any(value is primitive for m in list(own) for value in list(vars(m).values()))


def is_elementwise(primitive: Primitive) -> bool:
    """Whether JAX batches a primitive by calling it: it works along each axis by itself."""
    batcher = fancy_primitive_batchers.get(primitive)
    return isinstance(batcher, functools.partial) and (
        batcher.func is broadcast_batcher or batcher.func is vectorized_batcher
    )


def implementation_of(primitive: Primitive) -> Callable[..., Any] | None:
    """The function of arrays that JAX runs for a primitive; None if JAX knows none.

    It takes the operands, and the params by name. It is the one that ``mlir.lower_fun`` was given, or
    the one that runs outside jit.
    """
    rule: Any = getattr(mlir._lowerings.get(primitive), "rule", None)
    if getattr(rule, "__code__", None) is _LOWERED:
        return inspect.getclosurevars(rule).nonlocals["fun"]
    run = primitive.__dict__.get("impl")
    is_default = isinstance(run, functools.partial) and run.func is dispatch.apply_primitive
    return None if is_default else run


_LOWERED = mlir.lower_fun(abs).__code__


def wrapped_function(fn: Any) -> Any | None:
    """The function behind one of JAX's wrappers that change nothing of what it computes.

    These are jit, custom derivatives, ufuncs, checkpoint and named_call; None for anything else, such
    as a vmapped function, which is a function of its own.
    """
    if isinstance(fn, (jax.custom_jvp, jax.custom_vjp)):
        return fn.fun
    if isinstance(fn, jax.numpy.ufunc):
        props = fn._ufunc__static_props  # type: ignore[attr-defined]
        return props["call"] or props["func"]
    wrapped = getattr(fn, "__wrapped__", None)
    if inspect.isfunction(fn):
        return wrapped if wrapped is not None and _is_transparent(fn) else None
    return wrapped


def _wrapped(fn: Any) -> Any | None:
    return getattr(fn, "__wrapped__", None)


TRANSPARENT = ("ad_checkpoint.py", "source_info_util.py")
"""The files of JAX's wrappers that leave a function's results as they are."""


def _is_transparent(fn: Any) -> bool:
    """Whether a Python function is JAX's wrapper of checkpoint or named_call."""
    cells = [cell.cell_contents for cell in fn.__closure__ or () if _is_filled(cell)]
    codes = [fn.__code__, *(c.__code__ for c in cells if inspect.isfunction(c))]
    return any(
        os.path.basename(code.co_filename) in TRANSPARENT and _JAX_FOLDER in code.co_filename
        for code in codes
    )


_JAX_FOLDER = os.path.dirname(jax.__file__)


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def primitive_of(fn: Any) -> Primitive | None:
    """The primitive that a function of ``jax.lax`` stands for: ``exp_p`` of ``lax.exp``."""
    name = getattr(fn, "__name__", "")
    if name in ("scan", "cond"):  # functions that call others, with signatures of their own
        return None
    for module in (jax.lax, jax.lax.linalg):
        if getattr(module, name, None) is fn:
            found = getattr(module, f"{name}_p", None)
            return found if isinstance(found, Primitive) else None
    return None


def function_description(fn: Any) -> str | None:
    """How a trace names `fn`: ``name at file:line``; None for what is no function."""
    while not inspect.isfunction(fn) or hasattr(fn, "__wrapped__"):
        if isinstance(fn, functools.partial):
            fn = fn.func
        elif (inner := wrapped_function(fn)) is not None or (inner := _wrapped(fn)) is not None:
            fn = inner
        else:
            return None
    return api_util.fun_sourceinfo(fn)


def description_in(file: str, name: str) -> str | None:
    """How a trace names a function of a file of JAX's, which need not be imported.

    None if there is none.
    """
    path = os.path.join(_JAX_FOLDER, file)
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as source:
        lines = source.read().split("\n")
    at = next((i for i, line in enumerate(lines) if line.startswith(f"def {name}(")), None)
    if at is None:
        return None
    while lines[at - 1].startswith("@"):
        at -= 1
    return f"{name} at {path}:{at + 1}"


def own_description(fn: Any) -> str | None:
    """``name at file:line`` of a Python function that wraps another, which a trace would name."""
    if not inspect.isfunction(fn) or not hasattr(fn, "__wrapped__"):
        return None
    return f"{fn.__name__} at {fn.__code__.co_filename}:{fn.__code__.co_firstlineno}"


def source_of(fn: Any) -> str:
    """``file:line`` of a function, or ``<unknown>``."""
    code = getattr(inspect.unwrap(fn), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else "<unknown>"
