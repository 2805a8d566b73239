"""Random bits have no gradient; gamma samples have one by their shape parameter."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad
from funcgrad import _jax
from tests.rules.cases import Case, uniform

SHAPES = uniform(0.5, 4.0, 5)

# With the key held fixed, the sampler's own rejection steps are not differentiable: no differences.
CASES = [
    Case(
        _jax.random_gamma_p,
        lambda a: jax.random.gamma(jax.random.key(0), a),
        (SHAPES,),
        "gamma",
        order=1,
        smooth=False,
    ),
    Case(
        _jax.random_gamma_p,
        lambda a: jax.random.loggamma(jax.random.key(0), a),
        (np.array([1e-4, 0.01, 0.5, 2.0, 30.0]),),
        "loggamma",
        order=1,
        smooth=False,
    ),
]


def from_key(x: Any) -> Any:
    """Seed, fold in, split, clone, unwrap, wrap and draw, with a seed that depends on x."""
    key = jax.random.fold_in(jax.random.key(x[0].astype(jnp.int32)), 3)
    key = jax.random.clone(jax.random.split(key)[1])
    key = jax.random.wrap_key_data(jax.random.key_data(key))
    return jax.random.uniform(key, x.shape)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_bits_have_no_gradient(impl: str) -> None:
    def draw(x: Any) -> Any:
        return jax.random.normal(jax.random.key(x[0].astype(jnp.int32), impl=impl), x.shape)

    x = jnp.arange(1.0, 4.0)
    for f in (from_key, draw):
        np.testing.assert_array_equal(
            funcgrad.grad(lambda x, f=f: jnp.sum(f(x) * x))(x),
            jax.grad(lambda x, f=f: jnp.sum(f(x) * x))(x),
        )
