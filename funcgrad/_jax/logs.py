"""What backward functions log: an identity in the backward program holds it, until someone asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax._src.interpreters import batching, mlir
from jax._src.interpreters.ad import primitive_jvps
from jax._src.lax.control_flow import conditionals
from jax.extend.core import Primitive
from jax.tree_util import tree_flatten, tree_unflatten

from funcgrad._jax.types import Cotangent
from funcgrad._jax.values import as_array, is_array, is_array_type

log_p = Primitive("log_backward")
"""``log_backward(*cts, *logged) = cts``; the param `tree` is that of the dict that is logged."""

log_p.multiple_results = True
log_p.def_impl(lambda *values, count, tree: list(values[:count]))
log_p.def_abstract_eval(lambda *avals, count, tree: list(avals[:count]))
mlir.register_lowering(log_p, lambda ctx, *values, count, tree: list(values[:count]))


def _batch(values: Any, axes: Any, *, count: int, tree: Any) -> tuple[Any, Any]:
    """Of a batch, what is logged has its axis in front."""
    logged = [
        x if axis is None else jnp.moveaxis(x, axis, 0)
        for x, axis in zip(values[count:], axes[count:], strict=True)
    ]
    return log_p.bind(*values[:count], *logged, count=count, tree=tree), list(axes[:count])


def _jvp(primals: Any, tangents: Any, *, count: int, tree: Any) -> tuple[Any, Any]:
    """The tangents of the cotangents: of these, what is logged is no part."""
    return log_p.bind(*primals, count=count, tree=tree), list(tangents[:count])


batching.primitive_batchers[log_p] = _batch
primitive_jvps[log_p] = _jvp


def logged(cts: Sequence[Cotangent], log: dict[Any, Any] | None) -> list[Cotangent]:
    """Cotangents that carry with them what the backward function that made them logs."""
    places = [i for i, ct in enumerate(cts) if ct is not None and is_array(ct)]
    if not log or not places:
        return list(cts)
    leaves, tree = tree_flatten(log)
    leaves = [as_array(x) if is_array_type(x) else x for x in leaves]
    found = log_p.bind(*(cts[i] for i in places), *leaves, count=len(places), tree=tree)
    results = list(cts)
    for i, ct in zip(places, found, strict=True):
        results[i] = ct
    return results


def log_of(operands: Sequence[Any], count: int, tree: Any) -> tuple[list[Any], dict[Any, Any]]:
    """The cotangents that pass a `log_p` with these operands, and what is logged there."""
    return list(operands[:count]), tree_unflatten(tree, operands[count:])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _CondSum:
    """What was logged in a cond.

    Attributes:
      index: of the branch that was taken.
      branches: what each branch logged; zeros where it was not taken, None where it logs nothing.
    """

    index: Any
    branches: list[Any]


CondSum: Any = getattr(conditionals, "CondSum", _CondSum)  # from JAX 0.12
