"""Functions that call functions, on a mesh with explicit axes: values and types of their gradients.

The type has the sharding, and the mesh axes over which a value is reduced or unreduced. What is reduced
has a gradient that is unreduced, and the other way round. The values are compared with differences.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec, reshard

import funcgrad
from tests.meshes import mesh_of
from tests.rules.cases import normal

P = PartitionSpec

LAYOUTS = {
    "rows": P("a", None),
    "columns": P(None, "b"),
    "both": P("a", "b"),
    "reduced": P(None, None, reduced={"a"}),
    "unreduced": P(None, None, unreduced={"a"}),
}


@functools.cache
def explicit_mesh() -> Any:
    return mesh_of(AxisType.Explicit, a=2, b=2)


@dataclass(frozen=True)
class Program:
    """A function of an array of shape (4, 2), with the layouts in which JAX can run it."""

    fn: Callable[[Any], Any]
    layouts: tuple[str, ...] = ("rows", "columns", "both", "reduced")


def scanned(x: Any) -> Any:
    carry, ys = lax.scan(lambda c, _: (jnp.sin(c) * x, c * x), x, None, length=3)
    return jnp.sum(carry) + jnp.sum(ys)


def unrolled(x: Any) -> Any:
    """The bound of the clip is a number, which is kept of each step as an array on no mesh."""

    def step(carry: Any, _: Any) -> Any:
        carry = jnp.clip(carry * x, -0.5, carry)
        return jnp.sin(carry), carry

    return jnp.sum(lax.scan(step, jnp.sin(x), None, length=3, unroll=2)[0])


def scanned_over(x: Any) -> Any:
    weight = jnp.ones((2, 2), x.dtype)

    def step(carry: Any, row: Any) -> Any:
        carry = jnp.tanh(jnp.dot(carry, weight, out_sharding=P(None))) + row
        return carry, None

    return jnp.sum(lax.scan(step, jnp.zeros(2, x.dtype), reshard(x, P(None, None)))[0])


def repeated(x: Any) -> Any:
    def body(state: Any) -> Any:
        i, y = state
        return i + 1, jnp.sin(y) * x

    return jnp.sum(lax.while_loop(lambda state: state[0] < 5, body, (0, x))[1])


def counted(x: Any) -> Any:
    return jnp.sum(lax.fori_loop(0, 4, lambda i, y: jnp.sin(y) * x, x))


def chosen(x: Any) -> Any:
    index = jnp.argmax(jnp.arange(3))
    branches = [lambda x: x + x, lambda x: jnp.sin(x) * x, lambda x: jnp.sin(jnp.cos(x)) * x]
    return jnp.sum(lax.switch(index, branches, x))


def chosen_constant(x: Any) -> Any:
    """One branch does not read x: its cotangent is zeros of the other's type."""
    flag = jnp.argmax(jnp.arange(3)) > 1
    return jnp.sum(lax.cond(flag, jnp.sin, lambda x: jnp.sin(lax.stop_gradient(x)), x))


@jax.custom_vjp
def tripled(x: Any) -> Any:
    return x + x + x


tripled.defvjp(lambda x: (x + x + x, None), lambda _, ct: (ct + ct + ct,))


@jax.custom_jvp
def sine(x: Any) -> Any:
    return jnp.sin(x)


sine.defjvp(lambda primals, tangents: (jnp.sin(*primals), jnp.cos(*primals) * tangents[0]))


def by_auto_axes(x: Any) -> Any:
    inside = jax.sharding.auto_axes(lambda y: jnp.sin(y.reshape(8)), out_sharding=P("a"))
    return jnp.sum(inside(x))


def mapped(x: Any) -> Any:
    body = jax.shard_map(
        lambda y, z: lax.psum(jnp.sin(y) * z, "a"),
        in_specs=(P("a", None), P()),
        out_specs=P(),
    )
    return jnp.sum(body(reshard(x, P("a", None)), jnp.ones((2,), x.dtype)))


def summed_outside(x: Any) -> Any:
    """The output of the shard_map is unreduced: the sum over devices is left to what comes after."""
    body = jax.shard_map(
        lambda y: lax.pcast(jnp.sum(jnp.sin(y) * y, 0), "a", to="unreduced"),
        in_specs=P("a", None),
        out_specs=P(None, unreduced={"a"}),
    )
    return jnp.sum(jnp.sin(reshard(body(reshard(x, P("a", None))), P(None))))


def shared_inside(x: Any) -> Any:
    """An input of the shard_map is reduced: its cotangents are not summed inside."""
    body = jax.shard_map(
        lambda w, z: jnp.sum(jnp.sin(lax.pcast(w, "a", to="varying")) * jnp.sum(z), keepdims=True),
        in_specs=(P(None, None, reduced={"a"}), P("a", None)),
        out_specs=P("a", None),
    )
    weight = reshard(x, P(None, None, reduced={"a"}))
    return jnp.sum(body(weight, reshard(jnp.arange(8.0).reshape(4, 2)[:, :1], P("a", None))))


def largest_of_reduced(x: Any) -> Any:
    """What the shard_map's body keeps, an array and a scalar, is reduced, and so is its result."""
    gather = lambda y: lax.all_gather(jnp.sin(y), "a", axis=0, tiled=True, to="reduced")
    body = jax.shard_map(
        lambda y: jnp.max(gather(y)), in_specs=P("a", None), out_specs=P(reduced={"a"})
    )
    return body(reshard(x, P("a", None)))


def of_checkpoint(fn: Callable[[Any], Any], **settings: Any) -> Callable[[Any], Any]:
    return jax.checkpoint(fn, **settings)


def layers(x: Any) -> Any:
    return jnp.sum(jnp.sin(jnp.sin(x) * x) * x)


DOTS = jax.checkpoint_policies.dots_saveable
SHARDED = ("rows", "columns", "both")
WITH_REDUCED = tuple(LAYOUTS) if jax.__version_info__ >= (0, 12) else ()
"""Layouts in which JAX runs a maximum of a reduced value, which it does from 0.12 on."""

PROGRAMS = {
    "plain": Program(layers),
    "used twice": Program(lambda x: jnp.sum(x + x), tuple(LAYOUTS)),
    "resharded": Program(lambda x: jnp.sum(jnp.sin(reshard(x, P("a", None)))), tuple(LAYOUTS)),
    "unused": Program(lambda x: jnp.float64(2.0), tuple(LAYOUTS)),
    "selected": Program(lambda x: jnp.sum(jnp.where(x > 0, x, jnp.sin(x)))),
    "jit": Program(jax.jit(layers)),
    "checkpoint": Program(of_checkpoint(layers)),
    "checkpoint of a policy": Program(of_checkpoint(layers, policy=DOTS)),
    "checkpoint without barriers": Program(of_checkpoint(layers, prevent_cse=False)),
    "scan": Program(scanned, SHARDED),
    "scan, unrolled": Program(unrolled, SHARDED),
    "scan over rows": Program(scanned_over),
    "while_loop": Program(repeated, SHARDED),
    "fori_loop": Program(counted),
    "switch": Program(chosen),
    "cond of a constant": Program(chosen_constant),
    "custom_vjp": Program(lambda x: jnp.sum(tripled(x)), tuple(LAYOUTS)),
    "custom_jvp": Program(lambda x: jnp.sum(sine(x))),
    "auto_axes": Program(by_auto_axes),
    "auto_axes of one axis": Program(
        lambda x: jnp.sum(jax.sharding.auto_axes(jnp.sin, axes="a", out_sharding=P())(x) ** 2)
    ),
    "shard_map": Program(mapped, tuple(LAYOUTS)),
    "shard_map with an unreduced output": Program(summed_outside, tuple(LAYOUTS)),
    "shard_map with a reduced input": Program(shared_inside, tuple(LAYOUTS)),
    "shard_map with a reduced output": Program(largest_of_reduced, WITH_REDUCED),
    "vmap over a mesh axis": Program(
        lambda x: jnp.sum(jax.vmap(lambda r: jnp.sin(r) * r, spmd_axis_name="a")(x)), ("rows",)
    ),
    "vmap": Program(
        lambda x: jnp.sum(jax.vmap(lambda r: jnp.cumsum(jnp.sin(r)) * r)(x)), ("rows",)
    ),
    "gathered": Program(
        lambda x: jnp.sum(x.at[jnp.array([0, 2])].get(out_sharding=P()) ** 2), SHARDED
    ),
    "written": Program(
        lambda x: jnp.sum(x.at[0].set(2.0, out_sharding=P("a", None)) ** 2), ("rows",)
    ),
}

CASES = [
    pytest.param(program, layout, id=f"{name}-{layout}")
    for name, program in PROGRAMS.items()
    for layout in program.layouts
]


def typed(ct: Any) -> str:
    return str(jax.typeof(ct))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize(("program", "layout"), CASES)
def test_gradient(program: Program, layout: str, wrap: Any) -> None:
    x = normal(4, 2)
    with jax.enable_x64(True):
        with jax.set_mesh(explicit_mesh()):
            sharded = reshard(jnp.asarray(x), LAYOUTS[layout])
            gradient = wrap(funcgrad.grad(program.fn))(sharded)
            assert typed(gradient) == str(jax.typeof(sharded).to_ct_aval())
            ours = np.asarray(reshard(gradient, P(None, None)))
            expected = differences(program.fn, x)
        np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-8)


def differences(fn: Callable[[Any], Any], x: np.ndarray) -> np.ndarray:
    """The gradient by central differences, of whole arrays on the same mesh."""
    step = 1e-5
    moves = step * np.eye(x.size).reshape(x.size, *x.shape)
    run = jax.jit(lambda x: fn(reshard(x, P("a", None))))
    slopes = [(run(x + move) - run(x - move)) / (2 * step) for move in moves]
    return np.asarray(slopes).reshape(x.shape)


def test_a_body_in_automatic_axes_closes_over_a_number_on_no_mesh() -> None:
    def repeated(number: Any, x: Any) -> Any:
        inside = jax.sharding.auto_axes(lambda y: jnp.sin(y) * number, out_sharding=P())
        return lax.scan(lambda y, _: (inside(y), None), x, None, length=3)[0]

    with jax.enable_x64(True), jax.set_mesh(explicit_mesh()):
        ours = jax.jit(funcgrad.grad(repeated, (0, 1)))(1.5, 2.0)
        expected = jax.jit(jax.grad(repeated, (0, 1)))(1.5, 2.0)
    np.testing.assert_allclose(ours, expected, rtol=1e-12)


@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_second_order(layout: str) -> None:
    x = normal(4, 2)

    def squared_slope(grad: Any, fn: Any) -> Any:
        return lambda x: jnp.sum(reshard(grad(fn)(x), P(None, None)) ** 2)

    with jax.enable_x64(True), jax.set_mesh(explicit_mesh()):
        sharded = reshard(jnp.asarray(x), LAYOUTS[layout])
        ours = jax.jit(funcgrad.grad(squared_slope(funcgrad.grad, layers)))(sharded)
        expected = jax.jit(jax.grad(squared_slope(jax.grad, layers)))(sharded)
        assert typed(ours) == typed(expected)
        ours, expected = (np.asarray(reshard(ct, P(None, None))) for ct in (ours, expected))
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-12)
