"""Log densities, samples and flows of distrax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from tests.ecosystem.compare import check, draw, load

# TensorFlow Probability, which distrax imports, uses names that JAX is about to drop.
distrax = load("distrax", "jax.core.pytype_aval_mappings is deprecated")

KEY = jax.random.key(0)

Density = Callable[[Any, Any], Any]

DENSITIES: dict[str, Density] = {
    "normal": lambda a, b: distrax.Normal(a, jnp.exp(b)).log_prob(0.3),
    "student": lambda a, b: distrax.Independent(distrax.Logistic(a, jnp.exp(b)), 1).log_prob(b),
    "beta": lambda a, b: distrax.Beta(jnp.exp(a), jnp.exp(b)).log_prob(0.3),
    "gamma": lambda a, b: distrax.Gamma(jnp.exp(a), jnp.exp(b)).log_prob(0.7),
    "dirichlet": lambda a, b: distrax.Dirichlet(jnp.exp(a)).log_prob(jax.nn.softmax(b)),
    "categorical": lambda a, b: distrax.Categorical(a).log_prob(jnp.array([0, 2])) * b[:2],
    "gumbel": lambda a, b: distrax.Gumbel(a, jnp.exp(b)).log_prob(0.1),
    "laplace": lambda a, b: distrax.Laplace(a, jnp.exp(b)).log_prob(0.1),
    "von mises": lambda a, b: distrax.VonMises(a, jnp.exp(b)).log_prob(0.1),
    "multivariate": lambda a, b: distrax.MultivariateNormalTri(
        a, jnp.tril(jnp.outer(a, b)) + 3 * jnp.eye(3)
    ).log_prob(b),
    "full covariance": lambda a, b: distrax.MultivariateNormalFullCovariance(
        a, jnp.outer(b, b) + jnp.eye(3)
    ).log_prob(b),
    "low rank": lambda a, b: distrax.MultivariateNormalDiagPlusLowRank(
        a, jnp.exp(b), jnp.outer(a, b[:2])
    ).log_prob(b),
    "mixture": lambda a, b: distrax.MixtureSameFamily(
        distrax.Categorical(a), distrax.Normal(b, 1.0)
    ).log_prob(0.2),
    "quantized": lambda a, b: distrax.Quantized(distrax.Normal(a, jnp.exp(b)), low=-2).log_prob(
        1.0
    ),
    "divergence": lambda a, b: distrax.Normal(a, 1.0).kl_divergence(distrax.Normal(b, 2.0)),
    "entropy": lambda a, b: (
        distrax.Categorical(a).entropy() + distrax.Beta(jnp.exp(a), 2.0).entropy()
    ),
    "reparameterised": lambda a, b: distrax.Gamma(jnp.exp(a), jnp.exp(b)).sample(seed=KEY),
}


def total(y: Any) -> Any:
    return jnp.sum(jnp.sin(y) * y)


@pytest.mark.parametrize("name", DENSITIES)
def test_density(name: str) -> None:
    density = DENSITIES[name]
    check(lambda ab: total(density(*ab)), (draw(0, 3), draw(1, 3)))


def conditioner(weights: Any, size: int) -> Callable[[Any], Any]:
    return lambda x: jnp.tanh(x @ weights[: x.shape[-1], : 2 * size]).reshape(
        *x.shape[:-1], size, 2
    )


def coupling(params: Any) -> Any:
    def affine(numbers: Any) -> Any:
        return distrax.ScalarAffine(shift=numbers[..., 0], log_scale=numbers[..., 1])

    masks = (jnp.array([True, False, True]), jnp.array([False, True, False]))
    layers = [
        distrax.MaskedCoupling(mask=mask, bijector=affine, conditioner=conditioner(params["w"], 3))
        for mask in masks
    ]
    return distrax.Chain(layers)


def spline(params: Any) -> Any:
    return distrax.RationalQuadraticSpline(params["s"], range_min=-3.0, range_max=3.0)


def chain(params: Any) -> Any:
    lower = jnp.tril(params["w"][:3, :3]) + 2 * jnp.eye(3)
    return distrax.Chain(
        [
            distrax.Block(distrax.Sigmoid(), 1),
            distrax.LowerUpperTriangularAffine(lower, params["b"]),
            distrax.Block(distrax.Inverse(distrax.Lambda(jnp.sinh)), 1),
            distrax.Block(distrax.ScalarAffine(params["b"], log_scale=params["b"]), 1),
        ]
    )


FLOWS = {f.__name__: f for f in (coupling, spline, chain)}


@pytest.mark.parametrize("name", FLOWS)
def test_flow(name: str) -> None:
    params = {"w": draw(0, 3, 6), "b": draw(1, 3), "s": draw(2, 3, 13)}

    def loss(params: Any, x: Any) -> Any:
        bijector = FLOWS[name](params)
        y, log_det = bijector.forward_and_log_det(jnp.clip(x, -2, 2))
        back, inverse_log_det = bijector.inverse_and_log_det(0.9 * y)
        return total(y) + total(log_det) + total(back) + total(inverse_log_det)

    check(loss, params, draw(3, 2, 3), argnums=(0, 1))


def test_transformed_distribution() -> None:
    def loss(params: Any, x: Any) -> Any:
        base = distrax.MultivariateNormalDiag(jnp.zeros(3), jnp.ones(3))
        flow = distrax.Transformed(base, coupling(params))
        return -flow.log_prob(x).mean() + total(flow.sample(seed=KEY))

    check(loss, {"w": draw(0, 3, 6)}, draw(3, 2, 3))


def test_hidden_markov_model() -> None:
    def loss(a: Any, b: Any) -> Any:
        model = distrax.HMM(
            init_dist=distrax.Categorical(a[0]),
            trans_dist=distrax.Categorical(a),
            obs_dist=distrax.Normal(b, 1.0),
        )
        alphas, betas, marginals, evidence = model.forward_backward(draw(2, 4))
        return total(alphas) + total(betas) + total(marginals) + evidence

    check(loss, draw(0, 3, 3), draw(1, 3), argnums=(0, 1))
