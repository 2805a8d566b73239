"""The loop that all training programs share: steps, metrics, checkpoints and a plot."""

from argparse import Namespace
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, TypeVar

import jax
from checkpoints import CheckpointError, Checkpoints
from metrics import Metrics, plot
from options import settings
from tqdm import tqdm

State = TypeVar("State")
Step = Callable[[State, Any], tuple[State, Mapping[str, Any]]]


def run(
    step: Step[State],
    state: State,
    batch_of: Callable[[int], Any],
    options: Namespace,
    *,
    title: str = "",
    may_change: tuple[str, ...] = (),
) -> State:
    """Take the steps of a run that are not behind it yet, and return the state after the last one.

    With `--checkpoint` the run starts from the newest checkpoint there. A run that was killed and
    resumed ends with the parameters of one that was not, bit by bit: all that changes is in the state,
    and a batch depends on its number alone.

    Args:
        step: From a state and a batch to the next state and scalars to write down, by name. It is
            jitted, and the state is donated.
        state: The state before the first step, a pytree of arrays. No array may be in it twice.
        batch_of: The batch of a step by its number, from 0 up. The same number gives the same batch.
        options: What `options.parser` reads.
        title: What stands above the plot.
        may_change: Names of options in which a resumed run may differ from the run that it continues.

    Raises:
        CheckpointError: If a checkpoint is of another run, cannot be read, or the last cannot be saved.
        FloatingPointError: If a metric is not finite.
    """
    done, checkpoints = 0, None
    with ExitStack() as stack:
        if options.checkpoint is not None:
            checkpoints = Checkpoints(
                options.checkpoint,
                options.every,
                settings(options, may_change),
                patience=int(getattr(options, "patience", 600) / 2),  # of several processes
            )
            state, done = stack.enter_context(checkpoints).restore_or(state)
        if done > options.steps:
            raise CheckpointError(
                f"{options.checkpoint} has a checkpoint of step {done}, and --steps is {options.steps}."
            )
        metrics = stack.enter_context(Metrics(options.out, done))
        quiet = jax.process_index() > 0
        bar = tqdm(total=options.steps, initial=done, unit="step", disable=quiet)
        stack.enter_context(bar)
        jitted = jax.jit(step, donate_argnums=0)
        for number in range(done, options.steps):
            state, values = jitted(state, batch_of(number))
            metrics.add(number + 1, values)
            bar.update()
            last = number + 1 == options.steps
            if checkpoints and (checkpoints.due(number + 1) or last):
                metrics.sync()  # a checkpoint never has steps that the metrics have not
                checkpoints.save(number + 1, state)
        metrics.flush()
    if not quiet:
        plot(metrics.path, options.out / "metrics.png", title)
    return state
