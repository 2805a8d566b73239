"""dot_general and conv_general_dilated."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import funcgrad
from funcgrad.rules.linear import product
from funcgrad.testing.problem import equations
from tests.meshes import mesh_of, sharded
from tests.rules.cases import Case, complex_normal, normal, primitives_in


def dot(summed: Any, batch: Any = ((), ()), **params: Any) -> Any:
    return lambda x, y: lax.dot_general(x, y, (summed, batch), **params)


def mixed_dot(x: Any, y: Any) -> Any:
    x, y = x.astype(jnp.bfloat16), y.astype(jnp.bfloat16)
    return lax.dot_general(x, y, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32)


def conv(
    dims: Any = ("NCH", "OIH", "NCH"), strides: Any = (1,), padding: Any = ((0, 0),), **params: Any
) -> Any:
    return lambda x, w: lax.conv_general_dilated(
        x, w, strides, padding, dimension_numbers=dims, **params
    )


def mixed_conv(x: Any, w: Any) -> Any:
    x, w = x.astype(jnp.bfloat16), w.astype(jnp.bfloat16)
    return conv(preferred_element_type=jnp.float32)(x, w)


def conv_transpose(strides: Any, padding: Any, transpose_kernel: bool, **params: Any) -> Any:
    dims = ("NHC", "HIO", "NHC")
    return lambda x, w: lax.conv_transpose(
        x, w, strides, padding, dimension_numbers=dims, transpose_kernel=transpose_kernel, **params
    )


DOT, CONV = lax.dot_general_p, lax.conv_general_dilated_p
IMAGE = ("NCHW", "OIHW", "NCHW")

CASES = [
    Case(DOT, dot(((1,), (0,))), (normal(2, 3), normal(3, 4)), "matmul"),
    Case(DOT, dot(((0,), (1,))), (normal(3, 2), normal(4, 3)), "transposed-matmul"),
    Case(DOT, dot(((0,), (0,))), (normal(3), normal(3)), "inner"),
    Case(DOT, dot(((), ())), (normal(3), normal(2)), "outer"),
    Case(
        DOT, dot(((3,), (2,)), ((0, 1), (0, 1))), (normal(2, 2, 2, 3), normal(2, 2, 3, 2)), "batch"
    ),
    Case(
        DOT,
        dot(((0, 2), (3, 1)), ((3, 1), (0, 2))),
        (normal(2, 3, 2, 2), normal(2, 2, 3, 2, 2)),
        "any-axes",
    ),
    Case(DOT, dot(((0, 1), (1, 0))), (normal(2, 3), normal(3, 2)), "double"),
    Case(DOT, dot(((1,), (0,))), (complex_normal(2, 3), complex_normal(3, 2)), "complex"),
    Case(
        DOT,
        dot(((2,), (1,)), ((0,), (2,))),
        (complex_normal(2, 1, 3), complex_normal(2, 3, 2)),
        "complex-batch",
        order=1,
    ),
    Case(DOT, dot(((1,), (0,))), (normal(1, 1), normal(1, 1)), "ones", order=1),
    Case(DOT, dot(((1,), (1,)), ((0,), (0,))), (normal(0, 2), normal(0, 2)), "no-batch", order=1),
    Case(DOT, dot(((1,), (0,))), (normal(2, 0), normal(0, 3)), "empty-sum"),
    Case(DOT, dot(((1,), (0,))), (normal(0, 2), normal(2, 3)), "empty"),
    Case(DOT, mixed_dot, (normal(2, 3), normal(3, 4)), "bf16-to-f32", smooth=False, rtol=1e-2),
    Case(CONV, conv(), (normal(2, 3, 5), normal(2, 3, 3)), "plain"),
    Case(
        CONV,
        conv(IMAGE, (2, 3), ((1, 2), (0, 3))),
        (normal(1, 2, 5, 4), normal(2, 2, 3, 2)),
        "strides",
    ),
    Case(
        CONV,
        conv(strides=(2,), padding=((-1, 3),), lhs_dilation=(3,), rhs_dilation=(2,)),
        (normal(2, 2, 4), normal(3, 2, 2)),
        "dilated-negative-padding",
    ),
    Case(CONV, conv(strides=(4,)), (normal(1, 2, 9), normal(2, 2, 2)), "stride-beyond-window"),
    Case(CONV, conv(padding=((1, 0),)), (normal(3, 2, 6), normal(4, 2, 5)), "window-beyond-result"),
    Case(
        CONV,
        conv(IMAGE, (2, 3), ((1, 2), (0, -1)), lhs_dilation=(1, 2), rhs_dilation=(2, 1)),
        (normal(2, 2, 6, 5), normal(3, 2, 4, 6)),
        "window-beyond-result-dilated",
    ),
    Case(
        CONV,
        conv(("WHCN", "HWIO", "CHNW"), (2, 1), "SAME"),
        (normal(3, 4, 2, 2), normal(2, 2, 2, 3)),
        "specs",
    ),
    Case(
        CONV,
        conv(("NHC", "HIO", "NHC"), feature_group_count=2, strides=(2,)),
        (normal(2, 5, 4), normal(2, 2, 6)),
        "feature-groups",
    ),
    Case(
        CONV,
        conv(("HNC", "IHO", "HNC"), batch_group_count=2, padding=((1, 0),)),
        (normal(4, 4, 2), normal(2, 3, 4)),
        "batch-groups",
    ),
    Case(
        CONV,
        conv(("NHC", "HIO", "NHC"), feature_group_count=2, padding=((1, 0),)),
        (normal(3, 6, 4), normal(5, 2, 6)),
        "feature-groups-window-beyond-result",
    ),
    Case(
        CONV,
        conv(("HNC", "IHO", "HNC"), batch_group_count=2, padding=((1, 0),)),
        (normal(6, 4, 3), normal(3, 5, 4)),
        "batch-groups-window-beyond-result",
    ),
    Case(CONV, conv(), (complex_normal(1, 2, 4), complex_normal(2, 2, 2)), "complex", rtol=1e-10),
    *[
        Case(CONV, fn, (normal(1, 4, 2), normal(*kernel)), f"transpose-{name}", order=1, vmap=False)
        for name, fn, kernel in [
            ("same", conv_transpose((2,), "SAME", False), (3, 2, 3)),
            ("valid-kernel", conv_transpose((3,), "VALID", True), (2, 3, 2)),
            ("pairs-dilated", conv_transpose((2,), ((1, 2),), True, rhs_dilation=(2,)), (2, 3, 2)),
        ]
    ],
    Case(CONV, conv(padding="SAME_LOWER"), (normal(1, 2, 4), normal(2, 2, 2)), "same-lower"),
    Case(
        CONV,
        conv(
            IMAGE,
            (2, 1),
            ((2, -1), (0, 3)),
            lhs_dilation=(1, 2),
            rhs_dilation=(2, 1),
            feature_group_count=2,
        ),
        (normal(2, 4, 5, 3), normal(4, 2, 2, 2)),
        "groups-dilated",
    ),
    Case(
        CONV,
        conv(strides=(2,), padding=((1, 1),), lhs_dilation=(2,), batch_group_count=2),
        (normal(4, 2, 3), normal(4, 2, 2)),
        "batch-groups-dilated",
    ),
    Case(
        CONV,
        conv(("NHC", "HIO", "NHC"), feature_group_count=3),
        (normal(1, 4, 3), normal(2, 1, 6)),
        "depthwise",
    ),
    Case(
        CONV,
        conv(feature_group_count=2),
        (complex_normal(1, 4, 3), complex_normal(2, 2, 2)),
        "complex-groups",
        order=1,
        rtol=1e-10,
    ),
    Case(CONV, conv(("NC", "OI", "NC"), (), ()), (normal(2, 3), normal(4, 3)), "no-space"),
    Case(CONV, conv(), (normal(0, 2, 4), normal(2, 2, 2)), "empty-batch"),
    Case(CONV, conv(), (normal(1, 0, 4), normal(2, 0, 2)), "empty-feature"),
    Case(CONV, conv(), (normal(1, 2, 2), normal(2, 2, 3)), "empty-out"),
    Case(
        CONV, mixed_conv, (normal(1, 2, 4), normal(2, 2, 2)), "bf16-to-f32", smooth=False, rtol=2e-2
    ),
]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_dot_cotangent_has_the_operands_dtype(dtype: Any) -> None:
    x, y = jnp.asarray(normal(2, 3), dtype), jnp.asarray(normal(3, 2), jnp.float32)
    ours = funcgrad.grad(lambda x, y: jnp.sum(jnp.matmul(x, y) ** 2), (0, 1))(x, y)
    expected = jax.grad(lambda x, y: jnp.sum(jnp.matmul(x, y) ** 2), (0, 1))(x, y)
    for a, b in zip(ours, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(np.float32(a), np.float32(b), rtol=2e-2, atol=2e-2)


def test_matmul_gradient_needs_no_transpose() -> None:
    x, y = normal(2, 3), normal(3, 4)
    backward = lambda x, y: funcgrad.vjp(jnp.dot, x, y)[1](jnp.ones((2, 4)))
    assert lax.transpose_p not in primitives_in(backward, x, y)


def summed_axes(jaxpr: Any) -> set[int]:
    """Over how many axes the products of a program and of its calls sum."""
    dots = (eqn for eqn in equations(jaxpr) if eqn.primitive is DOT)
    return {len(eqn.params["dimension_numbers"][0][0]) for eqn in dots}


ROWS = jnp.asarray(normal(4, 6, 3)), jnp.asarray(normal(3, 5))


def dense(x: Any, w: Any) -> Any:
    return jnp.sum(jnp.sin(x @ w))


def test_rows_on_one_device_are_one_axis_to_sum_over() -> None:
    args = jax.device_put(ROWS, NamedSharding(mesh_of(a=1), P()))
    gradients = jax.jit(funcgrad.grad(dense, (0, 1)))
    assert summed_axes(gradients.trace(*args).jaxpr) == {1}
    for ct, expected in zip(gradients(*args), jax.grad(dense, (0, 1))(*args), strict=True):
        np.testing.assert_allclose(ct, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("letters", "dims"),
    [
        ("abik,abjk->kij", (((0, 1), (0, 1)), ((3,), (3,)))),
        ("abick,abjkc->kij", (((1, 3, 0), (1, 4, 0)), ((4,), (3,)))),
        ("abci,abcj->ij", (((2, 0, 1), (2, 0, 1)), ((), ()))),
        ("abi,baj->ij", (((0, 1), (1, 0)), ((), ()))),
        ("ai,aj->ij", (((0,), (0,)), ((), ()))),
        ("i,j->ij", (((), ()), ((), ()))),
    ],
)
def test_product_sums_over_leading_axes_as_over_one(letters: str, dims: Any) -> None:
    size = dict(zip("abcijk", range(2, 8), strict=True))
    shapes = [[size[x] for x in side] for side in letters.split("->")[0].split(",")]
    x, y = (normal(*shape, seed=seed) for seed, shape in enumerate(shapes))
    expected = np.einsum(letters, x, y)
    x, y = jax.device_put((x, y), NamedSharding(mesh_of(a=1), P()))
    np.testing.assert_allclose(product(x, y, dims), expected, rtol=1e-5, atol=1e-5)


def test_rows_on_several_devices_stay_two_axes() -> None:
    """Rows of the second axis are parted: one axis in their place would be gathered on each device."""
    mesh = mesh_of(a=2)
    for x in (jax.device_put(ROWS[0], NamedSharding(mesh, P(None, "a"))), ROWS[0]):
        gradient = jax.jit(
            funcgrad.grad(dense, 1), in_shardings=(NamedSharding(mesh, P(None, "a")), None)
        )
        assert summed_axes(gradient.trace(x, ROWS[1]).jaxpr) == {1, 2}
        assert "all-gather" not in str(gradient.lower(x, ROWS[1]).compile().as_text())


def test_rows_within_a_shard_map_are_one_axis() -> None:
    x, w = ROWS
    gradient = sharded(funcgrad.grad(dense, 1), (P("a"), P()), P(), mesh=mesh_of(a=2))
    assert summed_axes(jax.make_jaxpr(gradient)(x, w)) == {1}
    np.testing.assert_allclose(gradient(x, w), jax.grad(dense, 1)(x, w), rtol=1e-5, atol=1e-5)


def test_no_cotangent_of_a_transposed_convolution_has_zeros_within_an_image() -> None:
    """XLA for CPUs takes 29 times as long with zeros between the elements of `x`."""
    upsample = lambda x, w: jnp.sum(jnp.sin(lax.conv_transpose(x, w, (2, 2), "SAME")))
    gradients = jax.make_jaxpr(funcgrad.grad(upsample, (0, 1)))(
        normal(2, 3, 3, 2), normal(4, 4, 2, 3)
    )
    found = [eqn.params for eqn in equations(gradients) if eqn.primitive is CONV]
    assert sorted(p["lhs_dilation"] for p in found) == [(1, 1), (1, 1), (2, 2)]  # it is the last
    assert {p["rhs_dilation"] for p in found} == {(1, 1), (2, 2)}


# --- groups of a convolution


def grouped(x: Any, w: Any) -> Any:
    strides, padding = (2, 1), ((1, 0), (2, 1))
    groups = x.shape[3] // w.shape[2]
    images = ("NHWC", "HWIO", "NHWC")
    return jnp.sum(jnp.sin(conv(images, strides, padding, feature_group_count=groups)(x, w)))


def batch_groups(jaxpr: Any) -> set[int]:
    """The numbers of groups of batches of a program's convolutions."""
    found = (eqn for eqn in equations(jaxpr) if eqn.primitive is CONV)
    return {eqn.params["batch_group_count"] for eqn in found}


GROUPED = {
    "several channels": (normal(2, 5, 4, 6), normal(2, 3, 3, 8), {1}),
    "one to two": (normal(2, 5, 4, 3), normal(2, 3, 1, 6), {1}),
    "two to one": (normal(2, 5, 4, 6), normal(2, 3, 2, 3), {1}),
    "by channel": (normal(2, 5, 4, 3), normal(2, 3, 1, 3), {1, 3}),
    "window beyond result": (normal(2, 5, 4, 6), normal(6, 5, 3, 8), {1}),
    "window beyond result, by channel": (normal(2, 5, 4, 3), normal(6, 5, 1, 3), {1, 3}),
}


@pytest.mark.parametrize(("x", "w", "expected"), GROUPED.values(), ids=GROUPED)
def test_groups_on_one_device_are_groups_of_features(x: Any, w: Any, expected: set[int]) -> None:
    """XLA for CPUs takes hundreds of times as long for groups of batches of several channels."""
    args = jax.device_put((x, w), NamedSharding(mesh_of(a=1), P()))
    gradients = jax.jit(funcgrad.grad(grouped, (0, 1)))
    assert batch_groups(gradients.trace(*args).jaxpr) == expected
    for ct, by_jax in zip(gradients(*args), jax.grad(grouped, (0, 1))(*args), strict=True):
        np.testing.assert_allclose(ct, by_jax, rtol=1e-5, atol=1e-5)


def test_groups_on_several_devices_stay_groups_of_batches() -> None:
    """The batch may be parted: in the axis of groups and batch its parts lie on no device together."""
    x, w, _ = GROUPED["several channels"]
    parted = NamedSharding(mesh_of(a=2), P("a"))
    gradient = jax.jit(funcgrad.grad(grouped, 1), in_shardings=(parted, None))
    assert batch_groups(gradient.trace(x, w).jaxpr) == {1, 2}
