"""A traced program run again where it is asked for: its equations are copied, or its operations run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax._src import core as _core
from jax._src.interpreters import partial_eval
from jax.extend import source_info_util
from jax.extend.core import Jaxpr

from funcgrad._jax.jaxprs import weak_cache
from funcgrad._jax.types import Var


def run_here(jaxpr: Jaxpr, args: Sequence[Any]) -> list[Any]:
    """Run the operations of a jaxpr without constants as if they were written on the current line.

    In a trace of JAX's the equations are copied where nothing about them is new. To run each operation
    would find each type again: the trace of twelve transformer layers makes 7 % more calls then.
    """
    trace = _core.trace_ctx.trace
    if isinstance(trace, partial_eval.DynamicJaxprTrace):
        context = _core.current_jaxpr_eqn_context()
        if context is _only_context(jaxpr) and _have_types(args, jaxpr.invars):
            return _copied(jaxpr, trace, args)
    return _core.eval_jaxpr(jaxpr, (), *args, propagate_source_info=False)


def _copied(jaxpr: Jaxpr, trace: Any, args: Sequence[Any]) -> list[Any]:
    source = source_info_util.current()
    tracers = [trace.to_jaxpr_tracer(arg, source_info=source) for arg in args]
    return partial_eval.inline_jaxpr_into_trace(trace, source, jaxpr, (), *tracers)


@weak_cache
def _only_context(jaxpr: Jaxpr) -> Any:
    """The settings in which all of a jaxpr's equations were traced.

    None if there are several, or if an operation must be run: JAX has an own way to trace it, or it has
    effects.
    """
    contexts = {eqn.ctx for eqn in jaxpr.eqns}
    runs = any(
        eqn.effects or eqn.primitive in partial_eval.custom_staging_rules for eqn in jaxpr.eqns
    )
    return contexts.pop() if len(contexts) == 1 and not runs else None


def _have_types(values: Sequence[Any], variables: Sequence[Var]) -> bool:
    return all(_core.typeof(x) == v.aval for x, v in zip(values, variables, strict=True))
