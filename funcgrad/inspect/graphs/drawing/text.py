"""How wide text is, and how a name or a number is written in little room.

The reader's fonts are not known. Widths are those of DejaVu, which is wider than the usual fonts of all
systems, so that text stays inside its box.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Collection
from typing import Any

import numpy as np

MONO = 0.61
"""The width of a monospaced character, for a font of size 1."""

CLASSES = [("ijlI|.,:;'! ", 0.34), ("frt()[]{}/-_·…", 0.5), ("mwMW%@—", 0.98)]
UPPER, LOWER = 0.74, 0.645
"""The widths of other characters of a proportional font."""

LONGEST = 22
"""How many characters of a name are shown."""


BOLD = 1.12
"""How much wider bold letters of a proportional font are."""


@functools.lru_cache(4096)
def width(text: str, size: float, *, mono: bool = False, bold: bool = False) -> float:
    """The width of a line of text, at most."""
    if mono:
        return MONO * size * len(text)
    return (BOLD if bold else 1.0) * size * sum(_width_of(character) for character in text)


def _width_of(character: str) -> float:
    for characters, found in CLASSES:
        if character in characters:
            return found
    return UPPER if character.isupper() else LOWER


def short_name(name: str, inside: Collection[str] = ()) -> str:
    """``params.dense.kernel`` for ``params['dense']['kernel']``; of a long name its end.

    Args:
      name: an argument's name.
      inside: names that a reader sees around it, which are left out: ``kernel`` inside ``dense``.
    """
    plain = re.sub(r"\[['\"](.*?)['\"]\]", r".\1", name)
    parts = re.split("([./])", plain)
    known = max((i + 2 for i, part in enumerate(parts[:-2]) if part in inside), default=0)
    plain = "".join(parts[known:])
    if len(plain) <= LONGEST:
        return plain
    end = plain[-LONGEST + 1 :]
    first = end.find(".")
    return "…" + (end[first + 1 :] if 0 <= first < LONGEST // 2 else end)


def clipped(text: str, longest: int = LONGEST) -> str:
    """The beginning of a long text."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def type_of(aval: Any) -> str:
    """``f32[3,2]``; a scalar's type has no brackets."""
    return aval.str_short(short_dtypes=True).removesuffix("[]")


def number(value: Any) -> str:
    """A number with three digits: ``-0.0123``, ``1.2e-05``, ``True``, ``12``."""
    if isinstance(value, (bool, np.bool_, int, np.integer)):
        return str(value)
    if isinstance(value, (complex, np.complexfloating)):
        return f"{complex(value):.3g}".strip("()")
    return f"{float(value):.3g}"


def table(value: Any) -> list[list[str]]:
    """The numbers of a small array, a matrix row by row; empty for a large or an unknown one."""
    shape = np.shape(value)
    if (
        value is None
        or not 0 < math.prod(shape) <= 9
        or len(shape) > 2
        or (shape and shape[-1] > 4)
    ):
        return []
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # keys, and values that no host has
        return []
    return [[number(x) for x in row] for row in np.atleast_2d(array)]


def lines(rows: list[list[str]], widest: int = 0) -> list[str]:
    """Rows of numbers as lines, one number below the other."""
    widest = max(widest, *(len(cell) for row in rows for cell in row), 0)
    return ["  ".join(cell.rjust(widest) for cell in row) for row in rows]
