"""Rules of sorting and choosing: a cotangent goes back to where its value came from."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from funcgrad import _jax
from funcgrad.registry import defvjp


def sort_with_origin(*xs: Any, **params: Any) -> list[Any]:
    """The sorted operands, and last where along the dimension each element came from."""
    dimension = params["dimension"]
    shape = xs[0].shape
    like = jax.typeof(xs[0]).sharding
    positions = lax.broadcasted_iota(
        _index_dtype(shape[dimension]), shape, dimension, out_sharding=like
    )
    return lax.sort_p.bind(*xs, positions, **params)


@defvjp(lax.sort_p, forward=sort_with_origin, saves=1)
def sort_vjp(ct: Any, *xs: Any, out: Any, dimension: int, num_keys: int, **params: Any) -> Any:
    # y[i] = x[origin[i]], where sorting 0, 1, 2, ... along with the keys gives the origins
    if len(out) > len(xs):
        origin = out[-1]
    else:
        keys = xs[:num_keys]
        origin = sort_with_origin(*keys, dimension=dimension, num_keys=num_keys, **params)[-1]
    return tuple(
        None if ct_y is None else _send_back(ct_y, origin, x, dimension)
        for ct_y, x in zip(ct[: len(xs)], xs, strict=True)
    )


def _index_dtype(size: int) -> Any:
    known = isinstance(size, int)  # and no symbolic length of an exported program
    return jnp.int64 if known and size > np.iinfo(np.int32).max else jnp.int32


@defvjp(lax.top_k_p)
def top_k_vjp(ct: Any, x: Any, *, out: Any, axis: int = -1, **_: Any) -> Any:
    return _send_back(ct[0], out[1], x, axis % x.ndim)


@defvjp(lax.approx_top_k_p)
def approx_top_k_vjp(ct: Any, x: Any, *, out: Any, reduction_dimension: int, **_: Any) -> Any:
    return _send_back(ct[0], out[1], x, reduction_dimension % x.ndim)


def _send_back(ct: Any, origin: Any, x: Any, axis: int) -> Any:
    """Add `ct` into zeros shaped like `x`, at positions `origin` along `axis`."""
    others = tuple(i for i in range(x.ndim) if i != axis)
    along_axis = lax.ScatterDimensionNumbers(
        update_window_dims=(),
        inserted_window_dims=(axis,),
        scatter_dims_to_operand_dims=(axis,),
        operand_batching_dims=others,
        scatter_indices_batching_dims=others,
    )
    return lax.scatter_add(
        _jax.cotangent_zeros(x, ct.dtype),
        lax.expand_dims(origin, (x.ndim,)),
        ct,
        along_axis,
        unique_indices=True,
        mode=lax.GatherScatterMode.PROMISE_IN_BOUNDS,
    )
