"""The identity by which a value is tapped: a primitive, since a trace may hold thousands."""

from __future__ import annotations

from typing import Any

from jax._src.interpreters import batching, mlir
from jax._src.interpreters.ad import primitive_jvps
from jax.extend.core import ClosedJaxpr, Primitive

from funcgrad._jax.jaxprs import renamed, with_consts
from funcgrad._jax.types import Atom, Equation, Var

tap_p = Primitive("tap")
"""``tap(x, sink) = x``. The rule in ``rules.effects`` gives its cotangent to the sink as well."""

tap_p.def_impl(lambda x, sink: x)
tap_p.def_abstract_eval(lambda x, sink: x)
mlir.register_lowering(tap_p, lambda ctx, x, sink: [x])


def without_taps(closed: ClosedJaxpr) -> ClosedJaxpr:
    """A program in which no operation of its own, but for those inside calls, is a tap."""
    names: dict[Var, Atom] = {}
    eqns: list[Equation] = []
    for eqn in closed.jaxpr.eqns:
        read = renamed(eqn.invars, names)
        if eqn.primitive is tap_p:
            names[eqn.outvars[0]] = read[0]
        else:
            eqns.append(eqn.replace(invars=read))
    outvars = renamed(closed.jaxpr.outvars, names)
    return with_consts(closed.jaxpr.replace(eqns=eqns, outvars=outvars), closed.consts)


def _batch(values: Any, axes: Any) -> tuple[Any, Any]:
    """Of a batch, `x` with its axis; a sink is read by the walk back alone."""
    return values[0], axes[0]


def _jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    """The tangent of `x`: of the value, the sink is no part."""
    return tap_p.bind(*primals), tangents[0]


batching.primitive_batchers[tap_p] = _batch
primitive_jvps[tap_p] = _jvp
