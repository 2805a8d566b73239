"""Train a small network on 1,797 handwritten digits with funcgrad's gradients and an optax optimiser.

    pip install -e ".[examples]"
    python examples/train_digits.py --model mlp

Prints the test accuracy after each epoch, checks the gradient against jax.grad at the first and the
last step, and writes digits_loss.png.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence

import jax
import numpy as np
import optax
from digits_data import batches, load_split
from digits_models import MODELS, Params, cross_entropy
from digits_options import parse_options
from digits_plot import plot_history
from jax import Array
from tqdm import tqdm

import funcgrad

GRADIENT_BOUND = 1e-4  # relative; float32 rounding stays far below it, a wrong rule far above


def relative_difference(gradient: Params, reference: Params) -> float:
    """Largest over the leaves of max |gradient - reference| / max |reference|."""

    def of_leaf(a: Array, b: Array) -> float:
        scale = max(np.abs(b).max(), np.finfo(np.float32).tiny)
        return np.abs(a - b).max() / scale

    return float(np.max(jax.tree.leaves(jax.tree.map(of_leaf, gradient, reference))))


def train(options: Namespace) -> tuple[list[float], list[float], float]:
    """Return the loss of each step, the accuracy of each epoch and the gradient's difference."""
    model, optimiser = MODELS[options.model], optax.adam(options.learning_rate)

    def loss_fn(params: Params, images: Array, labels: Array) -> Array:
        return cross_entropy(model.apply(params, images), labels)

    value_and_grad = jax.jit(funcgrad.value_and_grad(loss_fn))
    reference_grad = jax.jit(jax.grad(loss_fn))

    @jax.jit
    def train_step(params: Params, state: optax.OptState, images: Array, labels: Array):
        loss, gradient = value_and_grad(params, images, labels)
        updates, state = optimiser.update(gradient, state)
        return optax.apply_updates(params, updates), state, loss

    @jax.jit
    def accuracy(params: Params, images: Array, labels: Array) -> Array:
        return (model.apply(params, images).argmax(axis=1) == labels).mean()

    train_set, test_set = load_split(options.seed)
    rng = np.random.default_rng(options.seed)
    params = model.init(jax.random.key(options.seed))
    state = optimiser.init(params)
    losses, accuracies, differences = [], [], []
    steps = options.epochs * batches...
