"""The command line of train_digits.py."""

from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence

from digits_models import MODELS


def positive(text: str) -> int:
    """Read an integer from 1 up."""
    number = int(text)
    if number < 1:
        raise ArgumentTypeError(f"{number} is less than 1")
    return number


def parse_options(argv: Sequence[str] | None) -> Namespace:
    """Read the options, from the command line if `argv` is None."""
    parser = ArgumentParser(
        description="Train a network on handwritten digits with funcgrad and optax.",
        formatter_class=ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model", choices=MODELS, default="mlp", help="the network")
    parser.add_argument("--epochs", type=positive, default=40, help="passes over the training set")
    parser.add_argument("--batch-size", type=positive, default=64, help="images in a step")
    parser.add_argument("--learning-rate", type=float, default=0.02, help="Adam's, decays to 0")
    parser.add_argument("--seed", type=int, default=0, help="split, initial weights and order")
    return parser.parse_args(argv)
