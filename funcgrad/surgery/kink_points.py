"""Where ops have kinks, ties and poles: of each element of an op's output whether it comes from one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from funcgrad import _jax
from funcgrad.keys import Op, op_key
from funcgrad.rules.functions import in_jax
from funcgrad.rules.indexing import scatter_extreme_vjp
from funcgrad.rules.windows import windows_of

Array = Any


@dataclass(frozen=True)
class Point:
    """The kinks or poles of an op.

    Attributes:
      words: which operands are at one.
      at: from the operands, ``out`` and the params, a boolean array that broadcasts to the output; or
        one for each operand, where the points differ.
    """

    words: str
    at: Callable[..., Any]


def unary(words: str, at: Callable[[Array], Array]) -> Point:
    """The points of an op that are known from its operand alone."""
    return Point(words, lambda x, *, out, **_: at(x))


def binary(words: str, at: Callable[[Array, Array], Any]) -> Point:
    """The points of an op that are known from its two operands."""
    return Point(words, lambda x, y, *, out, **_: at(x, y))


def from_output(words: str, at: Callable[[Array], Array]) -> Point:
    """The points of an op that are known from its output alone, which its rule reads anyway."""
    return Point(words, lambda *_, out, **params: at(out))


# --- poles ------------------------------------------------------------------------------------


def _pole_of_power(x: Array, y: Array) -> tuple[Array, Array]:
    # d(x^y)/dx = y x^(y-1) has a pole at x = 0 for y < 1; d(x^y)/dy = x^y log(x) for y < 0
    exponent = lax.real(y) if _jax.is_complex(y) else y
    return (x == 0) & (exponent < 1), (x == 0) & (exponent <= 0)


def _pole_of_integer_power(x: Array, *, out: Array, y: int, **_: Any) -> Array:
    return x == 0 if y < 0 else jnp.zeros((), bool)


_at_zero = unary("x = 0", lambda x: x == 0)
_at_ends = unary("x = 1 or x = -1", lambda x: (x == 1) | (x == -1))
_at_integers = unary("x is 0 or a negative integer", lambda x: (x <= 0) & (x == lax.floor(x)))

POLES = {
    lax.sqrt_p: from_output("x = 0", lambda out: out == 0),
    lax.rsqrt_p: from_output("x = 0", jnp.isinf),
    lax.cbrt_p: from_output("x = 0", lambda out: out == 0),
    lax.log_p: _at_zero,
    _jax.log2_p: _at_zero,
    lax.log1p_p: unary("x = -1", lambda x: x == -1),
    lax.asin_p: _at_ends,
    lax.acos_p: _at_ends,
    lax.acosh_p: unary("x = 1", lambda x: x == 1),
    lax.atanh_p: _at_ends,
    lax.erf_inv_p: _at_ends,
    lax.lgamma_p: _at_integers,
    lax.digamma_p: _at_integers,
    lax.div_p: binary("y = 0", lambda x, y: y == 0),
    lax.rem_p: binary("y = 0", lambda x, y: y == 0),
    lax.atan2_p: binary("x = 0 and y = 0", lambda x, y: (x == 0) & (y == 0)),
    lax.pow_p: binary("x = 0 and y < 1", _pole_of_power),
    lax.integer_pow_p: Point("x = 0 and y < 0", _pole_of_integer_power),
}

# --- kinks and ties ---------------------------------------------------------------------------


def _end_of_clamp(low: Array, x: Array, high: Array, *, out: Array, **_: Any) -> Array:
    return (x == low) | (x == high)


def _tie_of_reduction(x: Array, *, out: Array, axes: Any, **_: Any) -> Array:
    return jnp.sum(x == lax.expand_dims(out, axes), axes) > 1


def last_to_attain(x: Array, out: Array, axis: int, reverse: bool) -> Array:
    """Of each running extremum the last position whose element attains it."""
    positions = _running(jnp.where(x == out, _positions(x, axis, reverse), 0), axis, reverse)
    return x.shape[axis] - 1 - positions if reverse else positions


def _positions(x: Array, axis: int, reverse: bool) -> Array:
    """Positions along an axis, counted in the direction in which the extrema run."""
    positions = lax.broadcasted_iota(jnp.int32, x.shape, axis)
    return x.shape[axis] - 1 - positions if reverse else positions


def _running(positions: Array, axis: int, reverse: bool) -> Array:
    return lax.cummax(positions, axis, reverse=reverse)


def _tie_of_running_extremum(x: Array, *, out: Array, axis: int, reverse: bool, **_: Any) -> Array:
    # the first to attain an extremum is where the extremum changed
    positions = _positions(x, axis, reverse)
    before = jnp.roll(out, -1 if reverse else 1, axis)
    changed = (out != before) | (positions == 0)
    first = _running(jnp.where(changed, positions, 0), axis, reverse)
    last = _running(jnp.where(x == out, positions, 0), axis, reverse)
    return first != last


def _tie_of_windows(x: Array, *, out: Array, **params: Any) -> Array:
    windows = windows_of(x.shape, params)
    padded = windows.pad(x, np.nan)
    views = (windows.view(padded, offset) for offset in windows.offsets())
    return sum((view == out).astype(jnp.int32) for view in views) > 1


def _tie_of_sort(*xs: Array, out: Any, dimension: int, num_keys: int, **_: Any) -> Array:
    # neighbours after sorting, all of whose keys are equal
    n = xs[0].shape[dimension]
    same = jnp.ones((), bool)
    for key in out[:num_keys]:
        lower, upper = (lax.slice_in_dim(key, i, n - 1 + i, axis=dimension) for i in (0, 1))
        same = same & (lower == upper)
    ends = [[(0, 0)] * xs[0].ndim for _ in range(2)]
    ends[0][dimension], ends[1][dimension] = (1, 0), (0, 1)
    return jnp.pad(same, ends[0]) | jnp.pad(same, ends[1])


def _tie_of_top_k(x: Array, *, out: Any, axis: int = -1, **_: Any) -> Array:
    rivals = jnp.expand_dims(jnp.moveaxis(x, axis, -1), -2)
    chosen = jnp.expand_dims(jnp.moveaxis(out[0], axis, -1), -1)
    return jnp.moveaxis(jnp.sum(rivals == chosen, -1) > 1, -1, axis)


def _tie_of_scatter(x: Array, indices: Array, updates: Array, *, out: Array, **params: Any) -> Any:
    # of a tie no one takes the whole cotangent
    ct = jnp.ones_like(out)
    _, _, share = scatter_extreme_vjp(ct, x, indices, updates, out=out, **params)
    shared = ((share > 0) & (share < 1)).astype(jnp.int32)
    how = {name: params[name] for name in ("indices_are_sorted", "unique_indices", "mode")}
    none = jnp.zeros(x.shape, jnp.int32)
    return lax.scatter_max(none, indices, shared, params["dimension_numbers"], **how) > 0


_equal = binary("x = y", lambda x, y: x == y)
_reduction = Point("several elements attain the extremum", _tie_of_reduction)
_windows = Point("several elements of a window attain the extremum", _tie_of_windows)
_running_extremum = Point("several elements attain the extremum", _tie_of_running_extremum)
_scatter = Point("several updates attain the extremum", _tie_of_scatter)

TIES = {
    lax.abs_p: _at_zero,
    lax.max_p: _equal,
    lax.min_p: _equal,
    lax.clamp_p: Point("x is at an end", _end_of_clamp),
    lax.reduce_max_p: _reduction,
    lax.reduce_min_p: _reduction,
    lax.reduce_window_max_p: _windows,
    lax.reduce_window_min_p: _windows,
    lax.cummax_p: _running_extremum,
    lax.cummin_p: _running_extremum,
    lax.scatter_max_p: _scatter,
    lax.scatter_min_p: _scatter,
    lax.sort_p: Point("several keys are equal", _tie_of_sort),
    lax.top_k_p: Point("a chosen element has an equal", _tie_of_top_k),
}

# --- functions --------------------------------------------------------------------------------


def _where_leaking(x: Array, slope: Any = 0.0, *, out: Array, **_: Any) -> Array:
    return (x == 0) & (slope != 1)


def _where_not_smooth(x: Array, alpha: Any = 1.0, *, out: Array, **_: Any) -> Array:
    return (x == 0) & (alpha != 1)


def named(function: Any) -> Op:
    """A jitted function of JAX's as a trace names it: its calls need not be caught."""
    return replace(op_key(function), function=None)


LOGADDEXP = in_jax("_src/lax/other.py", "logaddexp")
"""What ``jnp.logaddexp`` calls; None in a JAX that calls something else."""

FUNCTIONS = {
    named(jax.nn.relu): _at_zero,
    named(jax.nn.relu6): unary("x = 0 or x = 6", lambda x: (x == 0) | (x == 6)),
    named(jax.nn.leaky_relu): Point("x = 0", _where_leaking),
    named(jax.nn.elu): Point("x = 0", _where_not_smooth),
    named(jax.nn.selu): _at_zero,
    named(jax.nn.hard_tanh): _at_ends,
    named(jnp.hypot): binary("x = 0 and y = 0", lambda x, y: (x == 0) & (y == 0)),
    LOGADDEXP: from_output("x = y = -inf", lambda out: out == -jnp.inf),
}
"""Functions of JAX's that have kinks of their own."""

POINTS: Mapping[Op, Point] = {op: p for op, p in {**POLES, **TIES, **FUNCTIONS}.items() if op}
"""Every op with kinks, ties or poles."""
