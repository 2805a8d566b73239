"""Tables in text: words to the left, figures to the right."""

from __future__ import annotations

from collections.abc import Container, Sequence


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], words: Container[int] = range(1)
) -> str:
    """Rows of text under a head, in columns; those with the numbers `words` are not figures."""
    columns = list(zip(head, *rows, strict=True))
    sides = [str.ljust if i in words else str.rjust for i in range(len(head))]
    widths = [max(map(len, column)) for column in columns]

    def line(cells: Sequence[str]) -> str:
        columns = zip(sides, cells, widths, strict=True)
        padded = (side(cell, width) for side, cell, width in columns)
        return "  ".join(padded).rstrip()

    return "\n".join(map(line, [head, *rows]))


def shortened(name: str, most: int) -> str:
    """A name of at most so many letters: its middle is left out."""
    first = (most - 1) // 2
    last = most - 1 - first
    return name if len(name) <= most else f"{name[:first]}…{name[-last:]}"


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
