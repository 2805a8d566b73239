"""Sharding as a part of types: on meshes with explicit axes, and inside a shard_map.

What is reduced over a mesh axis has a cotangent that is unreduced over it, and the other way round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
from jax import lax
from jax._src import core as _core
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from funcgrad._jax.types import Aval, Value

current_mesh: Callable[[], Any] = jax.sharding.get_abstract_mesh
"""The mesh in which an operation would now be traced."""


within_mesh: Callable[[Any], AbstractContextManager[Any]] = jax.sharding.use_abstract_mesh
"""A context in which operations are traced in this mesh."""


pvary: Callable[[Any, tuple[Any, ...]], Any] = _core.pvary


def within_explicit_mesh(mesh: Any) -> AbstractContextManager[Any]:
    """The same where shardings are part of types in this mesh or in the current one."""
    explicit = has_explicit_axes(mesh) or has_explicit_axes(current_mesh())
    return within_mesh(mesh) if explicit else nullcontext()


def cotangent_aval(aval: Aval) -> Aval:
    """The type of a cotangent of a value of this type: what is reduced over a mesh axis there is
    unreduced here, and the other way round."""
    return aval.to_tangent_aval().to_ct_aval()


def explicit_sharding(aval: Aval) -> NamedSharding | None:
    """The sharding that values of this type have by their type; None where types have none."""
    sharding = getattr(aval, "sharding", None)
    return sharding if sharding is not None and has_explicit_axes(sharding.mesh) else None


def has_explicit_axes(mesh: Any) -> bool:
    """Whether shardings over this mesh are part of types."""
    return AxisType.Explicit in mesh.axis_types


def on_one_device(*values: Value) -> bool:
    """Whether all of each value is known to lie on one device, and its type does not say where.

    Of a value on no mesh, a trace does not say where it will lie: ``jit`` may be told later.
    """
    return all(_is_of_one_device(_core.typeof(x).sharding.mesh) for x in values)


def _is_of_one_device(mesh: Any) -> bool:
    if mesh.empty:
        return jax.device_count() == 1
    is_alone = mesh.size == 1 and not has_explicit_axes(mesh)
    return is_alone or {*mesh.axis_types} == {AxisType.Manual}


def onto_current_mesh(x: Value) -> Value:
    """A value that was computed from numbers alone is on no mesh; on the explicit one, whole.

    JAX 0.10 can stack no value of no mesh in an unrolled scan on an explicit mesh.
    """
    mesh = current_mesh()
    if not has_explicit_axes(mesh) or not _core.typeof(x).sharding.mesh.empty:
        return x
    return jax.sharding.reshard(x, NamedSharding(mesh, PartitionSpec(*(None,) * x.ndim)))


def cotangent_sharding(x: Value) -> NamedSharding | None:
    """The sharding of a cotangent of `x`, where shardings are part of types.

    A value that is on no mesh is whole on the mesh that is current.
    """
    aval = cotangent_aval(_core.typeof(x))
    mesh = current_mesh()
    if aval.sharding.mesh.empty and has_explicit_axes(mesh):
        return NamedSharding(mesh, PartitionSpec(*(None for _ in aval.shape)))
    return explicit_sharding(aval)


def is_sharded(aval: Aval) -> bool:
    """Whether values of this type are not whole on every device, by their type."""
    sharding = explicit_sharding(aval)
    return sharding is not None and sharding.spec != PartitionSpec(*(None for _ in aval.shape))


def is_partial(x: Value) -> bool:
    """Whether a value is unreduced over a mesh axis, or reduced."""
    sharding = explicit_sharding(_core.typeof(x))
    return sharding is not None and bool(sharding.spec.unreduced or sharding.spec.reduced)


def with_axes(sharding: NamedSharding | None, partitions: Sequence[Any]) -> NamedSharding | None:
    """A sharding with other partitions of the array's axes; what is reduced or not stays so."""
    if sharding is None:
        return None
    spec = sharding.spec
    spec = PartitionSpec(*partitions, unreduced=spec.unreduced, reduced=spec.reduced)
    return NamedSharding(sharding.mesh, spec)


def permuted(sharding: NamedSharding | None, axes: Sequence[int]) -> NamedSharding | None:
    """The sharding of an array with the axes of another in this order."""
    if sharding is None:
        return None
    parts = partitions(sharding)
    return with_axes(sharding, [parts[axis] for axis in axes])


def partitions(sharding: NamedSharding) -> tuple[Any, ...]:
    """Over which mesh axes each axis of an array is sharded."""
    return tuple(getattr(sharding.spec, "partitions", sharding.spec))


def with_cotangent_type(ct: Value, aval: Aval, home: Any = None) -> Value:
    """A cotangent of a value of this type with the sharding, and varying over the mesh axes, that the
    type asks for. Its numbers stay as they are.

    With `home`, a mesh, the cotangent of a value that is on no mesh is on that mesh, if on any.
    """
    sharding = getattr(aval, "sharding", None)
    if sharding is None or sharding.mesh.empty:
        return ct if home is None else brought_to(ct, home)
    wanted, found = cotangent_aval(aval), _core.typeof(ct)
    meshes = wanted.sharding.mesh, found.sharding.mesh
    placed = not (
        meshes[1].empty and current_mesh().empty
    )  # else JAX knows no devices to put it on
    if wanted.sharding != found.sharding and placed and any(map(has_explicit_axes, meshes)):
        ct = resharded(ct, wanted.sharding)
    return ct if wanted.mat is found.mat else with_manual_type(ct, wanted.mat)


def resharded(x: Value, sharding: NamedSharding) -> Value:
    """A value with another sharding, on the mesh of that.

    What comes from a mesh where the axes were not explicit is made whole first: JAX would take it for a
    part of an unreduced value, which adds up to a multiple.
    """
    mesh, found = sharding.mesh, _core.typeof(x).sharding.mesh
    with within_mesh(mesh):
        if not sharding.spec.unreduced <= {*found.explicit_axes}:
            x = jax.sharding.reshard(x, NamedSharding(mesh, PartitionSpec(*(None,) * x.ndim)))
        return jax.sharding.reshard(x, sharding)


def brought_to(x: Value, mesh: Any) -> Value:
    """A value that is on another mesh, whole on this one."""
    found = getattr(_core.typeof(x), "sharding", None)
    if found is None or found.mesh.empty or found.mesh == mesh:
        return x
    with within_mesh(mesh):
        return jax.sharding.reshard(x, NamedSharding(mesh, PartitionSpec()))


def with_varying_axes(ct: Value, aval: Aval) -> Value:
    """A cotangent that varies over the mesh axes over which, in a shard_map, its value does."""
    mat = getattr(aval, "mat", None)
    found = _core.typeof(ct).mat
    return (
        ct
        if mat is None
        else with_manual_type(ct, found.update(varying=mat.varying | found.varying))
    )


def with_manual_type(x: Value, wanted: Any) -> Value:
    """A value inside a shard_map that varies, is reduced or is unreduced over these mesh axes.

    What is the same on all devices is never made unreduced: it would have to be divided first.
    """
    found = _core.typeof(x).mat
    x = cast_to(x, (wanted.varying - found.varying) & found.reduced, "varying")
    missing = wanted.varying - found.varying - found.reduced
    x = pvary(x, tuple(missing)) if missing else x
    x = cast_to(x, (wanted.unreduced - found.unreduced) & found.varying, "unreduced")
    same = wanted.reduced - found.reduced - found.varying - found.unreduced
    return cast_to(x, same, "reduced")


def cast_to(x: Value, axes: frozenset[Any], kind: str) -> Value:
    """``jax.lax.pcast`` over a set of mesh axes."""
    return lax.pcast(x, tuple(sorted(axes)), to=kind) if axes else x


def one_like(x: Value) -> Value:
    """A one for the cotangent of a scalar."""
    aval = _core.typeof(x)
    one = lax.full_like(x, 1) if explicit_sharding(aval) is None else jax.numpy.ones((), aval.dtype)
    return with_cotangent_type(one, aval)


def first_element(x: Value) -> Value:
    """The first element of an array that is not empty, wherever it is."""

    def first_of(x: Value) -> Value:
        corner = lax.slice(x, (0,) * x.ndim, (1,) * x.ndim)
        return lax.reshape(corner, ())

    sharding = explicit_sharding(_core.typeof(x))
    if sharding is None:
        return first_of(x)
    with within_mesh(auto_mesh(sharding.mesh)):
        first = first_of(to_auto_axes(x))
    return jax.sharding.reshard(first, NamedSharding(sharding.mesh, PartitionSpec()))


def typed_zeros(make: Callable[[Aval], Value], aval: Aval) -> Value:
    """Zeros as `make` makes them, on the mesh of their type."""
    sharding = getattr(aval, "sharding", None)
    if sharding is None or sharding.mesh.empty:
        return make(aval)
    mesh = sharding.mesh if has_explicit_axes(sharding.mesh) else current_mesh()
    with within_mesh(mesh):
        if mesh != sharding.mesh:
            spec = PartitionSpec(*(None for _ in aval.shape))
            aval = aval.update(sharding=NamedSharding(mesh, spec))
        x = make(aval)
    if aval.mat.unreduced:
        x = cast_to(pvary(x, tuple(aval.mat.unreduced)), aval.mat.unreduced, "unreduced")
    return with_manual_type(x, aval.mat)


def with_leading_axes(aval: Aval, *sizes: int) -> Aval:
    """The type of an array with more axes in front, which are not sharded."""
    if not sizes:
        return aval
    parts = (*(None for _ in sizes), *partitions(aval.sharding))
    return aval.update(shape=(*sizes, *aval.shape), sharding=with_axes(aval.sharding, parts))


def without_explicit_axes(aval: Aval) -> Aval:
    """The type on the same mesh with its explicit axes made ``Auto``."""
    if explicit_sharding(aval) is None:
        return aval
    mesh = auto_mesh(aval.sharding.mesh)
    spec = PartitionSpec(*(None for _ in aval.shape))
    return aval.update(sharding=NamedSharding(mesh, spec))


def auto_mesh(mesh: Any) -> Any:
    """A mesh with its explicit axes made ``Auto``."""
    return mesh.update_axis_types(dict.fromkeys(mesh.explicit_axes, AxisType.Auto))


def to_auto_axes(x: Value) -> Value:
    """A value where the mesh's explicit axes are ``Auto``, and nothing is unreduced."""
    sharding = explicit_sharding(_core.typeof(x))
    if sharding is None:
        return x
    parts = partitions(sharding)
    if sharding.spec.unreduced and jax.numpy.iscomplexobj(x):
        raise NotImplementedError("XLA for CPUs crashes when it adds up complex parts")
    if sharding.spec.unreduced or sharding.spec.reduced:
        with within_mesh(sharding.mesh):
            x = jax.sharding.reshard(x, NamedSharding(sharding.mesh, PartitionSpec(*parts)))
    mesh = auto_mesh(sharding.mesh)
    with within_mesh(mesh):
        return jax.sharding.reshard(x, NamedSharding(mesh, PartitionSpec(*(None for _ in parts))))
