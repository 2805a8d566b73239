"""A flow as text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from funcgrad.inspect.flows.flags import Flag, Row

if TYPE_CHECKING:
    from funcgrad.inspect.flows.flow import Flow

SHOWN = 120
"""Of more rows than so many the middle is left out."""
NUMBERS = (
    ("value_norm", "norm"),
    ("value_mean", "mean"),
    ("value_zeros", "zeros"),
    ("cotangent_norm", "norm"),
    ("cotangent_mean", "mean"),
    ("cotangent_zeros", "zeros"),
    ("gradient_norm", "norm"),
    ("gradient_mean", "mean"),
    ("gradient_zeros", "zeros"),
    ("update_ratio", "/weight"),
)
WIDTH = 9


def table(flow: Flow) -> str:
    """The table of a flow, with what is wrong below it; without numbers, its rows alone."""
    from funcgrad.inspect.flows.flow import has_numbers

    title = f"Flow of {flow.name}; {flow.how}"
    if not has_numbers(flow):
        return "\n".join([f"{title}; no numbers yet", *_structure(flow)])
    rows, flags = flow.rows(), flow.flags()
    columns = [(key, head) for key, head in NUMBERS if any(key in row for row in rows)]
    wide = max((len(row["layer"]) for row in rows), default=0)
    kinds = defaultdict(list)
    for flag in flags:
        kinds[flag.layer].append(flag.kind)
    lines = [
        f"{row['layer']:<{wide}}"
        + "".join(_shown(key, row).rjust(WIDTH) for key, _ in columns)
        + "".join(f"  {kind}" for kind in dict.fromkeys(kinds[row["layer"]]))
        for row in rows
    ]
    if len(lines) > SHOWN:
        left_out = f"... {len(lines) - SHOWN} more, all in flow.rows()"
        lines = [*lines[: SHOWN // 2], left_out, *lines[-SHOWN // 2 :]]
    return "\n".join([title, *_heads(columns, wide), *lines, "", *summary(flags, rows)])


def _heads(columns: Sequence[tuple[str, str]], wide: int) -> list[str]:
    groups: dict[str, int] = {}
    for key, _ in columns:
        what = key.split("_")[0]
        groups[what] = groups.get(what, 0) + 1
    first = "".join(f"{what}".center(WIDTH * count) for what, count in groups.items())
    second = "".join(head.rjust(WIDTH) for _, head in columns)
    return [(" " * wide + first).rstrip(), f"{'layer':<{wide}}{second}"]


def _shown(key: str, row: Row) -> str:
    if key not in row:
        return "-"
    return f"{row[key]:.1%}" if key.endswith("zeros") else f"{row[key]:.2g}"


def _structure(flow: Flow) -> list[str]:
    rows = [
        (order, f"{name}  {', '.join(p.name for p in layer.parameters)}".rstrip())
        for layer in flow.layers
        for name, order in zip(layer.rows, layer.order, strict=True)
    ]
    return [row for _, row in sorted(rows)]


def summary(flags: Sequence[Flag], rows: Sequence[Row]) -> list[str]:
    """One line for each kind of flag: how many layers, which first, and the worst."""
    by_kind: dict[str, list[Flag]] = {}
    for flag in flags:
        by_kind.setdefault(flag.kind, []).append(flag)
    if not by_kind:
        return ["Nothing is flagged."]
    return [_of_kind(kind, found, len(rows)) for kind, found in by_kind.items()]


def _of_kind(kind: str, found: Sequence[Flag], total: int) -> str:
    count = len({flag.layer for flag in found})
    worst: Any = (min if kind == "vanishing" else max)(found, key=lambda flag: flag.number)
    more = "" if count == 1 else f" in {count} of {total} rows, most in"
    return f"{kind}{more or ':'} {worst.layer}: {worst.words}"
