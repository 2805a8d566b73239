"""Layout ops against jax.vjp and finite differences."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import funcgrad
from funcgrad import _jax
from funcgrad.rules.shape import broadcast_in_dim_vjp
from tests.rules.cases import Case, complex_normal, normal

stack_p, unstack_p = _jax.stack_p, _jax.unstack_p
tile_p = _jax.tile_p


def sharding(axis_type: AxisType) -> NamedSharding:
    """One device, so that tests need no more; what is checked is that the rules accept it."""
    mesh = jax.make_mesh((1,), ("rows",), axis_types=(axis_type,))
    return NamedSharding(mesh, PartitionSpec("rows", None))


def constrained(x: Any) -> Any:
    return lax.with_sharding_constraint(x * x, sharding(AxisType.Auto))


def resharded(x: Any) -> Any:
    return jax.sharding.reshard(x * x, sharding(AxisType.Explicit))


def broadcast(shape: tuple[int, ...], *axes: int) -> Any:
    return lambda x: lax.broadcast_in_dim(x, shape, axes)


def pad(*config: tuple[int, int, int]) -> Any:
    return lambda x, value: lax.pad(x, value, config)


BROADCAST = [
    Case(lax.broadcast_in_dim_p, broadcast((2, 3, 4), 1, 2), (normal(3, 4),), "new axis"),
    Case(lax.broadcast_in_dim_p, broadcast((2, 3, 4), 0, 1), (normal(2, 1),), "new and stretched"),
    Case(lax.broadcast_in_dim_p, broadcast((1, 3, 1), 1), (normal(3),), "new axes of size 1"),
    Case(lax.broadcast_in_dim_p, broadcast((2, 3)), (normal(),), "scalar"),
    Case(lax.broadcast_in_dim_p, broadcast((0, 3), 0, 1), (normal(1, 3),), "stretched to size 0"),
    Case(lax.broadcast_in_dim_p, broadcast((2, 0), 1), (normal(0),), "of size 0"),
    Case(lax.broadcast_in_dim_p, broadcast((2, 3), 1), (complex_normal(3),), "complex"),
]

RESHAPING = [
    Case(lax.reshape_p, lambda x: lax.reshape(x, (4, 3)), (normal(2, 6),)),
    Case(lax.reshape_p, lambda x: lax.reshape(x, (6, 4), (2, 0, 1)), (normal(2, 3, 4),), "axes"),
    Case(lax.reshape_p, lambda x: lax.reshape(x, (3, 0)), (normal(0, 2),), "of size 0"),
    Case(lax.squeeze_p, lambda x: lax.squeeze(x, (0, 2)), (normal(1, 3, 1, 2),)),
    Case(lax.squeeze_p, lambda x: lax.squeeze(x, (0,)), (normal(1, 0),)),
    Case(lax.transpose_p, lambda x: lax.transpose(x, (2, 0, 1)), (normal(2, 3, 4),)),
    Case(lax.transpose_p, lambda x: lax.transpose(x, (1, 0)), (normal(0, 3),)),
    Case(lax.rev_p, lambda x: lax.rev(x, (0, 2)), (normal(2, 3, 4),)),
    Case(lax.rev_p, lambda x: lax.rev(x, (1,)), (normal(2, 0),)),
]

JOINING = [
    Case(
        lax.concatenate_p,
        lambda *xs: lax.concatenate(xs, 1),
        (normal(2, 1), normal(2, 3), normal(2, 0), normal(2, 2)),
    ),
    Case(lax.concatenate_p, lambda x: lax.concatenate([x, x], 0), (normal(3),), "twice the same"),
    Case(lax.split_p, lambda x: lax.split(x, (1, 0, 3), 1), (normal(2, 4),)),
    Case(lax.split_p, lambda x: lax.split(x, (1, 2, 1), 0)[1], (normal(4, 2),), "one part used"),
    Case(stack_p, lambda x, y: jnp.stack([x, y, x], 1), (normal(2, 3), normal(2, 3, seed=1))),
    Case(stack_p, lambda x, y: jnp.stack([x, y]), (normal(0), normal(0))),
    Case(unstack_p, lambda x: jnp.unstack(x, axis=1), (normal(2, 3, 2),)),
    Case(unstack_p, lambda x: jnp.unstack(x, axis=1)[1], (normal(2, 3),), "one part used"),
    Case(tile_p, lambda x: lax.tile(x, (2, 1, 3)), (normal(2, 3, 2),)),
    Case(tile_p, lambda x: lax.tile(x, (2, 0)), (normal(2, 3),), "no copy"),
    Case(tile_p, lambda x: lax.tile(x, (2, 2)), (normal(2, 0),)),
]

CUTTING = [
    Case(lax.pad_p, pad((1, 2, 0), (0, 1, 0)), (normal(2, 3), normal())),
    Case(lax.pad_p, pad((1, 0, 2), (0, 2, 1)), (normal(2, 3), normal()), "interior"),
    Case(lax.pad_p, pad((-1, 2, 0), (1, -2, 0)), (normal(3, 4), normal()), "negative"),
    Case(lax.pad_p, pad((-2, -1, 1), (-4, 1, 2)), (normal(4, 3), normal()), "negative, interior"),
    Case(lax.pad_p, pad((1, 2, 1)), (normal(0), normal())),
    Case(lax.pad_p, pad((1, -1, 1)), (complex_normal(3), complex_normal()), "complex"),
    Case(lax.slice_p, lambda x: lax.slice(x, (1, 0), (3, 4)), (normal(4, 5),)),
    Case(lax.slice_p, lambda x: lax.slice(x, (1, 0), (6, 5), (2, 3)), (normal(7, 5),), "strides"),
    Case(lax.slice_p, lambda x: lax.slice(x, (1, 2), (3, 2), (1, 2)), (normal(4, 5),), "of size 0"),
]

PLACING = [
    Case(_jax.name_p, lambda x: checkpoint_name(x * x, "square"), (normal(2, 3),)),
    Case(lax.device_put_p, lambda x: jax.device_put(x * x, jax.devices()[0]), (normal(3),)),
    Case(
        lax.device_put_p,
        lambda x, y: jax.device_put((x * y, y), jax.devices()[0])[0],
        (normal(3), normal(3, seed=1)),
        "one part used",
    ),
    Case(
        lax.optimization_barrier_p,
        lambda x, y, n: lax.optimization_barrier((x * y, y, n))[:2],
        (normal(3), normal(3, seed=1), np.arange(2)),
    ),
    Case(
        lax.optimization_barrier_p,
        lambda x, y: lax.optimization_barrier((x * x, y))[0],
        (normal(3), normal(2)),
        "one part used",
    ),
    Case(lax.sharding_constraint_p, constrained, (normal(2, 3),)),
    Case(_jax.reshard_p, resharded, (normal(2, 3),)),
]

CASES = [*BROADCAST, *RESHAPING, *JOINING, *CUTTING, *PLACING]


@pytest.mark.parametrize(
    ("operand", "shape", "axes", "wide"),
    [
        ((3,), (1, 3, 1), (1,), (5, 3, 2)),
        ((1, 3), (1, 3), (0, 1), (4, 3)),
        ((), (1, 1), (), (2, 3)),
        ((), (), (), (2, 3)),
        ((2, 1), (2, 4, 1), (0, 2), (2, 4, 3)),
    ],
)
def test_broadcast_rule_sums_a_cotangent_that_is_still_broadcast(
    operand: Any, shape: Any, axes: Any, wide: Any
) -> None:
    x, ct = jnp.asarray(normal(*operand)), jnp.asarray(normal(*wide))

    def forward(x: Any) -> Any:
        return jnp.broadcast_to(lax.broadcast_in_dim(x, shape, axes), wide)

    ct_x = broadcast_in_dim_vjp(ct, x, broadcast_dimensions=axes)
    np.testing.assert_allclose(ct_x, jax.vjp(forward, x)[1](ct)[0], rtol=1e-6, atol=1e-6)


def test_pad_value_ignores_infinite_cotangents_inside() -> None:
    ct = jnp.array([2.0, jnp.inf, 3.0])
    pull = funcgrad.vjp(lambda x, v: lax.pad(x, v, [(1, 1, 0)]), jnp.ones(1), jnp.float32(0))[1]
    np.testing.assert_array_equal(pull(ct)[1], 5.0)


def test_device_put_brings_the_cotangent_back_to_host_memory() -> None:
    def loss(x: Any) -> Any:
        return (jax.device_put(x, jax.memory.Space.Device) ** 2).sum()

    traced = jax.make_jaxpr(funcgrad.grad(loss))
    host = jax.device_put(jnp.ones(3), jax.memory.Space.Host)
    assert traced(host).out_avals[0].memory_space == jax.typeof(host).memory_space


def there_and_back(x: Any) -> Any:
    here, there = jax.devices()[:2]
    return jnp.sum(jax.device_put(jnp.sin(jax.device_put(x, there)), here) * x)


def to_another_device(x: Any) -> Any:
    return jnp.sum(jnp.sin(jax.device_put(x, jax.devices()[1])))


@pytest.mark.parametrize("loss", [there_and_back, to_another_device])
def test_device_put_to_another_device(loss: Any) -> None:
    x = jnp.arange(1.0, 4.0)
    gradient, expected = funcgrad.grad(loss)(x), jax.grad(loss)(x)
    assert gradient.devices() == expected.devices() == {jax.devices()[0]}
    np.testing.assert_array_equal(gradient, expected)
    second = [
        outer(lambda x, inner=inner: jnp.sum(inner(loss)(x)))(x)
        for outer in (jax.grad, funcgrad.grad)
        for inner in (jax.grad, funcgrad.grad)
    ]
    for found in second[1:]:
        assert found.devices() == second[0].devices()
        np.testing.assert_allclose(found, second[0], rtol=1e-6)


def test_a_rule_of_a_users_moves_to_another_device() -> None:
    def moving_vjp(ct: Any, x: Any, **_: Any) -> Any:
        here, there = jax.devices()[:2]
        return 2 * jax.device_put(jnp.cos(jax.device_put(x, there)), here) * ct

    rules = funcgrad.DEFAULT.override({lax.sin_p: moving_vjp})
    np.testing.assert_allclose(funcgrad.grad(jnp.sin, rules=rules)(1.0), 2 * jnp.cos(1.0))


@pytest.mark.parametrize("vmapped", [False, True])
def test_sharding_constraint_constrains_the_cotangent(vmapped: bool) -> None:
    def loss(x: Any) -> Any:
        return (jax.vmap(constrained)(x) if vmapped else constrained(x)).sum()

    x = jnp.ones((5, 2, 3) if vmapped else (2, 3))
    jaxpr = jax.make_jaxpr(funcgrad.grad(loss))(x)
    found = [e.params for e in jaxpr.eqns if e.primitive is lax.sharding_constraint_p]
    assert len(found) == 2
    assert found[0]["unconstrained_dims"] == found[1]["unconstrained_dims"]


def test_bits_carry_no_gradient() -> None:
    def fn(x: Any) -> Any:
        bits = lax.bitcast_convert_type(lax.bitcast_convert_type(x, jnp.int32), jnp.float32)
        return (bits * lax.iota(jnp.float32, 3) + 2 * x).sum()

    np.testing.assert_array_equal(funcgrad.grad(fn)(jnp.ones(3)), [2.0, 2.0, 2.0])
