"""Rules of the collectives: communication along a named axis, of jax.vmap or of jax.shard_map's mesh.

All are linear, so each rule is the transpose of its op: a sum's is a copy, a gather's a scatter-sum.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from funcgrad import _jax
from funcgrad.registry import defvjp, zero

INDICES = zero(lax.axis_index_p)


@defvjp(lax.psum_p)
def psum_vjp(ct: Any, x: Any, *, axes: Any, axis_index_groups: Any, **_: Any) -> Any:
    # Every device has the sum, and JAX adds the cotangents of their copies up.
    named = tuple(axis for axis in axes if not isinstance(axis, int))
    positional = {axis for axis in axes if isinstance(axis, int)}
    total = lax.psum(ct, named, axis_index_groups=axis_index_groups) if named else ct
    if not positional:
        return total
    kept = [axis for axis in range(x.ndim) if axis not in positional]
    return lax.broadcast_in_dim(total, x.shape, kept)


@defvjp(_jax.psum_invariant_p)
def psum_invariant_vjp(ct: Any, x: Any, *, axes: Any, **_: Any) -> Any:
    return _jax.pvary(ct, axes)


@defvjp(_jax.pvary_p)
def pvary_vjp(ct: Any, x: Any, *, axes: Any, **_: Any) -> Any:
    return lax.psum(ct, axes)


@defvjp(lax.ppermute_p)
def ppermute_vjp(ct: Any, x: Any, *, axis_name: Any, perm: Any, **_: Any) -> Any:
    return lax.ppermute(ct, axis_name, [(target, source) for source, target in perm])


@defvjp(_jax.pbroadcast_p)
def pbroadcast_vjp(ct: Any, x: Any, *, axis_name: Any, source: int, **_: Any) -> Any:
    return _sum_at(source, ct, axis_name)


@defvjp(_jax.pbroadcast_dynamic_p)
def pbroadcast_dynamic_vjp(ct: Any, x: Any, source: Any, *, axis_name: Any, **_: Any) -> Any:
    return _sum_at(source, ct, axis_name), None


def _sum_at(source: Any, ct: Any, axis_name: Any) -> Any:
    """The sum of all cotangents on the device that was copied from, zero on the others."""
    total = lax.psum(ct, axis_name)
    return jnp.where(lax.axis_index(axis_name) == source, total, jnp.zeros_like(total))


@defvjp(lax.all_gather_p)
def all_gather_vjp(
    ct: Any,
    x: Any,
    *,
    all_gather_dimension: int,
    axis_name: Any,
    axis_index_groups: Any,
    tiled: bool,
    **_: Any,
) -> Any:
    return lax.psum_scatter(
        ct,
        axis_name,
        scatter_dimension=all_gather_dimension,
        axis_index_groups=axis_index_groups,
        tiled=tiled,
    )


@defvjp(_jax.reduce_scatter_p)
def reduce_scatter_vjp(
    ct: Any,
    x: Any,
    *,
    scatter_dimension: int,
    axis_name: Any,
    axis_index_groups: Any,
    tiled: bool,
    **_: Any,
) -> Any:
    return lax.all_gather(
        ct,
        axis_name,
        axis=scatter_dimension,
        axis_index_groups=axis_index_groups,
        tiled=tiled,
    )


@defvjp(_jax.all_gather_invariant_p)
def all_gather_invariant_vjp(
    ct: Any, x: Any, *, all_gather_dimension: int, axis_name: Any, tiled: bool, **_: Any
) -> Any:
    # All devices share one result, and so one cotangent, of which each takes its own part.
    size = x.shape[all_gather_dimension] if tiled else 1
    start = lax.axis_index(axis_name) * size
    part = lax.dynamic_slice_in_dim(ct, start, size, all_gather_dimension)
    return part if tiled else lax.squeeze(part, [all_gather_dimension])


@defvjp(lax.all_to_all_p)
def all_to_all_vjp(
    ct: Any,
    x: Any,
    *,
    axis_name: Any,
    split_axis: int,
    concat_axis: int,
    axis_index_groups: Any,
    **_: Any,
) -> Any:
    # Whatever `tiled` says, the op itself cuts one axis up and joins along the other.
    return lax.all_to_all(
        ct,
        axis_name,
        split_axis=concat_axis,
        concat_axis=split_axis,
        axis_index_groups=axis_index_groups,
        tiled=True,
    )


@defvjp(_jax.ragged_all_to_all_p)
def ragged_all_to_all_vjp(
    ct: Any,
    x: Any,
    filled: Any,
    input_offsets: Any,
    send_sizes: Any,
    output_offsets: Any,
    recv_sizes: Any,
    *,
    axis_name: Any,
    axis_index_groups: Any,
    **_: Any,
) -> Any:
    # What came back goes where it was sent from; rows of `filled` that received nothing stayed.
    received_at = lax.all_to_all(output_offsets, axis_name, 0, 0, tiled=True)
    sent_from = lax.all_to_all(input_offsets, axis_name, 0, 0, tiled=True)
    ct_x = lax.ragged_all_to_all(
        ct,
        jnp.zeros_like(x),
        received_at,
        recv_sizes,
        sent_from,
        send_sizes,
        axis_name=axis_name,
        axis_index_groups=axis_index_groups,
    )
    rows = jnp.arange(ct.shape[0])[:, None]
    received = jnp.any((rows >= received_at) & (rows < received_at + recv_sizes), axis=1)
    stayed = jnp.expand_dims(~received, tuple(range(1, ct.ndim)))
    return ct_x, jnp.where(stayed, ct, jnp.zeros_like(ct)), None, None, None, None


@defvjp(_jax.all_gather_reduced_p)
def all_gather_reduced_vjp(
    ct: Any, x: Any, *, all_gather_dimension: int, axis_name: Any, tiled: bool, **_: Any
) -> Any:
    return lax.psum_scatter(ct, axis_name, scatter_dimension=all_gather_dimension, tiled=tiled)


@defvjp(_jax.unreduced_reduce_scatter_p)
def unreduced_reduce_scatter_vjp(
    ct: Any, x: Any, *, scatter_dimension: int, axis_name: Any, tiled: bool, **_: Any
) -> Any:
    return lax.all_gather(ct, axis_name, axis=scatter_dimension, tiled=tiled, to="reduced")


@defvjp(_jax.unreduced_psum_p)
def unreduced_psum_vjp(ct: Any, x: Any, *, axes: Any, **_: Any) -> Any:
    return lax.pcast(ct, axes, to="reduced")


@defvjp(_jax.preduced_p)
def preduced_vjp(ct: Any, x: Any, *, axes: Any, **_: Any) -> Any:
    return lax.psum(ct, axes)


@defvjp(_jax.vary_unreduced_cast_p)
def vary_unreduced_cast_vjp(ct: Any, x: Any, *, axes: Any, **_: Any) -> Any:
    return lax.pcast(ct, axes, to="varying")


@defvjp(_jax.reduced_vary_cast_p)
def reduced_vary_cast_vjp(ct: Any, x: Any, *, axes: Any, **_: Any) -> Any:
    return lax.pcast(ct, axes, to="unreduced")
