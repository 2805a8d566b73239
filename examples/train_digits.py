"""Train a small network on 1,797 handwritten digits with funcgrad and an optax optimiser.

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
from digits_report import accuracy, plot_history, relative_difference
from jax import Array
from tqdm import tqdm

import funcgrad

GRADIENT_BOUND = 1e-4  # float32 rounding stays well below it, a wrong rule well above


def train(options: Namespace) -> tuple[list[float], list[float], float]:
    """Return the loss of each step, the accuracy of each epoch and the gradient's difference."""
    model = MODELS[options.model]
    train_set, test_set = load_split(options.seed)
    batch_size = min(options.batch_size, len(train_set.labels))
    steps = options.epochs * (len(train_set.labels) // batch_size)
    optimiser = optax.adam(optax.cosine_decay_schedule(options.learning_rate, steps))

    def loss_fn(params: Params, images: Array, labels: Array) -> Array:
        return cross_entropy(model.apply(params, images), labels)

    @jax.jit
    def train_step(params: Params, state: optax.OptState, images: Array, labels: Array):
        loss, gradient = funcgrad.value_and_grad(loss_fn)(params, images, labels)
        updates, state = optimiser.update(gradient, state)
        return optax.apply_updates(params, updates), state, loss, gradient

    predict, reference = jax.jit(model.apply), jax.jit(jax.grad(loss_fn))
    rng = np.random.default_rng(options.seed)
    params = model.init(jax.random.key(options.seed))
    state = optimiser.init(params)

    losses, accuracies, differences = [], [], []
    with tqdm(total=steps, unit="step") as bar:
        for epoch in range(1, options.epochs + 1):
            for batch in batches(train_set, batch_size, rng):
                before = params
                params, state, loss, gradient = train_step(params, state, *batch)
                if bar.n in (0, steps - 1):
                    differences.append(relative_difference(gradient, reference(before, *batch)))
                losses.append(float(loss))
                bar.update()
            accuracies.append(accuracy(predict(params, test_set.images), test_set.labels))
            tqdm.write(f"epoch {epoch:3}   test accuracy {accuracies[-1]:.4f}")
    return losses, accuracies, float(np.max(differences))


def main(argv: Sequence[str] | None = None) -> None:
    """Train, print, draw, and exit with a message if the gradient is wrong."""
    options = parse_options(argv)
    losses, accuracies, difference = train(options)
    print(f"largest relative difference to jax.grad: {difference:.1e}")
    plot_history(losses, accuracies, f"{options.model.upper()} on handwritten digits")
    print("wrote digits_loss.png")
    if not difference <= GRADIENT_BOUND:  # also catches nan
        sys.exit(f"the gradient differs from jax.grad's by {difference:.1e}, over {GRADIENT_BOUND}")


if __name__ == "__main__":
    main()
