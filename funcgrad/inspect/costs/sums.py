"""Work of two kinds, added up by name: of the function and backward, or by our rules and JAX's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from funcgrad.partition.work import Work

Row = TypeVar("Row")

NONE = Work()


@dataclass
class Sum:
    """How often what has a name runs, and its work of both kinds."""

    count: int = 0
    first: Work = field(default_factory=Work)
    second: Work = field(default_factory=Work)


class Sums(defaultdict[str, Sum]):
    """A sum for each name; one that is new is zero."""

    def __init__(self) -> None:
        super().__init__(Sum)

    def add(self, name: str, count: int = 0, first: Work = NONE, second: Work = NONE) -> None:
        """Add to the sum of a name."""
        own = self[name]
        own.count += count
        own.first += first
        own.second += second

    def rows(self, row: Callable[[str, int, Work, Work], Row]) -> list[Row]:
        """A row of each sum, by name, count and work."""
        return [row(name, own.count, own.first, own.second) for name, own in self.items()]
