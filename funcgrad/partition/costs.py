"""What it costs to keep a value, and to compute it again: the one table.

CHEAP says what may always be computed again. Loops and branches may compute again some more, REPEATABLE,
at a price in bytes an operation; with a memory budget everything without an effect may be.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from jax import lax

from funcgrad import _jax

CHEAP = frozenset(
    {
        *(lax.add_p, lax.sub_p, lax.mul_p, lax.neg_p, lax.max_p, lax.min_p, lax.abs_p, lax.sign_p),
        *(lax.square_p, lax.integer_pow_p, lax.clamp_p, lax.select_n_p, lax.copy_p, lax.iota_p),
        *(lax.eq_p, lax.ne_p, lax.lt_p, lax.le_p, lax.gt_p, lax.ge_p, lax.is_finite_p),
        *(lax.and_p, lax.or_p, lax.not_p, lax.xor_p, lax.convert_element_type_p),
        *(lax.reshape_p, lax.broadcast_in_dim_p, lax.squeeze_p, lax.transpose_p, lax.rev_p),
        *(lax.slice_p, lax.split_p, lax.concatenate_p, lax.pad_p, lax.stop_gradient_p),
    }
)
"""What may be computed again: arithmetic, comparisons, selection, and moving elements about. Matrix
products, convolutions, reductions, transcendental functions, sorts and random bits are kept."""

TRANSCENDENTAL = frozenset(
    {
        *(lax.exp_p, lax.exp2_p, lax.log_p, lax.log1p_p, lax.expm1_p, lax.logistic_p, lax.tanh_p),
        *(
            lax.sin_p,
            lax.cos_p,
            lax.tan_p,
            lax.pow_p,
            lax.erf_p,
            lax.rsqrt_p,
            lax.sqrt_p,
            lax.div_p,
        ),
    }
)
"""What costs some ten operations an element."""


REPEATABLE = TRANSCENDENTAL | {lax.reduce_sum_p, lax.reduce_max_p, lax.reduce_min_p}
"""What a loop or a branch may compute again where that saves more bytes than it costs operations."""

BYTES_PER_OPERATION = 0.25
"""An exp, ten operations, is worth 2.5 bytes an element: one may be repeated to save a float32 of
each step, two in a row may not."""


def price_of(eqn: Any) -> float | None:
    """Bytes that computing each of an equation's results again is worth; None if it must not be."""
    if eqn.effects:
        return None
    if is_cheap(eqn):
        return 0.0
    if eqn.primitive is _jax.jit_p:
        jaxpr = eqn.params["jaxpr"].jaxpr
        prices = [price_of(inner) for inner in jaxpr.eqns]
        if None in prices or not reads_all_for_each(jaxpr):
            return None
        return sum(price for price in prices if price is not None)
    if eqn.primitive in REPEATABLE:
        return BYTES_PER_OPERATION * operations([eqn]) / len(eqn.outvars)
    return None


def size_in_bytes(aval: Any) -> int:
    """What a value of this type takes; a little, where it has no elements."""
    return _size(aval) * getattr(aval.dtype, "itemsize", 8) + 1


def is_cheap(eqn: Any) -> bool:
    """Whether computing an equation again costs less than keeping its result."""
    if eqn.primitive is _jax.jit_p:
        jaxpr = eqn.params["jaxpr"].jaxpr
        return all(map(is_cheap, jaxpr.eqns)) and reads_all_for_each(jaxpr)
    return eqn.primitive in CHEAP


def reads_all_for_each(jaxpr: Any) -> bool:
    """Whether each result depends on each input: none asks for an input that it does not need."""
    depends = {v: {v} for v in jaxpr.invars}
    for eqn in jaxpr.eqns:
        inputs = set().union(*(depends.get(v, set()) for v in _jax.variables(eqn.invars)))
        depends.update((v, inputs) for v in eqn.outvars)
    results = _jax.variables(jaxpr.outvars)
    return all(depends.get(v) == set(jaxpr.invars) for v in results)


def operations(eqns: Iterable[Any]) -> float:
    """About how many floating-point operations equations take."""
    return sum(map(_operations, eqns))


def _operations(eqn: Any) -> float:
    outputs = sum(_size(v.aval) for v in eqn.outvars)
    if eqn.primitive is lax.dot_general_p:
        (contracted, _), _ = eqn.params["dimension_numbers"]
        shape = eqn.invars[0].aval.shape
        return 2.0 * outputs * np.prod([shape[i] for i in contracted], dtype=float)
    if eqn.primitive is lax.conv_general_dilated_p:
        kernel = eqn.invars[1].aval
        features = kernel.shape[eqn.params["dimension_numbers"].rhs_spec[0]]
        return 2.0 * outputs * _size(kernel) / max(1, features)
    inner = [operations(jaxpr.eqns) for jaxpr in _jax.inner_jaxprs(eqn.params)]
    if inner:
        return max(inner) * eqn.params.get("length", 1)
    if eqn.primitive in TRANSCENDENTAL:
        return 10.0 * outputs
    return float(max(outputs, *(_size(v.aval) for v in eqn.invars), 1))


def _size(aval: Any) -> int:
    return int(np.prod(getattr(aval, "shape", ()), dtype=np.int64))
