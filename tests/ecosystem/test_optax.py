"""Every loss of optax, and training steps whose gradients are ours."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import funcgrad
from tests.ecosystem.compare import assert_gradients_same, check, draw, load

optax = load("optax")

LABELS = jnp.array([2, 0, 1])
BINARY = jnp.array([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
SIGNS = 2 * BINARY - 1


def x(seed: int = 0) -> Any:
    return draw(seed, 3, 4)


def probabilities(seed: int = 1) -> Any:
    return jax.nn.softmax(x(seed))


def paddings(length: int, *lengths: int) -> Any:
    return (jnp.arange(length) >= jnp.array(lengths)[:, None]).astype(jnp.float64)


def sparse_labels() -> Any:
    return jax.nn.one_hot(LABELS, 4)


def ctc(logits: Any) -> Any:
    labels = jnp.array([[1, 2], [3, 0]])
    return optax.losses.ctc_loss(logits, paddings(5, 5, 4), labels, paddings(2, 2, 1))


def ctc_with_probabilities(logits: Any) -> Any:
    labels = jnp.array([[1, 2], [3, 0]])
    loss, forward, blank = optax.losses.ctc_loss_with_forward_probs(
        logits, paddings(5, 5, 4), labels, paddings(2, 2, 1)
    )
    return loss.sum() + jnp.exp(forward).sum() + jnp.exp(blank).sum()


def fenchel_young(a: Any) -> Any:
    loss = optax.losses.make_fenchel_young_loss(jax.nn.logsumexp)
    return loss(a, probabilities())


LOSSES: dict[str, Callable[[Any], Any]] = {
    "binary_dice_loss": lambda a: optax.losses.binary_dice_loss(a, BINARY),
    "convex_kl_divergence": lambda a: optax.losses.convex_kl_divergence(a, probabilities()),
    "cosine_distance": lambda a: optax.losses.cosine_distance(a, x(1), epsilon=1e-8),
    "cosine_similarity": lambda a: optax.losses.cosine_similarity(a, x(1), epsilon=1e-8),
    "ctc_loss": lambda a: ctc(jnp.stack([a, a]).reshape(2, -1)[:, :5, None] * jnp.arange(1.0, 5.0)),
    "ctc_loss_with_forward_probs": lambda a: ctc_with_probabilities(
        jnp.stack([a, -a]).reshape(2, -1)[:, :5, None] * jnp.arange(1.0, 5.0)
    ),
    "dice_loss": lambda a: optax.losses.dice_loss(a, sparse_labels(), alpha=0.3, axis=0),
    "generalized_kl_divergence": lambda a: optax.losses.generalized_kl_divergence(
        jax.nn.log_softmax(a), probabilities()
    ),
    "hinge_loss": lambda a: optax.losses.hinge_loss(a, SIGNS),
    "huber_loss": lambda a: optax.losses.huber_loss(a, 3 * x(1), delta=0.7),
    "js_divergence": lambda a: optax.losses.js_divergence(jax.nn.log_softmax(a), probabilities()),
    "kl_divergence": lambda a: optax.losses.kl_divergence(jax.nn.log_softmax(a), probabilities()),
    "kl_divergence_with_log_targets": lambda a: optax.losses.kl_divergence_with_log_targets(
        jax.nn.log_softmax(a), jax.nn.log_softmax(x(1))
    ),
    "l2_loss": lambda a: optax.losses.l2_loss(a, x(1)),
    "log_cosh": lambda a: optax.losses.log_cosh(a, x(1)),
    "make_fenchel_young_loss": fenchel_young,
    "multiclass_generalized_dice_loss": lambda a: optax.losses.multiclass_generalized_dice_loss(
        a, sparse_labels()
    ),
    "multiclass_hinge_loss": lambda a: optax.losses.multiclass_hinge_loss(a, LABELS),
    "multiclass_logistic_loss": lambda a: optax.losses.multiclass_logistic_loss(a, LABELS),
    "multiclass_perceptron_loss": lambda a: optax.losses.multiclass_perceptron_loss(a, LABELS),
    "multiclass_sparsemax_loss": lambda a: optax.losses.multiclass_sparsemax_loss(a, LABELS),
    "ntxent": lambda a: optax.losses.ntxent(jnp.repeat(a, 2, 0), jnp.array([0, 0, 1, 1, 2, 2])),
    "perceptron_loss": lambda a: optax.losses.perceptron_loss(a, SIGNS),
    "poly_loss_cross_entropy": lambda a: optax.losses.poly_loss_cross_entropy(a, probabilities()),
    "ranking_softmax_loss": lambda a: optax.losses.ranking_softmax_loss(
        a, BINARY, weights=x(2) ** 2
    ),
    "safe_softmax_cross_entropy": lambda a: optax.losses.safe_softmax_cross_entropy(
        jnp.where(BINARY > 0, a, -jnp.inf), BINARY
    ),
    "sigmoid_binary_cross_entropy": lambda a: optax.losses.sigmoid_binary_cross_entropy(a, BINARY),
    "sigmoid_focal_loss": lambda a: optax.losses.sigmoid_focal_loss(a, BINARY, alpha=0.3),
    "smooth_labels": lambda a: optax.losses.smooth_labels(jnp.sin(a), 0.1),
    "softmax_cross_entropy": lambda a: optax.losses.softmax_cross_entropy(a, probabilities()),
    "softmax_cross_entropy_with_integer_labels": (
        lambda a: optax.losses.softmax_cross_entropy_with_integer_labels(a, LABELS)
    ),
    "sparsemax_loss": lambda a: optax.losses.sparsemax_loss(a, BINARY),
    "squared_error": lambda a: optax.losses.squared_error(a, x(1)),
    "triplet_margin_loss": lambda a: optax.losses.triplet_margin_loss(a, x(1), x(2), margin=3.0),
    "weighted_logcosh": lambda a: optax.losses.weighted_logcosh(a, x(1)),
}


def public_losses() -> set[str]:
    return {name for name, fn in vars(optax.losses).items() if inspect.isfunction(fn)}


def test_every_public_loss_is_here() -> None:
    assert public_losses() <= set(LOSSES)


@pytest.mark.filterwarnings("ignore:The function convex_kl_divergence is deprecated")
@pytest.mark.parametrize("name", sorted(LOSSES.keys() & public_losses()))
def test_loss(name: str) -> None:
    loss = LOSSES[name]
    check(lambda a: jnp.sum(loss(a) * jnp.cos(loss(a))), x())


@pytest.mark.parametrize("name", ["simplex", "l1_ball", "l2_ball", "box"])
def test_projection(name: str) -> None:
    project = getattr(optax.projections, f"projection_{name}")
    settings = {"box": (-0.5, 0.5), "l1_ball": (1.5,), "l2_ball": (0.5,)}.get(name, ())
    check(lambda a: jnp.sum(jnp.sin(project(a, *settings)) * jnp.arange(1.0, 5.0)), draw(0, 4))


def test_perturbed_argmax() -> None:
    argmax = optax.perturbations.make_perturbed_fun(
        lambda a: jax.nn.one_hot(jnp.argmax(a), 4), num_samples=20, sigma=0.5
    )
    check(lambda a: jnp.sum(jnp.sin(argmax(jax.random.key(0), a))), draw(0, 4))


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "adamw with clipping": lambda: optax.chain(
        optax.clip_by_global_norm(0.5), optax.adamw(optax.cosine_decay_schedule(0.1, 4))
    ),
    "momentum every two steps": lambda: optax.MultiSteps(optax.sgd(0.1, momentum=0.9), 2),
    "adam by label": lambda: optax.partition(
        {"fast": optax.adam(0.1), "fixed": optax.set_to_zero()}, {"w": "fast", "b": "fixed"}
    ),
    "lookahead of muon": lambda: optax.contrib.muon(0.05),
    "sharpness-aware": lambda: optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.05), sync_period=2),
}


def network_loss(params: Any, batch: Any) -> Any:
    logits = jnp.tanh(batch @ params["w"]) @ params["w"].T + params["b"]
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, LABELS))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_steps(name: str) -> None:
    results = []
    for differentiate in (funcgrad.value_and_grad, jax.value_and_grad):
        optimizer = OPTIMIZERS[name]()

        @jax.jit
        def step(params: Any, state: Any, batch: Any, gradient: Any = differentiate) -> Any:
            value, ct = gradient(network_loss)(params, batch)
            updates, state = optimizer.update(ct, state, params)  # noqa: B023
            return optax.apply_updates(params, updates), state, value

        params = {"w": draw(1, 4, 3), "b": draw(2, 4)}
        state, values = optimizer.init(params), []
        for seed in range(4):
            params, state, value = step(params, state, draw(seed, 3, 4))
            values.append(value)
        results.append((params, state, values))
    assert_gradients_same(*results)


def test_line_search_with_our_value_and_gradient() -> None:
    solver = optax.lbfgs()
    batch = draw(0, 3, 4)

    def loss(params: Any) -> Any:
        return network_loss(params, batch)

    results = []
    for differentiate in (funcgrad.value_and_grad, jax.value_and_grad):

        @jax.jit
        def step(params: Any, state: Any, gradient: Any = differentiate) -> Any:
            value, ct = gradient(loss)(params)
            updates, state = solver.update(
                ct, state, params, value=value, grad=ct, value_fn=loss
            )  # fmt: skip
            return optax.apply_updates(params, updates), state

        params = {"w": draw(1, 4, 3), "b": draw(2, 4)}
        state = solver.init(params)
        for _ in range(3):
            params, state = step(params, state)
        results.append(params)
    assert_gradients_same(*results)


def test_gradient_through_unrolled_optimisation() -> None:
    batch = draw(0, 3, 4)
    inner = optax.adam(0.1)

    def trained_loss(params: Any, gradient: Any) -> Any:
        def step(carry: Any, _: Any) -> Any:
            params, state = carry
            updates, state = inner.update(gradient(network_loss)(params, batch), state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (params, inner.init(params)), None, length=3)
        return network_loss(params, batch)

    params = {"w": draw(1, 4, 3), "b": draw(2, 4)}
    ours = jax.jit(funcgrad.grad(lambda p: trained_loss(p, funcgrad.grad)))(params)
    assert_gradients_same(ours, jax.jit(jax.grad(lambda p: trained_loss(p, jax.grad)))(params))
