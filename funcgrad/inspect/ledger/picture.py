"""The ledger as a picture: bars by scope, and what is still alive on the way back.

Bars, not a treemap: lengths on one baseline can be compared, scopes stay in the order of the program,
and each has room for its name. Treemaps compare areas, and would need another package (squarify).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from funcgrad.inspect.ledger.entries import KEPT, OFFLOADED, PUT_OFF, RECOMPUTED, Residual

if TYPE_CHECKING:
    from funcgrad.inspect.ledger.ledger import Ledger

COLOURS = {KEPT: "#3b6fb6", OFFLOADED: "#7a5aa6", PUT_OFF: "#c98a2b", RECOMPUTED: "#d5d9e0"}
"""What each status is drawn in; arguments are not drawn, since they are alive anyway."""

UNITS = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


def picture_of(ledger: Ledger, rows: int) -> Any:
    """The picture of a ledger; see :meth:`Ledger.to_figure`."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Ledger.to_figure was asked for a picture, but matplotlib is not installed. "
            "`pip install matplotlib`, or print the ledger."
        ) from error
    groups = groups_of(ledger, rows)
    figure = Figure(figsize=(11, 2.6 + 0.3 * len(groups)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw_bars(left, groups)
    _draw_walk(right, ledger)
    figure.suptitle(_title(ledger), fontsize=11, x=0.01, ha="left")
    return figure


def groups_of(ledger: Ledger, rows: int) -> dict[str, list[Residual]]:
    """The arrays by scope, or by function where there is none, in the order of the program.

    Scopes are cut at the greatest depth at which there are not too many; if there still are, the
    smallest go together.
    """
    entries = ledger.of(*COLOURS)
    depths = range(max((entry.scope.count("/") for entry in entries), default=0) + 1, 0, -1)
    groups: dict[str, list[Residual]] = {}
    for depth in depths:
        groups = {}
        for entry in entries:
            groups.setdefault(_group(entry, depth), []).append(entry)
        if len(groups) <= rows:
            break
    largest = sorted(groups, key=lambda name: -_total(groups[name]))
    shown = sorted(largest[:rows], key=lambda name: -_reached(groups[name]))
    found = {name: groups[name] for name in shown}
    rest = [entry for name in largest[rows:] for entry in groups[name]]
    if rest:
        found[f"{len(largest) - rows} smaller ones"] = rest
    return found


def _group(entry: Residual, depth: int) -> str:
    if entry.scope:
        return "/".join(entry.scope.split("/")[:depth])
    function = (entry.where or "").rpartition("(")[2].rstrip(")")
    return function or "elsewhere"


def _total(entries: Sequence[Residual]) -> int:
    return sum(entry.bytes for entry in entries)


def _reached(entries: Sequence[Residual]) -> int:
    """When the way back comes to the first of these arrays in the program: late for early ones."""
    return max((ask.step for entry in entries for ask in entry.asked_by), default=0)


THINNEST = 0.004
"""Pieces thinner than this share of the longest bar are drawn as one."""


def _draw_bars(axes: Any, groups: dict[str, list[Residual]]) -> None:
    """A bar for each scope, of a piece for each array, with the op that made the array."""
    scale, unit = _unit([_total(entries) for entries in groups.values()])
    widest = max((_total(entries) for entries in groups.values()), default=1) / scale
    seen: set[str] = set()
    for row, entries in enumerate(groups.values()):
        start = 0.0
        for status, op, size in _pieces(entries, THINNEST * widest * scale):
            width = size / scale
            label = None if status in seen else status
            seen.add(status)
            hatch = "///" if status == RECOMPUTED else None
            axes.barh(row, width, left=start, color=COLOURS[status], hatch=hatch, label=label,
                      edgecolor="white", linewidth=0.8)  # fmt: skip
            if width > 0.011 * widest * len(op):
                colour = "#333333" if status == RECOMPUTED else "white"
                axes.text(start + width / 2, row, op, ha="center", va="center", fontsize=6.5,
                          color=colour)  # fmt: skip
            start += width
    axes.set_yticks(range(len(groups)), [*groups], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(f"{unit}; a piece is an array, named after the op that made it")
    if seen:
        axes.legend(frameon=False, fontsize=8, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)


def _pieces(entries: Sequence[Residual], thinnest: float) -> Iterator[tuple[str, str, int]]:
    """Status, op and bytes of each piece of a bar: an array, or all small ones of a status."""
    for status in COLOURS:
        own = [entry for entry in entries if entry.status == status]
        yield from ((status, e.op, e.bytes) for e in own if e.bytes >= thinnest)
        small = sum(e.bytes for e in own if e.bytes < thinnest)
        if small:
            yield status, "", small


def _draw_walk(axes: Any, ledger: Ledger) -> None:
    alive = ledger.alive()
    scale, unit = _unit(alive)
    values = [held / scale for held in alive]
    if ledger.suggestion is not None:
        most = ledger.suggestion.after.alive / scale
        axes.axhline(most, color="#c0392b", linestyle="--", linewidth=1)
        axes.text(0, most, " at most, with the checkpoints", color="#c0392b", fontsize=8, va="top")
    axes.fill_between(range(len(values)), values, step="post", color=COLOURS[KEPT], alpha=0.35)
    axes.step(range(len(values)), values, where="post", color=COLOURS[KEPT])
    axes.set_xlabel(f"step of the way back, of {ledger.steps}")
    axes.set_ylabel(f"{unit} still kept")
    axes.set_ylim(bottom=0)
    axes.margins(x=0)
    axes.spines[["top", "right"]].set_visible(False)


def _title(ledger: Ledger) -> str:
    title = f"{ledger.name} keeps {_shown(ledger.kept)}"
    if ledger.kept_by_jax is not None:
        title += f"; jax.grad keeps {_shown(ledger.kept_by_jax)}"
    if ledger.suggestion is not None:
        best = ledger.suggestion
        title += (
            f"\ntry jax.checkpoint around {best.around}: keeps {_shown(best.after.kept)}, "
            f"{best.repeated:+.0%} operations"
        )
    return title


def _shown(size: int) -> str:
    scale, unit = _unit([size])
    return f"{size / scale:.3g} {unit}"


def _unit(sizes: Sequence[float]) -> tuple[int, str]:
    """The unit in which the largest size has at least one digit before the point."""
    largest = max(sizes, default=0)
    return next(((scale, name) for scale, name in UNITS if largest >= scale), (1, "B"))
