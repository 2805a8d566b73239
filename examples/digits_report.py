"""What a training run reports: its accuracy, its gradient's distance to jax.grad's, a picture."""

from collections.abc import Sequence

import jax
import numpy as np
from digits_models import Params
from jax import Array
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter


def accuracy(log_probabilities: Array, labels: Array) -> float:
    """Share of the images whose most probable class is the right one."""
    return float((log_probabilities.argmax(axis=1) == labels).mean())


def relative_difference(gradient: Params, reference: Params) -> float:
    """Largest over the leaves of max |gradient - reference| / max |reference|."""

    def of_leaf(leaf: Array, expected: Array) -> float:
        scale = np.maximum(np.abs(expected).max(), np.finfo(np.float32).tiny)
        return np.abs(leaf - expected).max() / scale

    return float(np.max(jax.tree.leaves(jax.tree.map(of_leaf, gradient, reference))))


def plot_history(losses: Sequence[float], accuracies: Sequence[float], title: str) -> None:
    """Draw the loss of each step and the accuracy of each epoch into digits_loss.png."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")  # no pyplot, so no display is needed
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)

    epochs = np.arange(1, len(accuracies) + 1)
    steps = np.arange(1, len(losses) + 1) * len(epochs) / len(losses)
    means = np.reshape(losses, (len(epochs), -1)).mean(axis=1)
    left.plot(steps, losses, color="tab:blue", alpha=0.3, linewidth=0.8, label="each step")
    left.plot(epochs, means, color="tab:blue", marker=".", label="mean of the epoch")
    left.set(title="training loss", ylabel="cross-entropy", yscale="log")

    right.plot(epochs, accuracies, color="tab:orange", marker=".", label="each epoch")
    right.axhline(accuracies[-1], color="gray", linestyle="--", label=f"last: {accuracies[-1]:.1%}")
    right.set(title="test accuracy", ylabel="right answers")
    right.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))

    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig("digits_loss.png", dpi=150)
