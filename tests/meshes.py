"""Meshes of virtual CPU devices, and functions mapped over them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, Mesh


def mesh_of(kind: AxisType = AxisType.Auto, **sizes: int) -> Mesh:
    """A mesh with axes of these names and sizes, all of one kind."""
    devices = jax.devices()[: math.prod(sizes.values())]
    names = tuple(sizes)
    return jax.make_mesh(
        tuple(sizes.values()), names, axis_types=(kind,) * len(names), devices=devices
    )


def sharded(
    body: Callable[..., Any],
    in_specs: Any,
    out_specs: Any,
    check_vma: bool = True,
    mesh: Mesh | None = None,
    **settings: Any,
) -> Callable[..., Any]:
    """`body` mapped over shards, on four devices named ``i`` if no mesh is given."""
    return jax.shard_map(
        body,
        mesh=mesh or mesh_of(i=4),
        in_specs=in_specs,
        out_specs=out_specs,
        check_vma=check_vma,
        **settings,
    )
