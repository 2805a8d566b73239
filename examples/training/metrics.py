"""The metrics of a run: a file of JSON lines that survives a kill, and a plot of it."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

VALUE, INK, LINE = "#0b57b0", "#1f2328", "#d5dae1"


class Metrics:
    """A file `metrics.jsonl`, with a line for each step.

    Values are written one step late, so that the device is not waited for.

    Args:
        folder: Where the file lies. It is made if it is not there.
        done: How many steps the run has behind it. Lines of later steps are removed: a run that is
            resumed takes these steps again.
    """

    def __init__(self, folder: Path, done: int = 0) -> None:
        self.path = folder / "metrics.jsonl"
        self._late: tuple[int, Mapping[str, Any]] | None = None
        self._file: IO[str] | None = None
        if jax.process_index() > 0:
            return  # the first process writes what all of them compute
        folder.mkdir(parents=True, exist_ok=True)
        kept = [json.dumps(line) + "\n" for line in read(self.path) if line["step"] <= done]
        replacement = self.path.with_suffix(".new")
        replacement.write_text("".join(kept))
        replacement.replace(self.path)
        self._file = self.path.open("a")

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, step: int, values: Mapping[str, Any]) -> None:
        """Remember the scalars of a step, and write those of the step before.

        Raises:
            FloatingPointError: If a value of the step before is not finite.
        """
        self.flush()
        self._late = step, values

    def flush(self) -> None:
        """Write all that was added, so that it survives the end of the process."""
        if self._late is None:
            return
        (step, values), self._late = self._late, None
        numbers = {name: float(np.asarray(x)) for name, x in values.items()}
        if self._file is not None:
            self._file.write(json.dumps({"step": step, **numbers}) + "\n")
            self._file.flush()
        if not np.all(np.isfinite(list(numbers.values()))):
            raise FloatingPointError(
                f"step {step}: {numbers} is not finite. `funcgrad.inspect.nonfinite` says where that "
                "begins, in a step from the newest checkpoint."
            )

    def sync(self) -> None:
        """Write all that was added, so that it survives a power cut."""
        self.flush()
        if self._file is not None:
            os.fsync(self._file.fileno())


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; none if there is no file.

    A last line that a kill cut short is left out.

    Raises:
        ValueError: If another line is no JSON object.
    """
    if not path.exists():
        return []
    *lines, _ = path.read_text().split("\n")
    return [json.loads(line) for line in lines]


def plot(path: Path, picture: Path, title: str) -> None:
    """Draw each metric of a file over the steps, and its mean over a fortieth of them, as a PNG.

    A file without lines has no picture.
    """
    lines = read(path)
    if not lines:
        return
    steps = np.array([line["step"] for line in lines])
    names = sorted({*lines[-1]} - {"step"}, key=lambda name: (name != "loss", name))
    columns, rows = min(2, len(names)), -(-len(names) // 2)
    figure = Figure(figsize=(4.5 * columns, 2.8 * rows), layout="constrained")  # needs no display
    figure.suptitle(title, x=0.01, ha="left", color=INK)
    places = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    for name, axes in zip(names, places[: len(names)], strict=True):
        values = np.array([line.get(name, np.nan) for line in lines])
        _draw(axes, steps, values)
        axes.set_title(name.replace("_", " "), loc="left", fontsize=11, color=INK)
    for axes in places[len(names) :]:
        axes.set_visible(False)
    for axes in places[-columns:]:
        axes.set_xlabel("step")
    figure.savefig(picture, dpi=150)


def _draw(axes: Axes, steps: np.ndarray, values: np.ndarray) -> None:
    """Each value, and the mean of those around it."""
    width = len(steps) // 40 // 2 * 2 + 1  # odd, so that it has a middle
    means = np.convolve(values, np.ones(width) / width, "valid")
    axes.plot(steps, values, color=VALUE, alpha=0.25, linewidth=0.8)
    axes.plot(steps[width // 2 :][: len(means)], means, color=VALUE, linewidth=2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=LINE, linewidth=0.6)
    if np.all(values > 0) and values.max() > 20 * values.min():
        axes.set_yscale("log")
