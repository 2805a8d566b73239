"""The only file that imports from outside JAX's documented API or knows a JAX version.

Everything here is a thin name for something of JAX's that the rest of funcgrad needs: the trace
machinery, jaxprs, source information, and primitives that only some versions have.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax._src import ad_util, api_util, dtypes, linear_util
from jax._src import core as _core
from jax._src import util as _util
from jax._src.ad_checkpoint import name_p, remat_p  # noqa: F401
from jax._src.ad_util import add_any_p  # noqa: F401
from jax._src.custom_derivatives import custom_jvp_call_p, custom_vjp_call_p
from jax._src.interpreters import partial_eval
from jax._src.lax import lax
from jax._src.named_sharding import UNSPECIFIED
from jax._src.pjit import (
    jit_p,
    reshard_p,  # noqa: F401
)
from jax._src.random.core import random_clone_p, random_gamma_p  # noqa: F401
from jax._src.random.philox2x32 import philox2x32_p  # noqa: F401
from jax._src.random.philox4x32 import philox4x32_p  # noqa: F401
from jax._src.random.prng import (  # noqa: F401
    iota_2x32_shape_p,
    random_bits_p,
    random_fold_in_p,
    random_seed_p,
    random_split_p,
    random_unwrap_p,
    random_wrap_p,
)
from jax._src.random.threefry2x32 import threefry2x32_p  # noqa: F401
from jax._src.random.threefry4x32 import threefry4x32_p  # noqa: F401
from jax._src.state.types import AbstractRef
from jax.extend import source_info_util
from jax.extend.core import (
    ClosedJaxpr,
    Jaxpr,
    Literal,
    Primitive,
    set_current_trace,
    take_current_trace,
)

Trace = _core.Trace
Tracer = _core.Tracer
SymbolicZero = ad_util.SymbolicZero
Zero = ad_util.Zero
WrappedFun = linear_util.WrappedFun

__all__ = [
    "ClosedJaxpr",
    "Jaxpr",
    "Literal",
    "Primitive",
    "custom_jvp_call_p",
    "custom_vjp_call_p",
    "jit_p",
    "set_current_trace",
    "take_current_trace",
]

source_info_util.register_exclusion(os.path.dirname(__file__))

# --- traces and values ----------------------------------------------------------------------

typeof: Callable[[Any], Any] = _core.typeof
to_concrete_value: Callable[[Any], Any] = _core.to_concrete_value


def is_eager(trace: Trace) -> bool:
    """Whether operations in `trace` end up being executed at once rather than staged."""
    while not isinstance(trace, _core.EvalTrace):
        if isinstance(trace, partial_eval.DynamicJaxprTrace):
            return False
        parent = getattr(trace, "parent_trace", None)
        if parent is None:
            return False
        trace = parent
    return True


def traced_for_gradient(description: str) -> Any:
    """What JAX says of a tracer that escaped: which function it comes from."""
    return linear_util.DebugInfo("its gradient by funcgrad", description, None, None)


def current_trace() -> Trace:
    """The trace in which an operation would now be processed."""
    return _core.trace_ctx.trace


def canonicalize(x: Any) -> Any:
    """A Python or numpy value as JAX takes it (x64 or not); other values as they are."""
    return dtypes.canonicalize_value(x)


def is_array_type(x: Any) -> bool:
    """Whether JAX accepts `x` as an array or scalar."""
    try:
        typeof(canonicalize(x))
    except TypeError:
        return False
    return True


def is_inexact(aval: Any) -> bool:
    """Whether values of this type have a gradient: real or complex floating point."""
    dtype = getattr(aval, "dtype", None)
    return dtype is not None and dtypes.issubdtype(dtype, np.inexact)


def is_complex(aval: Any) -> bool:
    """Whether values of this type are complex."""
    dtype = getattr(aval, "dtype", None)
    return dtype is not None and dtypes.issubdtype(dtype, np.complexfloating)


def strong(aval: Any) -> Any:
    """The type without its weakness, so that rules are traced once for both."""
    return aval.strip_weak_type() if getattr(aval, "weak_type", False) else aval


def zeros(aval: Any) -> Any:
    """Zeros of a type, weak where it is weak."""
    return ad_util.zeros_like_aval(aval)


def as_array(x: Any) -> Any:
    """A Python scalar, numpy array or JAX value as a JAX value, weak if it is a Python scalar."""
    return lax.asarray(x)


def weak_like(ct: Any, x: Any) -> Any:
    """A real gradient with the weakness of its input, as JAX's casts leave it."""
    aval, found = typeof(x), typeof(ct)
    if found.weak_type == aval.weak_type or not dtypes.issubdtype(found.dtype, np.floating):
        return ct
    return lax._convert_element_type(ct, found.dtype, weak_type=aval.weak_type)


def is_reference(aval: Any) -> bool:
    """Whether this is the type of a mutable reference."""
    return isinstance(aval, AbstractRef)


def abstract_eval(primitive: Primitive, avals: Sequence[Any], params: dict[str, Any]) -> Any:
    """Output types of a primitive, without running it."""
    out, _ = primitive.abstract_eval(*avals, **params)
    return out


# --- jaxprs ---------------------------------------------------------------------------------


def stage(fn: Callable[..., Any], avals: Sequence[Any], name: str) -> tuple[Jaxpr, list[Any]]:
    """Trace `fn`, which maps flat values to a flat list, to a jaxpr without constants.

    Returns the jaxpr and the constants it closed over, which are its first inputs.
    """
    debug_info = linear_util.DebugInfo("funcgrad", name, None, None)
    wrapped = linear_util.wrap_init(fn, debug_info=debug_info)
    jaxpr, _, consts = partial_eval.trace_to_jaxpr_dynamic(wrapped, list(avals))
    return partial_eval.convert_constvars_jaxpr(jaxpr), list(consts)


def prune(
    jaxpr: Jaxpr, used_outputs: Sequence[bool], keep_inputs: bool | Sequence[bool] = False
) -> tuple[Jaxpr, list[bool]]:
    """Remove dead code; return the jaxpr with the inputs still used, and which those are."""
    return partial_eval.dce_jaxpr(jaxpr, list(used_outputs), instantiate=keep_inputs)


def prune_keeping_inputs(jaxpr: Jaxpr) -> Jaxpr:
    """Remove dead code, but no input."""
    return prune(jaxpr, [True] * len(jaxpr.outvars), True)[0]


def eval_jaxpr(jaxpr: Jaxpr, args: Sequence[Any]) -> list[Any]:
    """Run the operations of a jaxpr without constants in the current trace."""
    return _core.eval_jaxpr(jaxpr, (), *args)


def variables(atoms: Iterable[Any]) -> list[Any]:
    """Those of a jaxpr's atoms that are variables, not literals."""
    return [v for v in atoms if not isinstance(v, Literal)]


def eval_closed_jaxpr(
    closed: ClosedJaxpr, args: Sequence[Any], own_lines: bool = True
) -> list[Any]:
    """Run a closed jaxpr's operations in the current trace, at their own source lines or here."""
    return _core.eval_jaxpr(closed.jaxpr, closed.consts, *args, propagate_source_info=own_lines)


def eval_equations(eqns: Sequence[Any], known: dict[Any, Any], wanted: Sequence[Any]) -> list[Any]:
    """Run some equations of a jaxpr on known values of variables; return wanted variables."""

    def read(v: Any) -> Any:
        return v.val if isinstance(v, Literal) else known[v]

    for eqn in eqns:
        params = eqn.primitive.get_bind_params(eqn.params)
        with eqn.ctx.manager:
            out = eqn.primitive.bind(*map(read, eqn.invars), **params)
        outs = out if eqn.primitive.multiple_results else [out]
        known.update(zip(eqn.outvars, outs, strict=True))
    return [read(v) for v in wanted]


def without_inner_jits(jaxpr: Jaxpr) -> Jaxpr:
    """A jaxpr without constants whose jitted calls are inlined, to any depth."""

    def run(jaxpr: Jaxpr, args: Sequence[Any]) -> list[Any]:
        known = dict(zip(jaxpr.invars, args, strict=True))
        for eqn in jaxpr.eqns:
            if eqn.primitive is jit_p:
                inner = eqn.params["jaxpr"]
                given = [v.val if isinstance(v, Literal) else known[v] for v in eqn.invars]
                closed = convert_consts(inner)
                known.update(zip(eqn.outvars, run(closed, [*inner.consts, *given]), strict=True))
            else:
                eval_equations([eqn], known, ())
        return [v.val if isinstance(v, Literal) else known[v] for v in jaxpr.outvars]

    name = jaxpr.debug_info.func_src_info
    avals = [v.aval for v in jaxpr.invars]
    inlined, consts = stage(lambda *args: run(jaxpr, args), avals, name)
    if consts:
        return jaxpr
    return inlined


def convert_consts(closed: ClosedJaxpr) -> Jaxpr:
    """The jaxpr of a closed one with its constants as its first inputs."""
    return partial_eval.convert_constvars_jaxpr(closed.jaxpr)


def is_saved_by(policy: Any, eqn: Any) -> bool:
    """Whether a checkpoint policy saves (or offloads) the outputs of an equation."""
    if policy is None:
        return False
    case = policy(eqn.primitive, *[v.aval for v in eqn.invars], **eqn.params)
    return case is True or isinstance(case, (partial_eval.SaveableType, partial_eval.Offloadable))


def close(jaxpr: Jaxpr) -> ClosedJaxpr:
    """A jaxpr without constants as a closed one (one and the same from JAX 0.11)."""
    return jaxpr if isinstance(jaxpr, ClosedJaxpr) else ClosedJaxpr(jaxpr, ())


def function_of(closed: ClosedJaxpr) -> str:
    """How the function that `closed` was traced from is named: ``name at file:line``."""
    return closed.jaxpr.debug_info.func_src_info


def jitted(closed: ClosedJaxpr, name: str) -> Callable[..., list[Any]]:
    """A jitted function that runs `closed`, shown as `name` in profiles."""

    def run(*args: Any) -> list[Any]:
        return eval_closed_jaxpr(closed, args)

    run.__name__ = run.__qualname__ = name
    return jax.jit(run)


def is_inlined(params: dict[str, Any]) -> bool:
    """Whether a jitted call is to be inlined as soon as it is traced (an enumeration from 0.12)."""
    inline = params["inline"]
    return inline is True or getattr(inline, "name", "") == "JAX_EARLY"


def has_settings(params: dict[str, Any]) -> bool:
    """Whether a jitted call carries shardings, layouts or compiler options of its own."""
    shardings = (*params["in_shardings"], *params["out_shardings"])
    layouts = (*params["in_layouts"], *params["out_layouts"])
    return (
        any(s is not UNSPECIFIED for s in shardings)
        or any(layout is not None for layout in layouts)
        or bool(params["compiler_options_kvs"])
    )


def bind_jit(
    closed: ClosedJaxpr, args: Sequence[Any], params: dict[str, Any], shared: bool
) -> list[Any]:
    """Call `closed` as a jitted function with the settings of another.

    If `shared`, the other's inputs are its last and the other's outputs its first.
    """
    in_kept = len(params["in_shardings"]) if shared else 0
    out_kept = len(params["out_shardings"]) if shared else 0
    num_in, num_out = len(closed.in_avals), len(closed.out_avals)

    def inputs(name: str, neutral: Any) -> tuple[Any, ...]:
        return (*(neutral,) * (num_in - in_kept), *params[name][:in_kept])

    def outputs(name: str, neutral: Any) -> tuple[Any, ...]:
        return (*params[name][:out_kept], *(neutral,) * (num_out - out_kept))

    own = {
        "jaxpr": closed,
        "in_shardings": inputs("in_shardings", UNSPECIFIED),
        "in_layouts": inputs("in_layouts", None),
        "out_shardings": outputs("out_shardings", UNSPECIFIED),
        "out_layouts": outputs("out_layouts", None),
        "donated_invars": (False,) * num_in,
        "keep_unused": False,
    }
    return jit_p.bind(*args, **{**params, **own})


def scan_settings(params: dict[str, Any]) -> tuple[int, int, int, bool, Any]:
    """Numbers of constants and carries, length, direction and unrolling of a scan."""
    if "ft_in" in params:  # JAX from 0.11
        num_consts, num_carry, _ = (len(list(part)) for part in params["ft_in"].unpack())
    else:
        num_consts, num_carry = params["num_consts"], params["num_carry"]
    return num_consts, num_carry, params["length"], params["reverse"], params["unroll"]


# --- caches ---------------------------------------------------------------------------------

cache: Callable[..., Any] = partial(_util.cache, max_size=8192)
"""A bounded cache whose key includes JAX's own settings; ``jax.clear_caches`` empties it."""

weak_cache: Callable[..., Any] = _util.weakref_lru_cache
"""The same, holding the first argument weakly."""

# --- custom derivatives ---------------------------------------------------------------------


def instantiate(ct: Any, aval: Any, symbolic: bool) -> Any:
    """What a user's custom rule is given for a cotangent or tangent: zeros where none came."""
    if ct is not None:
        return ct
    return SymbolicZero(aval) if symbolic else zeros(aval)


def call_custom_vjp_backward(
    bwd: WrappedFun, residuals: Any, cts: Sequence[Any], avals: Sequence[Any], symbolic: bool
) -> list[Any]:
    """A custom_vjp's input cotangents, None for a zero.

    JAX from 0.11 makes zeros itself of cotangents that did not arrive, and returns a log as well.
    """
    since_11 = jax.__version_info__ >= (0, 11)
    given = [
        instantiate(ct, aval, symbolic or since_11) for ct, aval in zip(cts, avals, strict=True)
    ]
    results = bwd.call_wrapped(*residuals, *given)
    if since_11:
        results, _ = results
    return [None if isinstance(ct, Zero) else ct for ct in results]


def tangent_aval(x: Any) -> Any:
    """The type of a tangent or cotangent of the value or type `x` (float0 for integers)."""
    aval = x if isinstance(x, _core.AbstractValue) else typeof(x)
    return aval.to_tangent_aval()


def description_of_wrapped(fun: WrappedFun) -> str:
    """How the function behind a custom derivative is named: ``name at file:line``."""
    return fun.debug_info.func_src_info


# --- source information ---------------------------------------------------------------------

current_source: Callable[[], Any] = source_info_util.current


def where(source: Any) -> str | None:
    """``file:line (function)`` of the user's frame, if there is one."""
    return source_info_util.summarize(source) or None


def current_where() -> str | None:
    """``file:line (function)`` of the user's frame that the current operation comes from."""
    return where(current_source())


def here() -> str:
    """``file:line (function)`` of the user's frame that is running."""
    with source_info_util.user_context(None):
        return where(current_source()) or "<unknown line>"


# --- ops ------------------------------------------------------------------------------------


def primitive(name: str) -> Primitive | None:
    """A primitive of ``jax.lax`` by name, or None where this JAX version lacks it."""
    return getattr(jax.lax, name, None)


def function_description(fn: Any) -> str | None:
    """How a trace names `fn`: ``name at file:line``; None for what is no function."""
    while not inspect.isfunction(fn):
        if isinstance(fn, partial):
            fn = fn.func
        elif isinstance(fn, (jax.custom_jvp, jax.custom_vjp)):
            fn = fn.fun
        elif hasattr(fn, "__wrapped__"):
            fn = fn.__wrapped__
        else:
            return None
    return api_util.fun_sourceinfo(fn)


def source_of(fn: Any) -> str:
    """``file:line`` of a function, or ``<unknown>``."""
    code = getattr(inspect.unwrap(fn), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else "<unknown>"
