"""Jaxprs: made, pruned, run; and caches of what is made of them."""

from __future__ import annotations

import inspect
import operator
import os
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
from jax._src import config, linear_util
from jax._src import core as _core
from jax._src import util as _util
from jax._src.custom_derivatives import custom_jvp_call_p, custom_vjp_call_p
from jax._src.interpreters import mlir, partial_eval
from jax._src.interpreters.ad import custom_lin_p
from jax._src.pjit import jit_p
from jax._src.state.discharge import discharge_state
from jax._src.state.types import AbstractRef
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Primitive

from funcgrad._jax.places import bind_equation, in_place_of
from funcgrad._jax.types import Atom, Aval, Equation, Value, Var

if TYPE_CHECKING:
    from typing_extensions import TypeIs


_TRACE = inspect.unwrap(partial_eval.trace_to_jaxpr_dynamic)
"""Without the frame of JAX's profiler: the frames of nested jitted functions add up."""


def stage(fn: Callable[..., Any], avals: Sequence[Any], name: str) -> tuple[Jaxpr, list[Any]]:
    """Trace `fn`, which maps flat values to a flat list, to a jaxpr without constants.

    Returns the jaxpr and the constants it closed over, which are its first inputs.
    """
    debug_info = linear_util.DebugInfo("funcgrad", name, None, None)
    wrapped = linear_util.wrap_init(fn, debug_info=debug_info)
    with config.mutable_array_checks(False):  # a residual may be a reference
        jaxpr, _, consts = _TRACE(wrapped, list(avals))
    jaxpr, more = without_own_references(partial_eval.convert_constvars_jaxpr(jaxpr))
    return jaxpr, [*more, *consts]


def stage_closed(fn: Callable[..., Any], avals: Sequence[Any], name: str) -> ClosedJaxpr:
    """The same as a closed jaxpr, in which constants have their values."""
    return close_over(*stage(fn, avals, name))


def close_over(jaxpr: Jaxpr, consts: Sequence[Any]) -> ClosedJaxpr:
    """A jaxpr whose first inputs are these constants, as a closed one."""
    invars = jaxpr.invars
    jaxpr = jaxpr.replace(constvars=invars[: len(consts)], invars=invars[len(consts) :])
    return with_consts(jaxpr, consts)


def prune(
    jaxpr: Jaxpr, used_outputs: Sequence[bool], keep_inputs: bool | Sequence[bool] = False
) -> tuple[Jaxpr, list[bool]]:
    """Remove dead code; return the jaxpr with the inputs still used, and which those are."""
    returns_references = any(isinstance(type_of(v), AbstractRef) for v in jaxpr.outvars)
    with jax.enable_checks(False) if returns_references else nullcontext():  # it is a residual
        return partial_eval.dce_jaxpr(jaxpr, list(used_outputs), instantiate=keep_inputs)


def prune_keeping_inputs(jaxpr: Jaxpr) -> Jaxpr:
    """Remove dead code, but no input."""
    return prune(jaxpr, [True] * len(jaxpr.outvars), True)[0]


def eval_jaxpr(jaxpr: Jaxpr, args: Sequence[Any]) -> list[Any]:
    """Run the operations of a jaxpr without constants in the current trace, each at its own line."""
    return _core.eval_jaxpr(jaxpr, (), *args)


def is_literal(v: Atom) -> TypeIs[Literal]:
    """Whether an operand or a result in a jaxpr is no variable but a number."""
    return isinstance(v, Literal)


def shown_literal(v: Literal) -> str:
    """A number in a jaxpr as Python writes it: ``1.5``."""
    return str(v.val.item() if hasattr(v.val, "item") else v.val + 0)


def type_of(v: Atom) -> Aval:
    """The type of an operand or a result."""
    return v.aval


def variables(atoms: Iterable[Atom]) -> list[Var]:
    """Those of a jaxpr's operands or results that are variables."""
    return [v for v in atoms if not is_literal(v)]


def read(atoms: Iterable[Atom], known: Mapping[Var, Value]) -> list[Value]:
    """Operands or results: the variables' values as known, the literals as they are."""
    return [v.val if is_literal(v) else known[v] for v in atoms]


def eval_closed_jaxpr(
    closed: ClosedJaxpr, args: Sequence[Any], own_lines: bool = True
) -> list[Any]:
    """Run a closed jaxpr's operations in the current trace, at their own source lines or here."""
    return _core.eval_jaxpr(closed.jaxpr, closed.consts, *args, propagate_source_info=own_lines)


def runner(closed: ClosedJaxpr) -> Callable[..., list[Any]]:
    """The function that runs a closed jaxpr's operations, with no frame of its own on Python's stack."""
    return partial(_core.eval_jaxpr, closed.jaxpr, closed.consts)


def eval_equations(
    eqns: Sequence[Equation], known: dict[Var, Value], wanted: Sequence[Atom]
) -> list[Value]:
    """Run some equations of a jaxpr on known values of variables; return wanted variables."""
    known.update(values_of(eqns, known))
    return read(wanted, known)


def values_of(eqns: Sequence[Equation], known: MutableMapping[Var, Value]) -> dict[Var, Value]:
    """The values of the variables that some equations of a jaxpr compute."""
    found: dict[Var, Value] = {}
    everything = ChainMap(found, known)
    for eqn in eqns:
        args = read(eqn.invars, everything)
        with in_place_of(eqn):
            if eqn.primitive is _core.closed_call_p:
                outs = eval_closed_jaxpr(eqn.params["call_jaxpr"], args)
            else:
                outs = bind_equation(eqn, args)
        found.update(zip(eqn.outvars, outs, strict=True))
    return found


def equations_of_call(eqn: Equation) -> tuple[list[Equation], dict[Var, Atom]]:
    """The equations of a jitted call, with variables of their own, and what each result then is."""
    closed = eqn.params["jaxpr"]
    jaxpr, consts = stage(lambda *args: eval_closed_jaxpr(closed, args), closed.in_avals, "call")
    if consts:
        return [eqn], {v: v for v in eqn.outvars}
    given = dict(zip(jaxpr.invars, eqn.invars, strict=True))
    eqns = [inner.replace(invars=renamed(inner.invars, given)) for inner in jaxpr.eqns]
    return eqns, dict(zip(eqn.outvars, renamed(jaxpr.outvars, given), strict=True))


def renamed(atoms: Iterable[Atom], names: Mapping[Var, Atom]) -> list[Atom]:
    """Operands with other names for some variables."""
    return [v if is_literal(v) else names.get(v, v) for v in atoms]


def convert_consts(closed: ClosedJaxpr) -> Jaxpr:
    """The jaxpr of a closed one with its constants as its first inputs."""
    return partial_eval.convert_constvars_jaxpr(closed.jaxpr)


def close(jaxpr: Jaxpr | ClosedJaxpr) -> ClosedJaxpr:
    """A jaxpr without constants as a closed one (one and the same from JAX 0.11)."""
    return jaxpr if isinstance(jaxpr, ClosedJaxpr) else ClosedJaxpr(jaxpr, ())


def with_consts(jaxpr: Jaxpr, consts: Sequence[Any]) -> ClosedJaxpr:
    """A jaxpr closed over the values of its constants."""
    bind: Any = getattr(jaxpr, "with_consts", None)  # from JAX 0.11
    if bind is not None:
        return bind(consts)
    return ClosedJaxpr(jaxpr, consts)


def function_of(closed: ClosedJaxpr) -> str:
    """How the function that `closed` was traced from is named: ``name at file:line``."""
    return closed.jaxpr.debug_info.func_src_info


def searches_for_minimum(body: ClosedJaxpr) -> bool:
    """Whether this is the body of a loop of ``jax.scipy.optimize.minimize``."""
    path = function_of(body).partition(" at ")[2].rpartition(":")[0]
    return os.path.dirname(path) == _OPTIMIZE


_OPTIMIZE = os.path.join(os.path.dirname(jax.__file__), "_src", "scipy", "optimize")


def jitted(closed: ClosedJaxpr, name: str) -> Callable[..., list[Any]]:
    """A jitted function that runs `closed`, shown as `name` in profiles."""

    def run(*args: Any) -> list[Any]:
        return eval_closed_jaxpr(closed, args)

    run.__name__ = run.__qualname__ = name
    return jax.jit(run)


def function_carried(prim: Any) -> ClosedJaxpr | None:
    """The user's function in a primitive with methods, as custom_vjp and checkpoint may make one."""
    traced = getattr(prim, "traced", None)
    found = getattr(prim, "jaxpr", None) if traced is None else traced.jaxpr
    if isinstance(found, Jaxpr):
        return close(found)
    return found if isinstance(found, ClosedJaxpr) else None


def carried_functions(params: dict[str, Any]) -> list[Jaxpr | ClosedJaxpr]:
    """The jaxprs among an operation's params, with their constants where they have some."""
    values = [function_carried(params["_prim"])] if "_prim" in params else params.values()
    groups = [v if isinstance(v, (tuple, list)) else (v,) for v in values]
    return [v for group in groups for v in group if isinstance(v, (Jaxpr, ClosedJaxpr))]


def inner_jaxprs(params: dict[str, Any]) -> list[Jaxpr]:
    """The jaxprs among an operation's params."""
    found = carried_functions(params)
    return [v.jaxpr if isinstance(v, ClosedJaxpr) else v for v in found]


def with_inner_jaxprs(params: dict[str, Any], change: Callable[[Jaxpr], Jaxpr]) -> dict[str, Any]:
    """An operation's params with changed jaxprs among them: its own, if nothing changes."""

    def inside(value: Any) -> Any:
        if isinstance(value, Jaxpr):
            return change(value)
        if isinstance(value, ClosedJaxpr):
            inner = change(value.jaxpr)
            return value if inner is value.jaxpr else value.replace(jaxpr=inner)
        if isinstance(value, tuple) and any(isinstance(x, (Jaxpr, ClosedJaxpr)) for x in value):
            parts = tuple(map(inside, value))
            if all(map(operator.is_, parts, value)):
                return value
            return type(value)(*parts) if hasattr(value, "_fields") else parts
        return value

    changed = {name: inside(value) for name, value in params.items()}
    same = all(changed[name] is value for name, value in params.items())
    return params if same else changed


def without_own_references(jaxpr: Jaxpr) -> tuple[Jaxpr, list[Any]]:
    """A jaxpr whose references of its own are values; it has the returned constants first."""
    if _core.internal_mutable_array_effect not in jaxpr.effects:
        return jaxpr, []
    pure = discharged(jaxpr, [False] * len(jaxpr.invars))
    return convert_consts(pure), list(pure.consts)


def discharged(jaxpr: Jaxpr, which: Sequence[bool]) -> ClosedJaxpr:
    """The jaxpr with values for its own references and for `which` inputs.

    What those inputs hold in the end are its last outputs. JAX replaces functions with a derivative of
    their own by their bodies meanwhile, so they are put aside where they are given no references.
    """
    hidden = _with_equations(jaxpr, _put_aside)
    pure = discharge_state(close(hidden), should_discharge=tuple(which))
    return with_consts(_with_equations(pure.jaxpr, _put_back), pure.consts)


def _with_equations(jaxpr: Jaxpr, change: Callable[[Equation], Equation | None]) -> Jaxpr:
    """A jaxpr in which equations are changed, at any depth; None goes on inside the equation."""

    def inside(value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return type(value)(map(inside, value)) if type(value) in (tuple, list) else value
        if isinstance(value, Jaxpr):  # a closed one too, from JAX 0.11
            return _with_equations(value, change)
        return value.map_jaxpr(inside) if isinstance(value, ClosedJaxpr) else value

    def changed(eqn: Equation) -> Equation:
        params = {name: inside(value) for name, value in eqn.params.items()}
        return change(eqn) or eqn.replace(params=params)

    return jaxpr.replace(eqns=[changed(eqn) for eqn in jaxpr.eqns])


@dataclass(frozen=True, eq=False)
class Aside:
    """A call that is put aside: its primitive and params, the types of its outputs, its effects."""

    primitive: Any
    params: dict[str, Any]
    avals: tuple[Aval, ...]
    effects: Any


aside_p = Primitive("put_aside")
aside_p.multiple_results = True
aside_p.def_effectful_abstract_eval(lambda *_, aside: (aside.avals, aside.effects))


def _put_aside(eqn: Equation) -> Equation | None:
    if not has_own_derivative(eqn) or is_given_references(eqn):
        return None
    avals = tuple(v.aval for v in eqn.outvars)
    aside = Aside(eqn.primitive, eqn.params, avals, eqn.effects)
    return eqn.replace(primitive=aside_p, params={"aside": aside})


def _put_back(eqn: Equation) -> Equation | None:
    if eqn.primitive is not aside_p:
        return None
    aside = eqn.params["aside"]
    return eqn.replace(primitive=aside.primitive, params=aside.params)


def has_own_derivative(eqn: Equation) -> bool:
    """Whether an equation calls a function with a derivative of its own."""
    return eqn.primitive in (custom_jvp_call_p, custom_vjp_call_p) or "_prim" in eqn.params


def is_given_references(eqn: Equation) -> bool:
    """Whether a reference is among an equation's operands."""
    return any(isinstance(type_of(v), AbstractRef) for v in eqn.invars)


cache: Callable[..., Any] = partial(_util.cache, max_size=8192)
"""A bounded cache whose key includes JAX's own settings; ``jax.clear_caches`` empties it."""


def is_hashable(key: Any) -> bool:
    """Whether a cache can keep something under this key."""
    try:
        hash(key)
    except TypeError:
        return False
    return True


weak_cache: Callable[..., Any] = _util.weakref_lru_cache
"""The same, holding the first argument weakly."""


FUNCTIONS = {
    jit_p: "jaxpr",
    custom_jvp_call_p: "call_jaxpr",
    custom_vjp_call_p: "call_jaxpr",
}
"""Primitives that call a function as jit and custom derivatives do, with the param that holds it."""


def called_function(eqn: Any) -> str | None:
    """How the function is named that an equation calls as jit and custom derivatives do."""
    if "_prim" in eqn.params:
        carried = function_carried(eqn.params["_prim"])
        return None if carried is None else function_of(carried)
    if eqn.primitive is custom_lin_p:
        return eqn.params["bwd"].debug_info.func_src_info
    name = FUNCTIONS.get(eqn.primitive)
    return None if name is None else function_of(eqn.params[name])


def compiles(jaxpr: Jaxpr) -> bool:
    """Whether each primitive of a jaxpr, at any depth, has a lowering for some platform."""
    tables = [mlir._lowerings, *mlir._platform_specific_lowerings.values()]
    own = (any(eqn.primitive in table for table in tables) for eqn in jaxpr.eqns)
    return all(own) and all(compiles(j) for eqn in jaxpr.eqns for j in inner_jaxprs(eqn.params))


def called_functions(jaxpr: Jaxpr) -> set[str]:
    """How all functions are named that a jaxpr calls so, at any depth."""
    found = {name for eqn in jaxpr.eqns if (name := called_function(eqn))}
    return found.union(
        *(called_functions(j) for eqn in jaxpr.eqns for j in inner_jaxprs(eqn.params))
    )
