"""A flow as one figure: a row for each layer, a panel for each kind of number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from funcgrad.inspect.flows.flags import Flag, Row, reference
from funcgrad.inspect.flows.table import summary

if TYPE_CHECKING:
    from funcgrad.inspect.flows.flow import Flow

COLORS = {"value": "#2f6db3", "cotangent": "#c2571a", "gradient": "#7a4fa3", "update": "#2b8a5a"}
SHARES = {
    "value_zeros": ("values that are 0", "#2f6db3", "o"),
    "cotangent_zeros": ("cotangents that are 0", "#c2571a", "s"),
    "dead": ("dead ReLU units", "#b00020", "X"),
    "saturated": ("saturated sigmoids, tanhs", "#111111", "D"),
}
WRONG = "#b00020"
NAMED = 60
"""Of more layers than so many only some are named."""


def figure(flow: Flow) -> Any:
    """The figure of a flow; it needs matplotlib.

    Raises:
      ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as problem:
        raise ImportError(
            "The figure of a flow needs matplotlib, which is not installed. "
            "Install it: pip install 'funcgrad[examples]'"
        ) from problem
    rows, flags = flow.rows(), flow.flags()
    panels = [panel for panel in (_values, _cotangents, _gradients, _updates, _shares)
              if panel is not _updates or flow.updates is not None]  # fmt: skip
    tall = min(max(3.6, 0.24 * len(rows) + 2.4), 18)
    drawn = Figure(figsize=(3.1 * len(panels) + 2.2, tall), layout="constrained")
    axes = drawn.subplots(1, len(panels), sharey=True)
    for axis, panel in zip(np.atleast_1d(axes), panels, strict=True):
        panel(axis, rows, flow)
        _common(axis, rows, flags)
    _name(axes[0], rows, flags)
    wrong = summary(flags, rows)
    title = (
        f"Flow of {flow.name}, from its input on top to its output below; {flow.how}; red: flagged"
    )
    drawn.suptitle(title, fontsize=10, ha="left", x=0.01)
    drawn.supxlabel(
        "\n".join(wrong), fontsize=9, ha="left", x=0.01, color=WRONG if flags else "0.3"
    )
    return drawn


def _line(axis: Any, rows: Sequence[Row], key: str, color: str, label: str = "") -> None:
    """One number of all layers on a logarithmic axis; zeros stand at the left edge, as triangles."""
    numbers = np.array([row.get(key, np.nan) for row in rows], float)
    there = np.flatnonzero(np.isfinite(numbers))
    positive = there[numbers[there] > 0]
    axis.set_xscale("log")
    axis.plot(numbers[positive], positive, "o-", color=color, ms=3.5, lw=1, label=label)
    zeros = there[numbers[there] == 0]
    left = axis.get_yaxis_transform()
    axis.plot(np.full(len(zeros), 0.02), zeros, "<", color=WRONG, ms=5, transform=left)
    bad = [i for i, row in enumerate(rows) if key in row and not np.isfinite(row[key])]
    axis.plot(np.full(len(bad), 0.98), bad, ">", color=WRONG, ms=5, transform=left)


def _at_least_two_decades(axis: Any) -> None:
    """So that its ticks are powers of ten."""
    from matplotlib.ticker import NullFormatter

    left, right = axis.get_xlim()
    wider = max(1.0, 10 / np.sqrt(right / left))
    axis.set_xlim(left / wider, right * wider)
    axis.xaxis.set_minor_formatter(NullFormatter())


def _values(axis: Any, rows: Sequence[Row], flow: Flow) -> None:
    _line(axis, rows, "value_rms", COLORS["value"])
    _at_least_two_decades(axis)
    first = reference(rows[::-1], "value_rms")
    if first is not None:
        _shaded(axis, None, flow.thresholds.exploding * first)
    axis.set_title("values, forward ↓", fontsize=9)
    axis.set_xlabel("root mean square", fontsize=8)


def _cotangents(axis: Any, rows: Sequence[Row], flow: Flow) -> None:
    _line(axis, rows, "cotangent_norm", COLORS["cotangent"])
    _at_least_two_decades(axis)
    last = reference(rows, "cotangent_norm")
    if last is not None:
        _shaded(axis, flow.thresholds.vanishing * last, flow.thresholds.exploding * last)
    axis.set_title("cotangents, backward ↑", fontsize=9)
    axis.set_xlabel("norm (shaded: vanishing, exploding)", fontsize=8)


def _shaded(axis: Any, low: float | None, high: float) -> None:
    """Shade what is flagged, as far as the axis goes."""
    left, right = axis.get_xlim()
    for start, end in ((left, low), (high, right)):
        if start is not None and end is not None and start < end:
            axis.axvspan(start, end, color=WRONG, alpha=0.09, lw=0)
    axis.set_xlim(left, right)


def _gradients(axis: Any, rows: Sequence[Row], flow: Flow) -> None:
    _line(axis, rows, "gradient_norm", COLORS["gradient"], "gradient")
    _line(axis, rows, "weight_norm", "0.6", "parameters")
    _at_least_two_decades(axis)
    axis.legend(fontsize=7, loc="best", framealpha=0.7)
    axis.set_title("parameters of the layer", fontsize=9)
    axis.set_xlabel("norm", fontsize=8)


def _updates(axis: Any, rows: Sequence[Row], flow: Flow) -> None:
    _line(axis, rows, "update_ratio", COLORS["update"])
    _at_least_two_decades(axis)
    axis.axvline(1e-3, color="0.6", lw=0.8, ls="--")
    axis.set_title("update of the parameters", fontsize=9)
    axis.set_xlabel("norm / norm of parameters (dashed: usual, 1e-3)", fontsize=8)


def _shares(axis: Any, rows: Sequence[Row], flow: Flow) -> None:
    for key, (label, color, marker) in SHARES.items():
        found = [(row[key], i) for i, row in enumerate(rows) if key in row]
        if found:
            share, at = zip(*found, strict=True)
            axis.plot(share, at, marker, color=color, ms=4, label=label, alpha=0.8, mfc="none")
    axis.set_xlim(-0.03, 1.03)
    axis.set_xticks([0, 0.5, 1], ["0%", "50%", "100%"])
    axis.legend(fontsize=7, loc="best", framealpha=0.7)
    axis.set_title("shares", fontsize=9)
    by = flow.thresholds
    axis.set_xlabel(f"flagged: dead > {by.dead:.0%}, saturated > {by.saturated:.0%}", fontsize=8)


def _common(axis: Any, rows: Sequence[Row], flags: Sequence[Flag]) -> None:
    """What all panels have: the input on top, a stripe behind each flagged layer, small ticks."""
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.tick_params(labelsize=7)
    axis.grid(axis="x", color="0.9", lw=0.6)
    flagged = {flag.layer for flag in flags}
    for i, row in enumerate(rows):
        if row["layer"] in flagged:
            axis.axhspan(i - 0.5, i + 0.5, color=WRONG, alpha=0.04, lw=0)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _name(axis: Any, rows: Sequence[Row], flags: Sequence[Flag]) -> None:
    """The layers' names, in red with the flags where there are any."""
    every = max(1, round(len(rows) / NAMED))
    kinds: dict[str, list[str]] = {}
    for flag in flags:
        kinds.setdefault(flag.layer, []).append(flag.kind)
    shown = range(0, len(rows), every)
    names = [(rows[i]["layer"], [*dict.fromkeys(kinds.get(rows[i]["layer"], ()))]) for i in shown]
    labels = [name + (f"  ({', '.join(wrong)})" if wrong else "") for name, wrong in names]
    axis.set_yticks([*shown], labels)
    for label, (_, wrong) in zip(axis.get_yticklabels(), names, strict=True):
        label.set_color(WRONG if wrong else "0.1")
