"""The command line that all training programs share."""

from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import Any

PLACES = ("out", "checkpoint", "every")
"""Options that say where and how often results are written. They may change when a run is resumed."""


def positive(text: str) -> int:
    """Read an integer from 1 up."""
    number = int(text)
    if number < 1:
        raise ArgumentTypeError(f"{number} is less than 1")
    return number


def parser(description: str, *, steps: int, batch: int, every: int = 100) -> ArgumentParser:
    """A parser with the shared options, to which a program adds its own.

    Args:
        description: The first lines of `--help`.
        steps: How many steps are taken if `--steps` is not given.
        batch: How many examples a step reads if `--batch` is not given.
        every: How many steps lie between two checkpoints if `--every` is not given.

    Examples:
        >>> options = parser("Train.", steps=100, batch=32).parse_args(["--steps", "7"])
        >>> options.steps, options.batch
        (7, 32)
    """
    shared = ArgumentParser(description=description, formatter_class=ArgumentDefaultsHelpFormatter)
    shared.add_argument("--steps", type=positive, default=steps, help="steps of the whole run")
    shared.add_argument("--batch", type=positive, default=batch, help="examples in a step")
    shared.add_argument("--seed", type=int, default=0, help="of parameters, data and noise")
    shared.add_argument(
        "--out",
        type=Path,
        default=Path("training_out"),
        help="folder of metrics and plot, which are replaced",
    )
    shared.add_argument(
        "--checkpoint", type=Path, help="folder of checkpoints, from which a run is resumed"
    )
    shared.add_argument("--every", type=positive, default=every, help="steps between checkpoints")
    shared.add_argument("--small", action="store_true", help="a model and data of a test's size")
    return shared


def settings(options: Namespace, may_change: tuple[str, ...] = ()) -> dict[str, Any]:
    """The options that a resumed run must share with the run that it continues, as JSON can hold them.

    Examples:
        >>> options = parser("Train.", steps=100, batch=32).parse_args([])
        >>> settings(options, may_change=("small",))
        {'steps': 100, 'batch': 32, 'seed': 0}
    """
    kept = {name: x for name, x in vars(options).items() if name not in (*PLACES, *may_change)}
    return {
        name: x if x is None or isinstance(x, (bool, int, float, str)) else str(x)
        for name, x in kept.items()
    }
