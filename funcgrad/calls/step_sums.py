"""How an operation is summed over the steps of a loop, from stacks of its operands.

| a step adds (zeros first)             | after the loop, all steps add                          |
|---------------------------------------|--------------------------------------------------------|
| dot_general(x_t, y_t)                 | one product: the steps are one more axis to contract   |
| reduce_sum(x_t)                       | one sum: the steps are one more axis to add up         |
| scatter_add(0, i_t, u_t)              | one scatter: the steps are one more axis of updates    |
| dynamic_update_slice(0, u_t, i_t)     | one scatter of whole windows                           |

`SUMS` is this table. `LINEAR` lists the operations that may stand between such an operation and the sum,
since they can as well be applied to the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

from funcgrad import _jax
from funcgrad._jax import Atom, Equation, Mask, Primitive, Value, Var, is_literal, variables
from funcgrad.rules.linear import product


def product_over_steps(eqn: Equation, values: Sequence[Value], stacked: Mask) -> Value:
    """sum_t dot(x_t, y_t): the steps are one more axis to contract over."""
    x, y = values
    params = dict(eqn.params)
    if not all(stacked):
        x, y = (v.sum(0) if there else v for v, there in zip(values, stacked, strict=True))
        return lax.dot_general(x, y, **params)
    (x_summed, y_summed), batch = params.pop("dimension_numbers")
    x_batch, y_batch = ([axis + 1 for axis in axes] for axes in batch)
    pairs = [(i + 1, j + 1) for i, j in zip(x_summed, y_summed, strict=True)]
    summed = [0, *(i for i, _ in pairs)], [0, *(j for _, j in pairs)]
    return product(x, y, (summed, (x_batch, y_batch)), **params)


def sum_over_steps(eqn: Equation, values: Sequence[Value], stacked: Mask) -> Value:
    """sum_t sum(x_t)"""
    return values[0].sum((0, *(axis + 1 for axis in eqn.params["axes"])))


def scatter_over_steps(eqn: Equation, values: Sequence[Value], stacked: Mask) -> Value:
    """sum_t scatter(0, i_t, u_t): the steps are one more axis of indices and updates."""
    indices, updates = values
    dims = eqn.params["dimension_numbers"]
    if all(stacked):
        dims = dims._replace(
            update_window_dims=tuple(i + 1 for i in dims.update_window_dims),
            scatter_indices_batching_dims=tuple(i + 1 for i in dims.scatter_indices_batching_dims),
        )
    else:
        updates = updates.sum(0)
    return _scattered(eqn, indices, updates, dims, eqn.params["mode"])


def windows_over_steps(eqn: Equation, values: Sequence[Value], stacked: Mask) -> Value:
    """sum_t of zeros in which u_t stands at i_t: a scatter of whole windows."""
    updates, *starts = values
    axes = tuple(range(len(starts)))
    columns = [jax.numpy.broadcast_to(start, updates.shape[:1]) for start in starts]
    dims = lax.ScatterDimensionNumbers(tuple(i + 1 for i in axes), (), axes)
    indices = jax.numpy.stack(columns, axis=-1)
    return _scattered(eqn, indices, updates, dims, lax.GatherScatterMode.CLIP)


def _scattered(
    eqn: Equation, indices: Value, updates: Value, dims: lax.ScatterDimensionNumbers, mode: Any
) -> Value:
    """All updates added into zeros of the equation's result, in a type that is wide enough."""
    aval = _jax.type_of(eqn.outvars[0])
    into = _jax.strong_zeros(aval).astype(_wide(aval.dtype))
    total = lax.scatter_add(into, indices, updates.astype(into.dtype), dims, mode=mode)
    return total.astype(aval.dtype)


def _wide(dtype: Any) -> Any:
    """The type to add many numbers in."""
    return np.float32 if jax.numpy.finfo(dtype).bits < 32 else dtype


class OverSteps(NamedTuple):
    """How an operation is summed over the steps.

    Attributes:
      first: the first operand that the sum reads; the operand before it must be zeros.
      total: (equation, the operands' values, which of those are stacks) -> the sum.
    """

    first: int
    total: Callable[[Equation, Sequence[Value], Mask], Value]


SUMS: dict[Primitive, OverSteps] = {
    lax.dot_general_p: OverSteps(0, product_over_steps),
    lax.reduce_sum_p: OverSteps(0, sum_over_steps),
    lax.scatter_add_p: OverSteps(1, scatter_over_steps),
    lax.dynamic_update_slice_p: OverSteps(1, windows_over_steps),
}

LINEAR = frozenset(
    {
        *(lax.transpose_p, lax.reshape_p, lax.squeeze_p, lax.neg_p, lax.mul_p),
        *(lax.broadcast_in_dim_p, lax.convert_element_type_p, lax.slice_p, lax.split_p, lax.rev_p),
        _jax.held_p,
    }
)
"""Linear in one operand, if the others are literals. Division and padding are, in the first operand."""


def linear_operand(eqn: Equation) -> Var | None:
    """The operand in which an equation is linear, all others being literals; None if there is none."""
    operands = variables(eqn.invars)
    if len(operands) != 1 or not _jax.has_numbers(operands[0].aval):
        return None
    first, *others = eqn.invars
    divides = eqn.primitive is lax.div_p and first is operands[0]
    pads = eqn.primitive is lax.pad_p and first is operands[0] and not _value_of(others[0])
    return operands[0] if eqn.primitive in LINEAR or divides or pads else None


def _value_of(v: Atom) -> Value:
    return v.val if is_literal(v) else None


def can_be_late(eqn: Equation, producer: Mapping[Var, Equation]) -> bool:
    """Whether the steps' results of an equation can be computed at once, after the loop.

    The operation is one of `SUMS`, is not sharded, and writes into zeros if it writes into something.
    """
    types = map(_jax.type_of, (*eqn.invars, *eqn.outvars))
    if eqn.primitive not in SUMS or any(map(_jax.is_sharded, types)):
        return False
    if not SUMS[eqn.primitive].first:
        return True
    into = eqn.invars[0]
    made = None if is_literal(into) else producer.get(into)
    if made is None or made.primitive is not lax.broadcast_in_dim_p:
        return False
    value = made.invars[0]
    return is_literal(value) and not value.val
