"""JAX's own derivatives: the traces that take them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

from jax._src.interpreters.ad import JVPTrace, LinearizeTrace
from jax.extend.core import set_current_trace

from funcgrad._jax.values import Zero

REFUSED_FORWARD = "can't apply forward-mode autodiff (jvp) to a custom_vjp"
"""What JAX says where it is to compute a tangent by a rule that only works backward."""


def methods_of_derivatives(name: str) -> list[FunctionType]:
    """The methods of this name of the traces by which JAX differentiates."""
    return [vars(trace)[name] for trace in (JVPTrace, LinearizeTrace)]


def differentiated_by(trace: Any, values: Sequence[Any]) -> tuple[bool, ...]:
    """Which of these values have a tangent in a trace by which JAX differentiates."""
    pairs = map(trace.to_primal_tangent_pair, values)
    return tuple(type(tangent) is not Zero for _, tangent in pairs)


def with_values_from_outside(
    trace: Any, tracers: Sequence[Any], results: Sequence[Any], call: Callable[..., Sequence[Any]]
) -> list[Any]:
    """The results of a call in a trace by which JAX differentiates, with other values.

    The values are those of `call` in the trace around; the tangents remain.
    """
    with set_current_trace(trace.parent_trace):
        values = call(*(trace.to_primal_tangent_pair(x)[0] for x in tracers))
    tangents = [trace.to_primal_tangent_pair(y)[1] for y in results]
    return [
        value if type(tangent) is Zero else type(result)(trace, value, tangent)
        for result, value, tangent in zip(results, values, tangents, strict=True)
    ]
