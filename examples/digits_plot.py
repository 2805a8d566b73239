"""The picture of a training run."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter


def plot_history(
    losses: Sequence[float], accuracies: Sequence[float], title: str, path: str
) -> None:
    """Draw the training loss of each step and the test accuracy of each epoch."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")  # no pyplot, so no display is needed
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)

    epochs = len(accuracies)
    steps = np.arange(1, len(losses) + 1) * epochs / len(losses)
    means = np.mean(np.reshape(losses, (epochs, -1)), axis=1)
    left.plot(steps, losses, color="tab:blue", alpha=0.3, linewidth=0.8, label="each step")
    left.plot(np.arange(epochs) + 1, means, color="tab:blue", label="mean of the epoch")
    left.set(ylabel="training loss (cross-entropy)", yscale="log")

    best = max(accuracies)
    right.plot(np.arange(epochs) + 1, accuracies, color="tab:orange", label="test set")
    right.axhline(best, color="gray", linewidth=0.8, linestyle="--", label=f"best: {best:.2%}")
    right.set(ylabel="accuracy", ylim=(min(0.9, *accuracies), 1))
    right.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))

    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
