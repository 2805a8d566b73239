"""Train a small GoogLeNet or ResNet on handwritten digits of 32 by 32 pixels.

    pip install -e ".[training]"
    python examples/training/train_image.py --model resnet --checkpoint /tmp/resnet

Batch norm, augmentation, bfloat16 with float32 parameters, gradients accumulated over parts of a
batch, clipping, a cosine schedule, averaged parameters. Kill it and start it again: it goes on.
"""

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from image_data import batches, digits
from image_models import model_of
from jax import Array
from loop import run
from options import parser, positive

import funcgrad

GRADIENTS: Mapping[str, Callable[..., Any]] = {
    "funcgrad": funcgrad.value_and_grad,
    "jax": jax.value_and_grad,
}
AVERAGED = 50
"""Over about how many steps parameters are averaged; at first, over all steps so far."""

State = dict[str, Any]
"""Parameters, running statistics, the optimiser's state, averaged parameters and a random key."""


class Program:
    """The training of one model by one set of options."""

    def __init__(self, options: Namespace) -> None:
        self.options = options
        self.size = 8 if options.small else 32  # pixels
        self.model = model_of(options.model, options.small, jnp.dtype(options.precision))
        self.schedule = optax.warmup_cosine_decay_schedule(
            0.0, options.learning_rate, options.steps // 10, options.steps
        )
        self.optimiser = optax.chain(
            optax.clip_by_global_norm(options.clip), optax.adamw(self.schedule, weight_decay=1e-3)
        )
        self.gradient_of = GRADIENTS[options.gradient](self.loss, has_aux=True)

    def start(self) -> State:
        """The state before the first step."""
        init, dropout = jax.random.split(jax.random.key(self.options.seed))
        image = jnp.zeros((1, self.size, self.size, 1))
        variables = jax.jit(self.model.init, static_argnums=2)(init, image, False)
        return {
            **variables,
            "optimiser": self.optimiser.init(variables["params"]),
            "average": jax.tree.map(jnp.copy, variables["params"]),
            "key": dropout,
            "step": jnp.int32(0),
        }

    def loss(self, params: Any, statistics: Any, part: Mapping[str, Array], key: Array) -> Any:
        """Mean cross-entropy of a part of a batch, and its new running statistics and accuracy."""
        logits, updated = self.model.apply(
            {"params": params, "batch_stats": statistics},
            part["image"],
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, part["label"])
        accuracy = jnp.mean(logits.argmax(axis=-1) == part["label"])
        return losses.mean(), (updated["batch_stats"], accuracy)

    def step(self, state: State, batch: Mapping[str, Array]) -> tuple[State, Mapping[str, Array]]:
        """The next state, and the metrics of a batch, which is read in `--accumulate` parts."""
        parts = self.options.accumulate
        key, *keys = jax.random.split(state["key"], 1 + parts)
        split = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)

        def add(carry: Any, part: Any) -> tuple[Any, Any]:
            statistics, total = carry
            (loss, (statistics, accuracy)), gradient = self.gradient_of(
                state["params"], statistics, *part
            )
            return (statistics, jax.tree.map(jnp.add, total, gradient)), (loss, accuracy)

        zeros = jax.tree.map(jnp.zeros_like, state["params"])
        (statistics, total), (losses, accuracies) = jax.lax.scan(
            add, (state["batch_stats"], zeros), (split, jnp.stack(keys))
        )
        gradient = jax.tree.map(lambda x: x / parts, total)
        updates, optimiser = self.optimiser.update(gradient, state["optimiser"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        metrics = {
            "loss": losses.mean(),
            "accuracy": accuracies.mean(),
            "gradient_norm": optax.tree.norm(gradient),
            "learning_rate": self.schedule(state["step"]),
        }
        done = state["step"] + 1
        share = 1 / jnp.minimum(done, AVERAGED)
        average = optax.incremental_update(params, state["average"], share)
        changed = {"params": params, "batch_stats": statistics, "optimiser": optimiser}
        return {**changed, "average": average, "key": key, "step": done}, metrics

    def test_accuracy(self, state: State) -> float:
        """Share of the test images that the averaged parameters name rightly."""
        _, test = digits(self.size)
        variables = {"params": state["average"], "batch_stats": state["batch_stats"]}
        logits = jax.jit(self.model.apply, static_argnums=2)(variables, test["image"], False)
        return float(jnp.mean(logits.argmax(axis=-1) == test["label"]))


def options_of(argv: Sequence[str] | None) -> Namespace:
    """Read the options, from the command line if `argv` is None."""
    shared = parser(__doc__.partition("\n")[0], steps=400, batch=64, every=50)
    add = shared.add_argument
    add("--model", choices=("googlenet", "resnet"), default="resnet", help="the network")
    add("--precision", choices=("bfloat16", "float32"), default="bfloat16", help="of products")
    add("--accumulate", type=positive, default=2, help="parts of a batch, one after the other")
    add("--learning-rate", type=float, default=3e-3, help="the highest, after a tenth of the steps")
    add("--clip", type=float, default=1.0, help="the largest norm of a gradient")
    add("--gradient", choices=GRADIENTS, default="funcgrad", help="whose gradient it is")
    options = shared.parse_args(argv)
    if options.batch % options.accumulate:
        shared.error(f"--batch {options.batch} is no multiple of {options.accumulate} parts")
    return options


def main(argv: Sequence[str] | None = None) -> State:
    """Train by the options of a command line, and return the last state."""
    options = options_of(argv)
    program = Program(options)
    batch_of = batches(program.size, options.batch, options.seed).__getitem__
    title = f"{options.model} on digits, {options.precision}, gradient of {options.gradient}"
    state = run(program.step, program.start(), batch_of, options, title=title)
    print(f"test accuracy of the averaged parameters: {program.test_accuracy(state):.4f}")
    return state


if __name__ == "__main__":
    main()
