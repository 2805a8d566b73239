"""Rules of reductions and of cumulative reductions.

Products never divide, so they are exact where elements are zero, to every order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from funcgrad import _jax
from funcgrad.registry import Rule, defvjp, zero
from funcgrad.rules._common import total

INTEGERS = zero(lax.argmax_p, lax.argmin_p, lax.reduce_and_p, lax.reduce_or_p, lax.reduce_xor_p)


@defvjp(lax.reduce_sum_p)
def reduce_sum_vjp(ct: Any, x: Any, *, axes: Any, **_: Any) -> Any:
    kept = tuple(axis for axis in range(x.ndim) if axis not in axes)
    return lax.broadcast_in_dim(ct, x.shape, kept, out_sharding=_jax.cotangent_sharding(x))


@defvjp(lax.reduce_max_p, lax.reduce_min_p)
def reduce_extremum_vjp(ct: Any, x: Any, *, out: Any, axes: Any, **_: Any) -> Any:
    # The elements that attain the extremum share the cotangent evenly; if none does, it is NaN.
    attains = (x == lax.expand_dims(out, axes)).astype(x.dtype)
    return attains * lax.expand_dims(ct / total(attains, axes), axes)


@defvjp(lax.reduce_prod_p)
def reduce_prod_vjp(ct: Any, x: Any, *, axes: Any, **_: Any) -> Any:
    return _product_of_halves_vjp(lax.expand_dims(ct, axes), x, axes)


def _product_of_halves_vjp(ct: Any, x: Any, axes: Any) -> Any:
    # y = prod(low * high); ct_low = ct_product * high; ct_high = ct_product * low
    axis = next((axis for axis in axes if x.shape[axis] > 1), None)
    if axis is None:
        return jnp.broadcast_to(ct, x.shape)
    n = x.shape[axis]
    middle = (n + 1) // 2
    low = lax.slice_in_dim(x, 0, middle, axis=axis)
    high = _pad(lax.slice_in_dim(x, middle, n, axis=axis), axis, 0, n % 2, value=1)
    ct_product = _product_of_halves_vjp(ct, low * high, axes)
    ct_high = lax.slice_in_dim(ct_product * low, 0, n - middle, axis=axis)
    return lax.concatenate([ct_product * high, ct_high], axis)


@defvjp(lax.cumsum_p)
def cumsum_vjp(ct: Any, x: Any, *, axis: int, reverse: bool, **_: Any) -> Any:
    return lax.cumsum(ct, axis, reverse=not reverse)


def cumprod_vjp(ct: Any, x: Any, *, out: Any, axis: int, reverse: bool, **_: Any) -> Any:
    return _prefixes_vjp(ct, x, out, axis, reverse, lax.mul, _product_vjp)


def cummax_vjp(ct: Any, x: Any, *, out: Any, axis: int, reverse: bool, **_: Any) -> Any:
    return _prefixes_vjp(ct, x, out, axis, reverse, lax.max, _extremum_vjp)


def cummin_vjp(ct: Any, x: Any, *, out: Any, axis: int, reverse: bool, **_: Any) -> Any:
    return _prefixes_vjp(ct, x, out, axis, reverse, lax.min, _extremum_vjp)


def _product_vjp(ct: Any, left: Any, right: Any, _: Any) -> tuple[Any, Any]:
    return ct * right, ct * left


def _extremum_vjp(ct: Any, left: Any, right: Any, extremum: Any) -> tuple[Any, Any]:
    share = jnp.where(left == right, 0.5 * ct, ct)
    zero = jnp.zeros((), ct.dtype)
    return jnp.where(left == extremum, share, zero), jnp.where(right == extremum, share, zero)


def _prefixes_vjp(
    ct: Any,
    x: Any,
    y: Any,
    axis: int,
    reverse: bool,
    combine: Callable[[Any, Any], Any],
    combine_vjp: Callable[[Any, Any, Any, Any], tuple[Any, Any]],
) -> Any:
    """Transpose a parallel prefix scan (Ladner & Fischer 1980): work n, depth log n.

    With p[m] = combine(x[2m], x[2m+1]), the odd y are the prefixes of p, and
    y[2m] = combine(y[2m-1], x[2m]). The tree is JAX's, so ties are shared as JAX shares them.
    """
    if reverse:
        ct, x, y = (lax.rev(a, (axis,)) for a in (ct, x, y))
        return lax.rev(_prefixes_vjp(ct, x, y, axis, False, combine, combine_vjp), (axis,))
    n = x.shape[axis]
    if n < 2:
        return ct
    odd = n % 2
    x_even, x_odd = _alternate(x, axis)
    y_even, y_odd = _alternate(y, axis)
    ct_even, ct_odd = _alternate(ct, axis)

    later = lax.slice_in_dim(x_even, 1, None, axis=axis)
    before = lax.slice_in_dim(y_odd, 0, later.shape[axis], axis=axis)
    joined = lax.slice_in_dim(y_even, 1, None, axis=axis)
    ct_joined = lax.slice_in_dim(ct_even, 1, None, axis=axis)
    ct_before, ct_later = combine_vjp(ct_joined, before, later, joined)

    left = lax.slice_in_dim(x_even, 0, n // 2, axis=axis)
    pairs = combine(left, x_odd)
    ct_prefixes = ct_odd + _pad(ct_before, axis, 0, 1 - odd)
    ct_pairs = _prefixes_vjp(ct_prefixes, pairs, y_odd, axis, False, combine, combine_vjp)
    ct_left, ct_x_odd = combine_vjp(ct_pairs, left, x_odd, pairs)

    ct_first = lax.slice_in_dim(ct_even, 0, 1, axis=axis)
    ct_x_even = lax.concatenate([ct_first, ct_later], axis) + _pad(ct_left, axis, 0, odd)
    return _pad(ct_x_even, axis, 0, 1 - odd, 1) + _pad(ct_x_odd, axis, 1, odd, 1)


def _alternate(x: Any, axis: int) -> tuple[Any, Any]:
    return lax.slice_in_dim(x, 0, None, 2, axis), lax.slice_in_dim(x, 1, None, 2, axis)


def cumlogsumexp_vjp(ct: Any, x: Any, *, out: Any, axis: int, reverse: bool, **_: Any) -> Any:
    # ct_x[j] = exp(x[j] - y[j]) s[j], s[j] = ct[j] + exp(y[j] - y[j+1]) s[j+1]; y never decreases
    n = x.shape[axis]
    if n < 2:
        return ct
    before, after = (1, 0) if reverse else (0, 1)
    earlier = lax.slice_in_dim(out, before, n - after, axis=axis)
    later = lax.slice_in_dim(out, after, n - before, axis=axis)
    added = lax.slice_in_dim(x, after, n - before, axis=axis)
    decay = _pad(_exp_difference(earlier, later), axis, before, after)
    weight = _pad(_exp_difference(added, later), axis, after, before, value=1)

    def compose(outer: Any, inner: Any) -> Any:
        return inner[0] * outer[0], inner[1] + inner[0] * outer[1]

    _, total = lax.associative_scan(compose, (decay, ct), axis=axis, reverse=not reverse)
    return weight * total


def _by_parallel_scan(primitive: Any, combine: Any, rule: Callable[..., Any]) -> Rule:
    """The rule reads the output; where that is computed for it, it is by a parallel scan.

    JAX's lowering on a CPU, by windows as long as the axis, takes up to thirty times as long.
    """

    @partial(jax.jit, static_argnames=("axis", "reverse"))
    def forward(x: Any, axis: int, reverse: bool) -> Any:
        return lax.associative_scan(combine, x, reverse=reverse, axis=axis)

    return Rule(rule, (primitive,), forward=forward)


CUMULATIVE = (
    _by_parallel_scan(lax.cumprod_p, lax.mul, cumprod_vjp),
    _by_parallel_scan(lax.cummax_p, lax.max, cummax_vjp),
    _by_parallel_scan(lax.cummin_p, lax.min, cummin_vjp),
    _by_parallel_scan(lax.cumlogsumexp_p, jnp.logaddexp, cumlogsumexp_vjp),
)


def _exp_difference(part: Any, whole: Any) -> Any:
    """exp(part - whole) for part <= whole, also where both are infinite."""
    return jnp.exp(jnp.where(part == jnp.inf, jnp.zeros((), part.dtype), part - whole))


def _pad(x: Any, axis: int, low: int, high: int, interior: int = 0, value: int = 0) -> Any:
    config = [(0, 0, 0)] * x.ndim
    config[axis] = (low, high, interior)
    return lax.pad(x, np.asarray(value, x.dtype), config)
