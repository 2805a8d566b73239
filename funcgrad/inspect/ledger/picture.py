"""The ledger as a picture: bars by scope, and what is still alive on the way back.

Bars, not a treemap: lengths on one baseline can be compared, scopes stay in the order of the program,
and each has room for its name. Treemaps compare areas, and would need another package (squarify).
"""

from __future__ import annotations

from collections.abc import Sequence
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
    groups = bars(ledger, rows)
    figure = Figure(figsize=(11, 1.8 + 0.32 * len(groups)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw_bars(left, groups)
    _draw_walk(right, ledger)
    figure.suptitle(_title(ledger), fontsize=11, x=0.01, ha="left")
    return figure


def bars(ledger: Ledger, rows: int) -> dict[str, dict[str, int]]:
    """By scope, or by function where there is none, the bytes by status; the largest scopes."""
    found: dict[str, dict[str, int]] = {}
    for entry in ledger.of(*COLOURS):
        group = found.setdefault(_group(entry), dict.fromkeys(COLOURS, 0))
        group[entry.status] += entry.bytes
    first: dict[str, int] = {}
    for entry in ledger.of(*COLOURS):
        steps = [ask.step for ask in entry.asked_by]
        first[_group(entry)] = max([first.get(_group(entry), 0), *steps])
    largest = sorted(found, key=lambda name: -sum(found[name].values()))
    shown = sorted(largest[:rows], key=lambda name: -first[name])
    result = {name: found[name] for name in shown}
    rest = largest[rows:]
    if rest:
        sums = {status: sum(found[name][status] for name in rest) for status in COLOURS}
        result[f"{len(rest)} smaller ones"] = sums
    return result


def _group(entry: Residual) -> str:
    if entry.scope:
        return entry.scope
    function = (entry.where or "").rpartition("(")[2].rstrip(")")
    return function or "elsewhere"


def _draw_bars(axes: Any, groups: dict[str, dict[str, int]]) -> None:
    names = [*groups]
    scale, unit = _unit([sum(group.values()) for group in groups.values()])
    starts = [0.0] * len(names)
    for status, colour in COLOURS.items():
        widths = [groups[name][status] / scale for name in names]
        if any(widths):
            hatch = "///" if status == RECOMPUTED else None
            axes.barh(names, widths, left=starts, color=colour, hatch=hatch, label=status,
                      edgecolor="white", linewidth=0.5)  # fmt: skip
            starts = [a + b for a, b in zip(starts, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel(f"{unit}, in the order of the program")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_walk(axes: Any, ledger: Ledger) -> None:
    alive = ledger.alive()
    scale, unit = _unit(alive)
    values = [held / scale for held in alive]
    axes.fill_between(range(len(values)), values, step="post", color=COLOURS[KEPT], alpha=0.35)
    axes.step(range(len(values)), values, where="post", color=COLOURS[KEPT])
    axes.set_xlabel(f"step of the way back, of {ledger.steps}")
    axes.set_ylabel(f"{unit} still kept")
    axes.set_ylim(bottom=0)
    axes.margins(x=0)
    axes.spines[["top", "right"]].set_visible(False)


def _title(ledger: Ledger) -> str:
    scale, unit = _unit([ledger.kept])
    title = f"{ledger.name.partition(' at ')[0]} keeps {ledger.kept / scale:.3g} {unit}"
    if ledger.kept_by_jax is not None:
        title += f"; jax.grad keeps {ledger.kept_by_jax / scale:.3g} {unit}"
    if ledger.suggestion is not None:
        best = ledger.suggestion
        title += (
            f"\ntry jax.checkpoint around {best.around}: keeps {best.after.kept / scale:.3g} {unit}, "
            f"{best.repeated:+.0%} operations"
        )
    return title


def _unit(sizes: Sequence[float]) -> tuple[int, str]:
    """The unit in which the largest size has at least one digit before the point."""
    largest = max(sizes, default=0)
    return next(((scale, name) for scale, name in UNITS if largest >= scale), (1, "B"))
