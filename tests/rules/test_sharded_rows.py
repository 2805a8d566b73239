"""The first row of each op on a mesh with explicit axes, where shardings are part of types.

The types of the cotangents are those of the operands, with what is reduced and unreduced exchanged, and
those of `jax.vjp` where it has an answer. The values are those of `jax.vjp` on whole arrays.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import funcgrad
from funcgrad.registry import op_key
from tests.meshes import mesh_of
from tests.rules.cases import Case, assert_close, random_like
from tests.rules.rows import rows

SIZES = {"a": 2, "b": 3}
"""The mesh: an axis of an array is sharded over one whose size divides its own."""


def sharded(*chosen: int, only: int | None = None) -> Callable[..., PartitionSpec]:
    """Of an operand those of its axes sharded that are chosen among those that can be, by number.

    With `only`, other operands are whole.
    """

    def layout(x: Any, operand: int) -> PartitionSpec:
        found: dict[int, str] = {}
        for axis, n in enumerate(np.shape(x)):
            fits = [name for name, size in SIZES.items() if n and not n % size]
            free = [name for name in fits if name not in found.values()]
            if free:
                found[axis] = free[0]
        taken = [
            list(found)[i] for i in chosen or range(len(found)) if -len(found) <= i < len(found)
        ]
        if only not in (None, operand):
            taken = []
        return PartitionSpec(*(found[i] if i in taken else None for i in range(np.ndim(x))))

    return layout


def apart(**kind: Any) -> Callable[..., PartitionSpec]:
    """Every operand that is differentiated reduced, or unreduced, over a mesh axis."""

    def layout(x: Any, operand: int) -> PartitionSpec:
        whole = (None for _ in np.shape(x))
        return PartitionSpec(*whole, **(kind if is_inexact(x) else {}))

    return layout


LAYOUTS = {
    "all": sharded(),
    "first": sharded(0),
    "last": sharded(-1),
    "one": sharded(0, only=0),
    "other": sharded(-1, only=1),
    "reduced": apart(reduced={"a"}),
    "unreduced": apart(unreduced={"a"}),
}


QUICK = ("all", "unreduced")
VALUES = ("all", "reduced", "unreduced")

EMPTY = jax.sharding.get_abstract_mesh()

PARTIAL = ("reduced", "unreduced")
WITHOUT_TYPES = ("sparse", "multihost")
"""Families of which JAX's rules know no shardings: its cotangents have lost them, and some operations
do not run on such a mesh, so that their values are not compared."""


def is_inexact(x: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.inexact)


def is_complex(x: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.complexfloating)


class Sharded:
    """A row with its operands sharded; what `jax.vjp` and ours make of it."""

    def __init__(self, case: Case, layout: Callable[..., PartitionSpec], mesh: Any):
        self.case = case
        specs = [layout(x, i) for i, x in enumerate(case.args)]
        self.shardings = [NamedSharding(mesh, spec) for spec in specs]
        self.args = [
            jax.ShapeDtypeStruct(np.shape(x), jnp.result_type(x), sharding=sharding)
            for x, sharding in zip(case.args, self.shardings, strict=True)
        ]
        self.wanted = [i for i, x in enumerate(case.args) if is_inexact(x)]
        self.out = jax.make_jaxpr(case.fn)(*self.args).out_avals  # an error where JAX refuses
        self.cts = [cotangent_like(y, seed=i) for i, y in enumerate(self.out)]

    def values(self) -> list[Any]:
        """The operands' values, sharded."""
        pairs = zip(self.case.args, self.shardings, strict=True)
        return [jax.sharding.reshard(jnp.asarray(x), sharding) for x, sharding in pairs]

    def pulled_back(self, vjp: Any) -> Callable[..., Any]:
        """The cotangents of the differentiated operands, as a function of all operands."""

        def cotangents(*args: Any) -> Any:
            def fn(*given: Any) -> Any:
                filled = list(args)
                for i, x in zip(self.wanted, given, strict=True):
                    filled[i] = x
                return jax.tree.leaves(self.case.fn(*filled))

            outs, pullback = vjp(fn, *(args[i] for i in self.wanted))
            cts = [typed_like(ct, y) for ct, y in zip(self.cts, outs, strict=True)]
            return pullback(cts)

        return cotangents

    def types(self, vjp: Any) -> list[str]:
        """The types of the cotangents: shape, dtype, sharding, reduced and unreduced axes."""
        return [str(aval) for aval in jax.make_jaxpr(self.pulled_back(vjp))(*self.args).out_avals]

    def expected_types(self) -> list[str]:
        """The operands' types with reduced and unreduced axes exchanged."""
        avals = jax.make_jaxpr(lambda *args: args)(*self.args).in_avals
        return [str(avals[i].to_ct_aval()) for i in self.wanted]


def cotangent_like(y: Any, seed: int) -> Any:
    """A random cotangent for a value of this type."""
    if not is_inexact(y):
        return np.zeros(y.shape, jax.dtypes.float0)
    number = np.complex128 if jnp.issubdtype(y.dtype, np.complexfloating) else np.float64
    return jnp.asarray(random_like(np.empty(y.shape, number), seed), y.dtype)


def typed_like(ct: Any, y: Any) -> Any:
    """A cotangent with the type that a cotangent of `y` has."""
    sharding = jax.typeof(y).to_ct_aval().sharding
    if sharding.mesh.empty or ct.dtype == jax.dtypes.float0:
        return ct
    return jax.sharding.reshard(ct, sharding)


def applied(case: Case, layout: str, mesh: Any) -> Sharded | None:
    """A row in a layout; None where JAX does not take it.

    Where something is unreduced, complex numbers are left out, for which JAX has next to no rules, and
    rows with a mesh of their own: XLA for CPUs crashes.
    """
    try:
        row = Sharded(case, LAYOUTS[layout], mesh)
    except Exception:
        return None
    if layout in PARTIAL and (
        any(map(is_complex, (*case.args, *row.out)))
        or any(y.sharding.mesh not in (mesh.abstract_mesh, EMPTY) for y in row.out)
    ):
        return None
    return row if row.wanted and any(map(is_inexact, row.out)) else None


def compiles(fn: Callable[..., Any], args: Any) -> bool:
    """Whether JAX itself can run the function on these operands."""
    try:
        jax.jit(fn)(*args)
    except Exception:
        return False
    return True


def first_rows(slow: bool, layouts: tuple[str, ...] = tuple(LAYOUTS)) -> list[Any]:
    """The first row of each op in some layouts as parameters; all but `QUICK` layouts are slow."""
    found, met = [], set()
    for family, case in rows():
        if op_key(case.op) in met or (layouts == VALUES and family in WITHOUT_TYPES):
            continue
        met.add(op_key(case.op))
        found += [
            pytest.param(
                case,
                name,
                id=f"{family}-{case.id}-{name}",
                marks=[pytest.mark.slow] if slow or name not in QUICK else [],
            )
            for name in layouts
        ]
    return found


@functools.cache
def loses_types() -> set[Any]:
    """The ops of which JAX's cotangents have lost the shardings."""
    return {op_key(case.op) for family, case in rows() if family in WITHOUT_TYPES}


@functools.cache
def explicit_mesh() -> Any:
    return mesh_of(AxisType.Explicit, **SIZES)


@pytest.mark.parametrize(("case", "layout"), first_rows(slow=False))
def test_types(case: Case, layout: str) -> None:
    mesh = explicit_mesh()
    with jax.enable_x64(True), jax.set_mesh(mesh):
        row = applied(case, layout, mesh)
        if row is None:
            return
        try:
            of_jax = row.types(jax.vjp)
        except Exception:
            of_jax = None
        ours = row.types(funcgrad.vjp)
        assert ours == row.expected_types()
        assert of_jax in (None, ours) or op_key(case.op) in loses_types()


@pytest.mark.parametrize(("case", "layout"), first_rows(slow=True, layouts=VALUES))
def test_values(case: Case, layout: str) -> None:
    mesh = explicit_mesh()
    with jax.enable_x64(True):
        with jax.set_mesh(mesh):
            row = applied(case, layout, mesh)
            if row is None:
                return
            args = row.values()
            try:
                cts = jax.jit(row.pulled_back(funcgrad.vjp))(*args)
            except Exception:
                if compiles(case.fn, args):
                    raise
                return
            whole = [jax.sharding.reshard(ct, PartitionSpec()) for ct in cts]
            ours = [np.asarray(ct) for ct in whole]
        expected = jax.jit(row.pulled_back(jax.vjp))(*map(jnp.asarray, case.args))
        assert_close(ours, list(expected), case.rtol, f"{case.id} {layout}")
