"""Pooling: window maximum, minimum and sum, and the ops that JAX derives from them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from tests.rules.cases import Case, complex_normal, distinct, normal

REDUCTIONS = {"max": (lax.max, -np.inf), "min": (lax.min, np.inf), "sum": (lax.add, 0.0)}


def pool(
    kind: str, size: Any, strides: Any, padding: Any = "VALID", base: Any = None, window: Any = None
) -> Any:
    reduction, start = REDUCTIONS[kind]
    return lambda x: lax.reduce_window(
        x, np.asarray(start, x.dtype), reduction, size, strides, padding, base, window
    )


def pool_vjp(*args: Any) -> Any:
    return lambda ct, x: jax.vjp(pool(*args), x)[1](ct)[0]


def pool_jvp(*args: Any) -> Any:
    return lambda t, x: jax.jvp(pool(*args), (x,), (t,))[1]


MAX, MIN, SUM = lax.reduce_window_max_p, lax.reduce_window_min_p, lax.reduce_window_sum_p
SPREAD, PICK = lax.select_and_scatter_add_p, lax.select_and_gather_add_p
SIDES = ((1, 0), (1, 1))

CASES = [
    Case(MAX, pool("max", (2, 2), (2, 2)), (distinct(4, 6),), "blocks"),
    Case(MAX, pool("max", (2, 2), (2, 2), SIDES), (distinct(5, 5),), "blocks-padded"),
    Case(MAX, pool("max", (2, 1), (3, 2)), (distinct(7, 4),), "gaps"),
    Case(MAX, pool("max", (3, 3), (2, 1), SIDES), (distinct(5, 4),), "overlapping"),
    Case(MAX, pool("max", (2, 2), (1, 2), SIDES, (2, 2)), (distinct(4, 3),), "base-dilation"),
    Case(MAX, pool("max", (66,), (2,)), (distinct(70),), "large"),
    Case(MAX, pool("max", (2, 2), (2, 2)), (distinct(0, 4),), "empty"),
    Case(MAX, pool("max", (3,), (1,)), (distinct(2),), "no-window"),
    Case(MIN, pool("min", (2, 2), (2, 2)), (distinct(4, 4),), "blocks"),
    Case(MIN, pool("min", (3, 2), (1, 1), SIDES), (distinct(4, 4),), "overlapping"),
    Case(SUM, pool("sum", (2, 2), (2, 2), SIDES), (complex_normal(4, 4),), "blocks"),
    Case(SUM, pool("sum", (2, 1), (3, 2)), (normal(7, 4),), "gaps"),
    Case(SUM, pool("sum", (130,), (140,)), (normal(131),), "large"),
    Case(SUM, pool("sum", (3, 2), (2, 1), ((-1, 2), (1, 0))), (normal(5, 4),), "overlapping"),
    Case(SUM, pool("sum", (2, 2), (2, 1), SIDES, (2, 3), (3, 2)), (normal(4, 3),), "dilated"),
    Case(SUM, pool("sum", (2,), (2,)), (normal(0),), "empty"),
    Case(SPREAD, pool_vjp("max", (2, 2), (2, 2), SIDES), (normal(2, 3), distinct(4, 5)), "blocks"),
    Case(SPREAD, pool_vjp("min", (3,), (2,)), (normal(3), distinct(7)), "overlapping"),
    Case(SPREAD, pool_vjp("max", (66,), (2,)), (normal(3), distinct(70)), "large"),
    Case(PICK, pool_jvp("max", (2, 2), (2, 2), SIDES), (normal(4, 5), distinct(4, 5)), "blocks"),
    Case(
        PICK, pool_jvp("min", (3,), (2,), ((1, 1),), (2,)), (normal(4), distinct(4)), "overlapping"
    ),
]

CASES += [
    Case(op, fn, args, name, order=1)
    for op, fn, args, name in [
        (SUM, pool("sum", (3,), (1,), "SAME"), (complex_normal(4),), "complex-overlapping"),
        (SUM, pool("sum", (1, 1), (2, 3)), (normal(3, 4),), "single-elements"),
        (SUM, pool("sum", (2,), (1,), ((-1, -1),), (2,)), (normal(5),), "cut-dilated"),
        (MAX, pool("max", (1, 1), (2, 1)), (normal(3, 2),), "single-elements"),
        (MAX, pool("max", (2, 2), (2, 2), "SAME_LOWER"), (distinct(3, 3),), "same-lower"),
        (MIN, pool("min", (1, 3), (1, 2), "SAME"), (distinct(1, 5),), "one-row"),
        (MIN, pool("min", (2,), (2,)), (normal(1),), "no-window"),
    ]
]

INFINITE = np.array([-np.inf, -np.inf, -np.inf, 1.0, np.inf, np.inf, -np.inf, -np.inf])
NANS = np.array([1.0, np.nan, 0.0, 2.0, np.nan, np.nan, 3.0, np.nan, 1.0])
SPECIAL = [
    Case(op, pool(kind, size, strides, padding), (x,), name, smooth=False, order=1)
    for op, kind in [(MAX, "max"), (MIN, "min")]
    for name, size, strides, padding, x in [
        ("ties", (2, 2), (2, 2), "VALID", np.ones((4, 4))),
        ("overlapping-ties", (3, 2), (1, 1), SIDES, np.ones((3, 3))),
        ("infinite", (3,), (2,), ((1, 1),), INFINITE),
        ("infinite-blocks", (2,), (2,), ((1, 1),), INFINITE),
        ("large-ties", (66,), (2,), ((1, 1),), np.ones(70)),
    ]
] + [
    Case(MAX, pool("max", (4,), (1,)), (NANS,), "nan", smooth=False, order=1),
]


def grads(f: Any, g: Any, x: Any) -> tuple[Any, Any]:
    """Our gradient of f and JAX's of g, both weighted."""

    def weighted(h: Any) -> Any:
        return lambda x: jnp.sum(h(x) * normal(*h(x).shape))

    with jax.enable_x64(True):
        return funcgrad.grad(weighted(f))(jnp.asarray(x)), jax.grad(weighted(g))(jnp.asarray(x))


def test_dilated_windows() -> None:
    """jax.grad refuses window dilation; the reference takes the maximum of slices."""

    def slices(x: Any) -> Any:
        corners = [x[i : i + 4, j : j + 3] for i in (0, 2) for j in (0, 3)]
        return jnp.max(jnp.stack(corners), axis=0)

    ours, expected = grads(
        pool("max", (2, 2), (1, 1), "VALID", None, (2, 3)), slices, distinct(6, 6)
    )
    np.testing.assert_allclose(ours, expected, rtol=1e-12)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_negative_padding(strides: Any) -> None:
    """jax.grad fails on negative padding on the CPU; the reference crops first."""
    padded = pool("max", (2, 2), strides, ((-1, 1), (1, -2)))
    cropped = pool("max", (2, 2), strides, ((0, 1), (1, 0)))
    ours, expected = grads(padded, lambda x: cropped(x[1:, :-2]), distinct(5, 6))
    np.testing.assert_allclose(ours, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("size", "strides"), [((1, 3, 3, 1), (1, 1, 1, 1)), ((1, 3, 3, 1), (1, 2, 2, 1))]
)
def test_each_cotangent_arrives_once_where_xla_computes_the_operand_again(
    size: Any, strides: Any
) -> None:
    """Elements that tie are told apart by rounding, which differs between XLA's fusions.

    If the choice in a window were made once for each place in it, a cotangent could get lost.
    """
    pooled = pool("max", size, strides, "SAME")
    values = np.random.default_rng(0).integers(0, 3, (16, 4, 4, 8)) * 0.37
    scale, bias = (normal(8).astype(np.float32) + shift for shift in (1, 0))

    def loss(h: Any, scale: Any, bias: Any) -> Any:
        mean = h.mean((0, 1, 2))
        factor = lax.rsqrt((h * h).mean((0, 1, 2)) - mean**2 + 1e-5) * scale
        x = jax.nn.relu((h - mean) * factor + bias)
        return jnp.sum(pooled(x) * normal(*pooled(x).shape)) + jnp.sum(x**2)

    args = jnp.float32(values), scale, bias
    ours, expected = (jax.jit(by.grad(loss, (0, 1, 2)))(*args) for by in (funcgrad, jax))
    for ct, ct_expected in zip(ours, expected, strict=True):
        assert np.linalg.norm(ct - ct_expected) <= 1e-5 * np.linalg.norm(ct_expected)
