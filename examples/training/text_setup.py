"""What the text programs have in common: options, model, optimizer and step."""

import importlib
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from options import positive
from text_data import Corpus, windows
from text_size import Model, Size

import funcgrad

GRADIENTS = {"funcgrad": funcgrad.value_and_grad, "jax": jax.value_and_grad}
SMALL = {"layers": 2, "width": 16, "heads": 2, "length": 16}
"""The sizes of ``--small``."""


class State(NamedTuple):
    """What a step changes: the parameters, and the optimizer's state."""

    params: Any
    optimizer: Any


def budget(text: str) -> float | str:
    """Read a fraction, such as 0.5, or bytes, such as 20MB."""
    try:
        return float(text)
    except ValueError:
        return text


def add_options(parser: ArgumentParser) -> None:
    """Add the options of the model and of its optimizer."""
    parser.add_argument("--gradient", choices=GRADIENTS, default="funcgrad", help="whose gradient")
    parser.add_argument("--layers", type=positive, default=4, help="of the transformer")
    parser.add_argument("--width", type=positive, default=64, help="of the transformer")
    parser.add_argument("--heads", type=positive, default=4, help="of each attention")
    parser.add_argument("--length", type=positive, default=64, help="characters that are read")
    parser.add_argument("--rate", type=float, default=3e-3, help="highest learning rate")
    parser.add_argument(
        "--budget",
        type=budget,
        help="memory that walking back may take, on all devices together: bytes, such as 200MB, or a "
        "fraction of what keeping everything takes",
    )
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="that layers compute in"
    )


def model_of(options: Namespace, corpus: Corpus, library: str = "nnx", around: Any = None) -> Model:
    """The transformer that the options ask for, by the library ``nnx`` or ``equinox``.

    Args:
      options: those of `add_options`.
      corpus: the text, whose characters are counted.
      library: which module builds the model.
      around: wraps the function of a layer.
    """
    sizes = SMALL if options.small else {name: getattr(options, name) for name in SMALL}
    size = Size(len(corpus.characters), dtype=jnp.dtype(options.dtype), **sizes)

    layers = {} if around is None else {"around": around}
    return importlib.import_module(f"text_{library}").build(size, **layers)


def loss_of(
    model: Model, budget: float | str | None = None
) -> Callable[[Any, jax.Array], jax.Array]:
    """The mean cross entropy in nats, from (params, tokens (batch, length + 1)) to a float32 scalar.

    Args:
      model: from parameters and tokens to logits.
      budget: memory that walking back may take; None for what is fastest.
    """

    def loss(params: Any, tokens: jax.Array) -> jax.Array:
        logits = model.logits(params, tokens[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    return loss if budget is None else funcgrad.checkpoint(loss, budget=budget)


def optimizer_of(options: Namespace) -> optax.GradientTransformation:
    """Adam with decoupled weight decay; gradients are clipped, the rate rises and falls by a cosine."""
    warmup = min(100, options.steps // 10)
    rate = optax.warmup_cosine_decay_schedule(0.0, options.rate, warmup, options.steps)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=0.01))


def step_of(
    loss: Callable[..., jax.Array],
    optimizer: optax.GradientTransformation,
    gradient_by: str,
    shardings: Any = None,
) -> Callable[[State, jax.Array], tuple[State, dict[str, jax.Array]]]:
    """A step from a state and tokens to the next state and what is written down.

    Args:
      loss: from parameters and tokens to a scalar.
      optimizer: what makes updates of gradients.
      gradient_by: a name in `GRADIENTS`.
      shardings: how the gradient is divided among devices, if there are several.
    """
    value_and_grad = GRADIENTS[gradient_by](loss)

    def step(state: State, tokens: jax.Array) -> tuple[State, dict[str, jax.Array]]:
        value, gradient = value_and_grad(state.params, tokens)
        if shardings is not None:
            gradient = jax.lax.with_sharding_constraint(gradient, shardings)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        measured = {"loss": value, "gradient_norm": optax.tree.norm(gradient)}
        return State(params, optimizer_state), measured

    return step


def start(params: Any, optimizer: optax.GradientTransformation) -> State:
    """The state before the first step."""
    return State(params, optimizer.init(params))


def batches(corpus: Corpus, options: Namespace) -> Callable[[int], np.ndarray]:
    """From a step's number to its tokens, int32 (batch, length + 1)."""
    length = SMALL["length"] if options.small else options.length
    return lambda step: windows(corpus.training, (options.seed, step), options.batch, length)
