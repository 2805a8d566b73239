"""Equivariant layers of e3nn: spherical harmonics, tensor products, linear maps, gates."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from tests.ecosystem.compare import as_float64, check, draw, load

e3nn = load("e3nn_jax")


def test_message() -> None:
    linear = e3nn.flax.Linear("4x0e + 2x1o")
    vectors = draw(0, 5, 3)

    def layer(params: Any, vectors: Any) -> Any:
        harmonics = e3nn.spherical_harmonics("0e + 1o + 2e", vectors, normalize=True)
        product = e3nn.tensor_product(harmonics, e3nn.IrrepsArray("1o", vectors))
        return e3nn.norm_activation(linear.apply(params, product), [jax.nn.silu, jnp.tanh])

    harmonics = e3nn.spherical_harmonics("0e + 1o + 2e", vectors, normalize=True)
    product = e3nn.tensor_product(harmonics, e3nn.IrrepsArray("1o", vectors))
    params = as_float64(linear.init(jax.random.key(0), product))

    def loss(params: Any, vectors: Any) -> Any:
        return jnp.sum(jnp.sin(layer(params, vectors).array))

    check(loss, params, vectors, argnums=(0, 1), rtol=1e-8)


def test_rotation() -> None:
    def loss(angles: Any) -> Any:
        rotated = e3nn.IrrepsArray("1o + 2e", draw(0, 8)).transform_by_angles(*angles)
        return jnp.sum(jnp.sin(rotated.array))

    check(loss, draw(1, 3))
