"""Log densities of numpyro models, and what its samplers make of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import funcgrad
from tests.ecosystem.compare import as_float64, assert_gradients_same, check, draw, load

numpyro = load("numpyro")
dist = load("numpyro.distributions")
control_flow = load("numpyro.contrib.control_flow")
handlers = load("numpyro.handlers")
infer = load("numpyro.infer")
infer_util = load("numpyro.infer.util")

KEY = jax.random.key(0)


def schools() -> None:
    effects = jnp.array([28.0, 8.0, -3.0, 7.0])
    mean = numpyro.sample("mean", dist.Normal(0, 5))
    scale = numpyro.sample("scale", dist.HalfCauchy(5))
    with (
        numpyro.plate("schools", 4),
        handlers.reparam(config={"effect": infer.reparam.TransformReparam()}),
    ):
        noncentered = dist.TransformedDistribution(
            dist.Normal(0.0, 1.0), dist.transforms.AffineTransform(mean, scale)
        )
        effect = numpyro.sample("effect", noncentered)
        numpyro.sample("observed", dist.Normal(effect, 10.0), obs=effects)


def logistic() -> None:
    x, y = draw(0, 5, 3), jnp.array([1, 0, 0, 1, 1])
    precision = numpyro.sample("precision", dist.Gamma(2.0, 1.0))
    weights = numpyro.sample(
        "weights", dist.Normal(0, 1 / jnp.sqrt(precision)).expand([3]).to_event(1)
    )
    with numpyro.plate("data", 5, subsample_size=None):
        numpyro.sample("y", dist.Bernoulli(logits=x @ weights), obs=y)


def mixture() -> None:
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("components", 3):
        means = numpyro.sample("means", dist.StudentT(4.0, 0.0, 3.0))
        scales = numpyro.sample("scales", dist.InverseGamma(3.0, 1.0))
    parts = dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(means, scales))
    with numpyro.plate("data", 5):
        numpyro.sample("x", parts, obs=draw(1, 5))


def correlated() -> None:
    factor = numpyro.sample("factor", dist.LKJCholesky(3, 2.0))
    scales = numpyro.sample("scales", dist.LogNormal(0, 1).expand([3]).to_event(1))
    normal = dist.MultivariateNormal(jnp.zeros(3), scale_tril=scales[:, None] * factor)
    with numpyro.plate("data", 4):
        numpyro.sample("x", normal, obs=draw(1, 4, 3))


def hidden_markov() -> None:
    drift = numpyro.sample("drift", dist.Uniform(-1, 1))
    noise = numpyro.sample("noise", dist.Exponential(2.0))

    def step(state: Any, y: Any) -> Any:
        state = numpyro.sample("state", dist.Normal(drift * state, noise))
        numpyro.sample("y", dist.Normal(state, 0.5), obs=y)
        return state, state

    control_flow.scan(step, jnp.zeros(()), draw(2, 4))


def enumerated_markov() -> None:
    with numpyro.plate("states", 2):
        transition = numpyro.sample("transition", dist.Dirichlet(jnp.ones(2)))
        means = numpyro.sample("means", dist.Normal(0, 2))

    def step(state: Any, y: Any) -> Any:
        state = numpyro.sample(
            "state", dist.Categorical(transition[state]), infer={"enumerate": "parallel"}
        )
        numpyro.sample("y", dist.Normal(means[state], 0.5), obs=y)
        return state, None

    control_flow.scan(step, jnp.array(0), draw(2, 3))


def constrained() -> None:
    ordered = dist.TransformedDistribution(
        dist.Normal(0.0, 1.0).expand([3]).to_event(1), dist.transforms.OrderedTransform()
    )
    cut = numpyro.sample("cut", ordered)
    numpyro.sample("rank", dist.OrderedLogistic(jnp.array([0.3, -1.0]), cut), obs=jnp.array([1, 3]))
    rate = numpyro.sample("rate", dist.TruncatedNormal(1.0, 0.5, low=0.1))
    numpyro.sample("count", dist.NegativeBinomial2(rate, 2.0), obs=jnp.array([0, 3, 7]))
    share = numpyro.sample("share", dist.Beta(2.0, rate))
    numpyro.sample("zeros", dist.ZeroInflatedPoisson(share, 2.0), obs=jnp.array([0, 2]))
    numpyro.sample("angle", dist.VonMises(0.2, rate), obs=jnp.array([0.5, -1.0]))
    numpyro.factor("penalty", -(rate**4))


# The unconstrained parameters of each model, and their shapes.
Shapes = dict[str, tuple[int, ...]]
MODELS: dict[str, tuple[Callable[[], None], Shapes]] = {
    "schools": (schools, {"mean": (), "scale": (), "effect_base": (4,)}),
    "logistic": (logistic, {"precision": (), "weights": (3,)}),
    "mixture": (mixture, {"weights": (2,), "means": (3,), "scales": (3,)}),
    "correlated": (correlated, {"factor": (3,), "scales": (3,)}),
    "hidden_markov": (hidden_markov, {"drift": (), "noise": (), "state": (4,)}),
    "constrained": (constrained, {"cut": (3,), "rate": (), "share": ()}),
}


def potential(name: str) -> tuple[Callable[[Any], Any], Any]:
    """The potential energy that numpyro's samplers differentiate, and parameters for it."""
    model, shapes = MODELS[name]
    seeded = handlers.seed(model, KEY)
    params = {site: 0.5 * draw(i, *shape) for i, (site, shape) in enumerate(shapes.items())}
    return lambda params: infer_util.potential_energy(seeded, (), {}, params), params


@pytest.mark.parametrize("name", MODELS)
def test_potential_of_unconstrained_parameters(name: str) -> None:
    check(*potential(name))


def test_log_density_of_constrained_parameters() -> None:
    model = handlers.seed(correlated, KEY)
    trace = handlers.trace(model).get_trace()
    sampled = ("factor", "scales")
    values = as_float64({name: trace[name]["value"] for name in sampled})
    check(lambda v: infer_util.log_density(correlated, (), {}, v)[0], values)


def test_enumerated_discrete_states() -> None:
    pytest.importorskip("funsor", reason="numpyro needs funsor to enumerate discrete states")
    funsor = load("numpyro.contrib.funsor")
    values = {"transition": jnp.array([[0.7, 0.3], [0.4, 0.6]]), "means": jnp.array([0.3, -0.5])}
    model = funsor.enum(funsor.config_enumerate(enumerated_markov), -2)
    check(lambda v: funsor.log_density(model, (), {}, v)[0], values)


def test_hamiltonian_steps_with_our_gradient() -> None:
    energy, start = potential("mixture")
    results = []
    for differentiate in (funcgrad.grad, jax.grad):

        def leapfrog(state: Any, _: Any, differentiate: Any = differentiate) -> Any:
            z, r = state
            gradient = differentiate(energy)
            r = jax.tree.map(lambda r, ct: r - 0.05 * ct, r, gradient(z))
            z = jax.tree.map(lambda z, r: z + 0.1 * r, z, r)
            r = jax.tree.map(lambda r, ct: r - 0.05 * ct, r, gradient(z))
            return (z, r), energy(z)

        momenta = jax.tree.map(lambda x: draw(3, *x.shape), start)
        results.append(jax.jit(lambda s, f=leapfrog: lax.scan(f, s, length=4))((start, momenta)))
    assert_gradients_same(*results)


def test_evidence_lower_bound() -> None:
    def guide() -> None:
        location = numpyro.param("location", jnp.zeros(()))
        scale = numpyro.param("width", jnp.ones(()), constraint=dist.constraints.positive)
        numpyro.sample("mean", dist.Normal(location, scale))
        shape = numpyro.param("shape", jnp.full((), 2.0), constraint=dist.constraints.positive)
        numpyro.sample("scale", dist.Gamma(shape, 1.0))
        with numpyro.plate("schools", 4):
            numpyro.sample("effect_base", dist.Normal(numpyro.param("effects", jnp.ones(4)), 1.0))

    params = {
        "location": jnp.array(0.3),
        "width": jnp.array(0.7),
        "shape": jnp.array(1.7),
        "effects": draw(1, 4),
    }
    bound = infer.Trace_ELBO(num_particles=2)
    check(lambda p: bound.loss(KEY, p, schools, guide), params)
