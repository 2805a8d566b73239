"""The identity that keeps XLA from computing a value again, and where it says nothing."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.sharding import NamedSharding, PartitionSpec

from funcgrad import _jax
from tests.compare import assert_same
from tests.meshes import mesh_of

X = np.arange(12.0, dtype=np.float32).reshape(3, 4)


def held(x: Any) -> Any:
    return _jax.held_p.bind(x * 2) + 1


def chain(x: Any, hold: Any) -> list[Any]:
    """Four values, each of which two results read."""
    results = []
    for _ in range(4):
        x = hold(x * X + x)
        results += [x * 3, x - X]
    return results


def multiplications(hold: Any) -> int:
    return jax.jit(lambda x: chain(x, hold)).lower(X).compile().as_text().count(" multiply(")


def test_xla_computes_what_is_held_once() -> None:
    assert multiplications(_jax.held_p.bind) == 4 + 4
    assert multiplications(lambda x: x) > 16


def test_it_is_the_identity() -> None:
    expected = 2 * X + 1
    batched = jax.vmap(held, in_axes=1, out_axes=1)
    for fn in (held, jax.jit(held), batched, jax.jit(batched)):
        assert_same(fn(X), expected)
    assert _jax.held_p.bind(np.float32(1)) == 1


def test_its_tangent_and_cotangent() -> None:
    out, tangent = jax.jvp(held, (X,), (X,))
    assert_same([out, tangent], [2 * X + 1, 2 * X])
    assert_same(jax.jit(jax.grad(lambda x: jnp.sum(held(x) * X)))(X), 2 * X)


def test_a_linear_function_that_holds_is_transposed() -> None:
    transposed = jax.linear_transpose(lambda x: 3 * _jax.held_p.bind(x)[:, 1:], X)
    expected = 3 * jnp.pad(X[:, 1:], ((0, 0), (1, 0)))
    assert_same(jax.jit(transposed)(jnp.asarray(X[:, 1:]))[0], expected)


def text(fn: Any, *args: Any, **settings: Any) -> str:
    return jax.jit(fn, **settings).lower(*args).as_text()


def test_nothing_is_left_of_it_in_a_program_for_several_devices() -> None:
    assert "LayoutConstraint" in text(held, X)
    mesh = mesh_of(a=2)
    rows = NamedSharding(mesh, PartitionSpec("a"))
    assert "LayoutConstraint" not in text(held, jnp.ones((4, 2)), in_shardings=rows)


def test_nothing_is_left_of_it_in_a_program_that_is_exported() -> None:
    for platforms in (("cpu",), ("cuda",), ("cpu", "cuda")):
        exported = export.export(jax.jit(held), platforms=platforms)(X)
        assert "LayoutConstraint" not in exported.mlir_module()
        assert "case" not in exported.mlir_module()
    exported = export.deserialize(export.export(jax.jit(held))(X).serialize())
    assert_same(exported.call(X), 2 * X + 1)
