"""Matrix products in groups and products of scaled operands."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from funcgrad import _jax
from tests.rules.alone import check_alone
from tests.rules.cases import Case, complex_normal, normal

RAGGED = _jax.ragged_dot_general_p
SCALED = _jax.scaled_dot_p
TESTED_APART = (SCALED,)

SIZES = np.array([2, 0, 3], np.int32)  # the last row of six is in no group
EACH = np.array([[[1, 0, 2], [0, 3, 0]], [[2, 1, 0], [0, 1, 1]]], np.int32)


def ragged(summed: Any, batch: Any, axis: int, groups: Any, sizes: Any, **params: Any) -> Any:
    numbers = lax.RaggedDotDimensionNumbers((summed, batch), [axis], groups)
    return lambda x, y: lax.ragged_dot_general(x, y, jnp.asarray(sizes), numbers, **params)


# JAX has no second derivative: it does not transpose the products that its own first one is made of
CASES = [
    Case(RAGGED, fn, args, name, order=1, vmap=False)
    for name, fn, args in [
        ("rows", lambda x, y: lax.ragged_dot(x, y, SIZES), (normal(6, 4), normal(3, 4, 2))),
        (
            "complex",
            lambda x, y: lax.ragged_dot(x, y, SIZES),
            (complex_normal(6, 2), complex_normal(3, 2, 2)),
        ),
        ("no-rows", lambda x, y: lax.ragged_dot(x, y, 0 * SIZES), (normal(0, 2), normal(3, 2, 2))),
        (
            "any-axes",
            ragged(((0, 4), (4, 1)), ((1,), (0,)), 3, [2], EACH),
            (normal(2, 2, 2, 4, 3), normal(2, 3, 3, 2, 2)),
        ),
    ]
]


ALONE = {
    "rows": (lambda x, y: lax.ragged_dot(x, y, SIZES), (6, 2), (3, 2, 2)),
    "sums": (ragged(((0,), (0,)), ((), ()), 0, [], SIZES), (6, 2), (6, 3)),
    "sums-of-any-axes": (
        ragged(((0, 3), (3, 0)), ((1,), (1,)), 3, [], EACH),
        (2, 2, 3, 4),
        (4, 2, 3, 2),
    ),
    "batch": (ragged(((2,), (1,)), ((0,), (0,)), 0, [], SIZES), (5, 2, 3), (5, 3, 2)),
}


@pytest.mark.parametrize("name", ALONE)
def test_both_orders_where_jax_has_fewer(name: str) -> None:
    fn, x_shape, y_shape = ALONE[name]
    check_alone(RAGGED, fn, normal(*x_shape), normal(*y_shape, seed=1))


def test_vmap() -> None:
    def slope(x: Any, y: Any, sizes: Any) -> Any:
        return funcgrad.grad(lambda x, y: jnp.sum(lax.ragged_dot(x, y, sizes) ** 2), (0, 1))(x, y)

    batch = jnp.asarray(normal(2, 6, 3)), jnp.asarray(normal(2, 3, 3, 2)), np.array([SIZES, SIZES])
    for found, *each in zip(jax.vmap(slope)(*batch), *map(slope, *batch), strict=True):
        np.testing.assert_allclose(found, jnp.stack(each), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("accumulated", [jnp.float32, None])
def test_half_precision(accumulated: Any) -> None:
    x, y = (jnp.asarray(normal(*shape), jnp.bfloat16) for shape in [(6, 4), (3, 4, 2)])

    def total(x: Any, y: Any) -> Any:
        products = lax.ragged_dot(x, y, SIZES, preferred_element_type=accumulated)
        return jnp.sum(products.astype(jnp.float32) ** 2)

    ours, expected = (grad(total, (0, 1))(x, y) for grad in (funcgrad.grad, jax.grad))
    for a, b in zip(ours, expected, strict=True):
        assert a.dtype == b.dtype == jnp.bfloat16
        np.testing.assert_array_equal(a, b)


# --- products of scaled operands --------------------------------------------------------------


def scaled(x: Any, y: Any, a: Any, b: Any) -> Any:
    product = lax.scaled_dot(x, y, lhs_scale=a, rhs_scale=b, preferred_element_type=jnp.float32)
    return jnp.sum(product**2)


def scaled_by_hand(x: Any, y: Any, a: Any, b: Any) -> Any:
    wide_a, wide_b = jnp.repeat(a, 4, -1), jnp.repeat(b, 2, -2)
    return jnp.sum(((x * wide_a) @ (y * wide_b)) ** 2)


@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
def test_scaled_dot(batch: tuple[int, ...]) -> None:
    """Within a few roundings to bfloat16, in which the op scales its operands."""
    shapes = [(4, 8), (8, 3), (4, 2), (4, 3)]
    args = [jnp.asarray(normal(*batch, *s, seed=i), jnp.bfloat16) for i, s in enumerate(shapes)]
    ours = jax.jit(funcgrad.grad(scaled, (0, 1, 2, 3)))(*args)
    with jax.enable_x64(True):
        wide = [x.astype(jnp.float64) for x in args]
        expected = jax.grad(scaled_by_hand, (0, 1, 2, 3))(*wide)
    bound = 4 * float(jnp.finfo(jnp.bfloat16).eps)
    for found, truth in zip(ours, expected, strict=True):
        assert found.dtype == jnp.bfloat16
        np.testing.assert_allclose(
            np.float64(found), truth, rtol=bound, atol=bound * np.abs(truth).max()
        )


def test_scaled_dot_of_float8_by_exponents() -> None:
    args = [
        jnp.asarray(normal(4, 8), jnp.float8_e4m3fn),
        jnp.asarray(normal(8, 3), jnp.float8_e5m2),
        jnp.full((4, 2), 2, jnp.float8_e8m0fnu),
        jnp.full((4, 3), 0.5, jnp.float8_e8m0fnu),
    ]
    ours = funcgrad.grad(lambda x, y: scaled(x, y, *args[2:]), (0, 1))(*args[:2])
    wide = [x.astype(jnp.float32) for x in args]
    expected = jax.grad(scaled_by_hand, (0, 1))(*wide)
    for found, truth, x in zip(ours, expected, args, strict=False):
        assert found.dtype == x.dtype
        bound = float(jnp.finfo(x.dtype).eps)
        np.testing.assert_allclose(
            np.float32(found), truth, rtol=bound, atol=bound * np.abs(truth).max()
        )
