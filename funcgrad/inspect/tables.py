"""Tables in text: the first column to the left, figures to the right."""

from __future__ import annotations

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of text under a head, in columns."""
    columns = list(zip(head, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    return "\n".join(_line(cells, widths) for cells in [head, *rows])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
    return "  ".join(padded).rstrip()


UNITS = ("", "k", "M", "G", "T", "P", "E")


def number(x: float) -> str:
    """A figure in at most four digits, with a unit of thousands: ``1.23M``."""
    if x == int(x) and abs(x) < 10_000:
        return f"{int(x)}"
    for unit in UNITS:
        if abs(x) < 999.5 or unit == UNITS[-1]:
            return f"{x:.3g}{unit}"
        x /= 1000
    raise AssertionError
