"""TensorFlow Probability on JAX: densities, bijectors, and a step of a sampler."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from tests.ecosystem.compare import check, draw, load

# It uses names that JAX is about to drop.
tfp = load("tensorflow_probability.substrates.jax", "jax.core.pytype_aval_mappings is deprecated")
tfd, tfb = tfp.distributions, tfp.bijectors

KEY = jax.random.key(0)
LOSSES = {
    "mixture": lambda a, b: tfd.MixtureSameFamily(
        tfd.Categorical(logits=a), tfd.StudentT(3.0, b, jnp.exp(a))
    ).log_prob(b),
    "gaussian process": lambda a, b: tfd.GaussianProcess(
        tfp.math.psd_kernels.MaternFiveHalves(jnp.exp(a[0]), jnp.exp(a[1])), b[:, None], jitter=1e-3
    ).log_prob(jnp.sin(b)),
    "flow": lambda a, b: tfd.TransformedDistribution(
        tfd.MultivariateNormalDiag(0 * a, jnp.exp(b)),
        tfb.Chain([tfb.Sinh(), tfb.Scale(jnp.exp(a))]),
    ).log_prob(b),
    "reparameterised": lambda a, b: tfd.Logistic(a, jnp.exp(b)).sample(2, seed=KEY),
}


@pytest.mark.parametrize("name", LOSSES)
def test_density(name: str) -> None:
    check(lambda ab: jnp.sum(jnp.sin(LOSSES[name](*ab))), (draw(0, 3), draw(1, 3)), rtol=1e-9)
