"""Rules of layout ops: broadcasting, reshaping, joining, cutting, placing.

All of them are linear and only move elements, so each rule is the transpose of its op.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from funcgrad import _jax
from funcgrad.registry import Rule, defvjp, zero
from funcgrad.rules._common import kept_where, or_zeros, summed, total

INTEGERS = zero(lax.iota_p, lax.bitcast_convert_type_p)


def broadcast_in_dim_vjp(ct: Any, x: Any, *, broadcast_dimensions: Any, **_: Any) -> Any:
    # An axis of ct holds one element of x each, or copies: copies are summed, all axes at once.
    held = {axis for axis, n in zip(broadcast_dimensions, x.shape, strict=True) if n != 1}
    copies = tuple(axis for axis, n in enumerate(ct.shape) if axis not in held and n != 1)
    sharding = _jax.cotangent_sharding(x)
    if sharding is None:
        return lax.reshape(total(ct, copies) if copies else ct, x.shape)
    return _sum_of_copies(ct, x, broadcast_dimensions, sharding)


def _sum_of_copies(ct: Any, x: Any, held: Any, sharding: Any) -> Any:
    """The same where shardings are part of types: axes of size 1 are left out of the sum's, which has
    the other axes' sharding."""
    parts = _jax.partitions(sharding)
    single = [i for i, n in enumerate(x.shape) if n == 1 and parts[i] is None]
    kept = [axis for i, axis in enumerate(held) if i not in single]
    of_sum = [part for i, part in enumerate(parts) if i not in single]
    copies = tuple(axis for axis in range(ct.ndim) if axis not in kept)
    ct_x = summed(ct, copies, _jax.with_axes(sharding, of_sum)) if copies else ct
    return lax.expand_dims(ct_x, single)


BROADCAST = Rule(broadcast_in_dim_vjp, (lax.broadcast_in_dim_p,), broadcasts=False, late=True)


@defvjp(lax.reshape_p)
def reshape_vjp(ct: Any, x: Any, *, dimensions: Any, **_: Any) -> Any:
    sharding = _jax.cotangent_sharding(x)
    if dimensions is None:
        return lax.reshape(ct, x.shape, out_sharding=sharding)
    transposed = lax.reshape(
        ct,
        tuple(x.shape[axis] for axis in dimensions),
        out_sharding=_jax.permuted(sharding, dimensions),
    )
    return lax.transpose(transposed, _inverse(dimensions))


@defvjp(lax.squeeze_p)
def squeeze_vjp(ct: Any, x: Any, *, dimensions: Any, **_: Any) -> Any:
    return lax.expand_dims(ct, dimensions)


@defvjp(lax.transpose_p)
def transpose_vjp(ct: Any, x: Any, *, permutation: Any, **_: Any) -> Any:
    return lax.transpose(ct, _inverse(permutation))


def _inverse(permutation: Any) -> tuple[int, ...]:
    return tuple(int(axis) for axis in np.argsort(permutation))


@defvjp(lax.rev_p)
def rev_vjp(ct: Any, x: Any, *, dimensions: Any, **_: Any) -> Any:
    return lax.rev(ct, dimensions)


@defvjp(lax.concatenate_p)
def concatenate_vjp(ct: Any, *xs: Any, dimension: int, **_: Any) -> Any:
    return tuple(lax.split(ct, [x.shape[dimension] for x in xs], dimension))


@defvjp(lax.split_p)
def split_vjp(ct: Any, x: Any, *, out: Any, axis: int, **_: Any) -> Any:
    return lax.concatenate(list(map(or_zeros, ct, out)), axis)


@defvjp(_jax.stack_p)
def stack_vjp(ct: Any, *xs: Any, axis: int, **_: Any) -> Any:
    return tuple(jnp.unstack(ct, axis=axis))


@defvjp(_jax.unstack_p)
def unstack_vjp(ct: Any, x: Any, *, out: Any, axis: int, **_: Any) -> Any:
    return jnp.stack(list(map(or_zeros, ct, out)), axis)


@defvjp(_jax.tile_p)
def tile_vjp(ct: Any, x: Any, *, reps: Any, **_: Any) -> Any:
    by_copy = [size for pair in zip(reps, x.shape, strict=True) for size in pair]
    sharding = _jax.cotangent_sharding(x)
    if sharding is not None:
        parts = [part for of_axis in _jax.partitions(sharding) for part in (None, of_axis)]
        sharding = _jax.with_axes(sharding, parts)
    copies = lax.reshape(ct, by_copy, out_sharding=sharding)
    return jnp.sum(copies, tuple(range(0, 2 * x.ndim, 2)))


@defvjp(lax.pad_p)
def pad_vjp(ct: Any, x: Any, value: Any, *, padding_config: Any, **_: Any) -> Any:
    # What a negative padding cut off got no cotangent.
    low, high, interior = zip(*padding_config, strict=True) if padding_config else ((), (), ())
    cut_off = [(max(-lo, 0), max(-hi, 0), 0) for lo, hi, _ in padding_config]
    whole = lax.pad(ct, _zero(ct), cut_off) if np.any(cut_off) else ct
    ct_x = lax.slice(
        whole,
        [max(lo, 0) for lo in low],
        [n - max(hi, 0) for n, hi in zip(whole.shape, high, strict=True)],
        [inner + 1 for inner in interior],
    )
    padded = lax.pad(jnp.zeros_like(x, bool), np.True_, padding_config)
    return ct_x, jnp.sum(kept_where(padded, ct))


@defvjp(lax.slice_p)
def slice_vjp(ct: Any, x: Any, *, start_indices: Any, strides: Any, **_: Any) -> Any:
    steps = strides or (1,) * x.ndim
    config = []
    for n, start, step, taken in zip(x.shape, start_indices, steps, ct.shape, strict=True):
        reach = (taken - 1) * step + 1 if taken else 0
        config.append((start, n - start - reach, step - 1))
    return lax.pad(ct, _zero(ct), config)


def _zero(ct: Any) -> Any:
    return np.zeros((), ct.dtype)


@defvjp(_jax.name_p, elementwise=True)
def name_vjp(ct: Any, x: Any, **_: Any) -> Any:
    return ct


@defvjp(lax.optimization_barrier_p)
def optimization_barrier_vjp(ct: Any, *xs: Any, **_: Any) -> Any:
    return lax.optimization_barrier(ct)


@defvjp(lax.device_put_p)
def device_put_vjp(ct: Any, *xs: Any, srcs: Any, devices: Any, **_: Any) -> Any:
    return tuple(map(_put_back, ct, xs, srcs, devices))


def _put_back(ct: Any, x: Any, src: Any, device: Any) -> Any:
    """A copy of `ct` where `x` was: at `src` where that is known, else in the same kind of memory."""
    if ct is None:
        return None
    if src is not None:
        return jax.device_put(ct, src, src=device, may_alias=False)
    memory = jax.typeof(x).memory_space
    there = jax.typeof(ct).memory_space == memory
    return lax.copy_p.bind(ct) if there else jax.device_put(ct, memory, may_alias=False)


@defvjp(lax.sharding_constraint_p)
def sharding_constraint_vjp(
    ct: Any, x: Any, *, sharding: Any, unconstrained_dims: Any, **_: Any
) -> Any:
    if unconstrained_dims and isinstance(sharding, NamedSharding):
        spec = [*sharding.spec, *(None for _ in range(x.ndim - len(sharding.spec)))]
        for axis in unconstrained_dims:
            spec[axis] = PartitionSpec.UNCONSTRAINED
        sharding = NamedSharding(sharding.mesh, PartitionSpec(*spec))
    return lax.with_sharding_constraint(ct, sharding)


@defvjp(_jax.reshard_p)
def reshard_vjp(ct: Any, x: Any, **_: Any) -> Any:
    sharding = _jax.cotangent_aval(jax.typeof(x)).sharding
    if sharding.mesh.empty:  # x has no mesh: leave ct whole, on its own mesh if it has one
        sharding = NamedSharding(jax.typeof(ct).sharding.mesh, PartitionSpec())
    return ct if sharding.mesh.empty else _jax.resharded(ct, sharding)
