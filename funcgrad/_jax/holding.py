"""The identity that asks XLA to write a value, and not to compute it in each kernel that reads it.

XLA has an operation that does so: a constraint on a value's layout stands in the way of fusion, and is
gone from the compiled program. (XLA for CPUs drops optimisation barriers before it fuses.) It is used
where it was measured, on one CPU. A program for several devices, or one that is exported, does without.
"""

from __future__ import annotations

from typing import Any

from jax._src.interpreters import batching, mlir
from jax._src.interpreters.ad import primitive_jvps, primitive_transposes
from jax._src.sharding_impls import ShardingContext
from jax.experimental.layout import Layout
from jax.extend.core import Primitive

from funcgrad._jax.values import Zero

held_p = Primitive("held")
"""``held(x) = x``."""

held_p.def_impl(lambda x: x)
held_p.def_abstract_eval(lambda x: x)


def _lower(ctx: Any, x: Any) -> list[Any]:
    """A constraint to the layout that XLA gives an array anyway, in which the last axis is densest."""
    module = ctx.module_context
    where = module.axis_context
    alone = isinstance(where, ShardingContext) and where.num_devices == 1
    if module.lowering_parameters.for_export or not alone or tuple(module.platforms) != ("cpu",):
        return [x]
    (aval,) = ctx.avals_in
    layout = Layout(tuple(range(aval.ndim)))
    return [mlir.wrap_with_layout_op(ctx, x, aval, layout, aval)]


def _batch(values: Any, axes: Any) -> tuple[Any, Any]:
    return held_p.bind(*values), axes[0]


def _jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    return held_p.bind(*primals), tangents[0]


def _transpose(ct: Any, x: Any) -> tuple[Any]:
    return (ct if isinstance(ct, Zero) else held_p.bind(ct),)


mlir.register_lowering(held_p, _lower)
batching.primitive_batchers[held_p] = _batch
primitive_jvps[held_p] = _jvp
primitive_transposes[held_p] = _transpose
