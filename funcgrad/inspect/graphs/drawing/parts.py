"""Where a long run of operations is parted: at places at which few values are on their way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

from funcgrad.inspect.graphs.drawing.groups import Group, Item, leaves
from funcgrad.inspect.graphs.drawing.same import Value
from funcgrad.inspect.graphs.nodes import OpNode

PARTED = ("operations", "groups")
"""The kinds of groups that are nothing but consecutive items."""


def in_parts(
    items: Sequence[Item], parts: int, makes: Mapping[OpNode, Sequence[Value]]
) -> list[Item]:
    """Consecutive items as groups, about equally many in each.

    Args:
      items: operations and groups in the order in which they run.
      parts: how many groups there shall be.
      makes: by operation, the values that it makes.

    Returns:
      The groups; an item that would be alone in one stands for itself.
    """
    on_the_way = _on_the_way(items, makes)
    even = [len(items) * part // parts for part in range(parts + 1)]
    reach = len(items) // (3 * parts)

    def best(cut: int) -> int:
        near = range(cut - reach, cut + reach + 1)
        return min(near, key=lambda at: (on_the_way[at], abs(at - cut)))

    cuts = [0, *(best(cut) for cut in even[1:-1]), len(items)]
    return [_part(items[start:stop], start) for start, stop in pairwise(cuts) if start < stop]


def _on_the_way(items: Sequence[Item], makes: Mapping[OpNode, Sequence[Value]]) -> list[int]:
    """For each place between two items, how many values are made before it and read after it."""
    where = {op: i for i, item in enumerate(items) for op in leaves(item)}
    steps = [0] * (len(items) + 1)
    for op, i in where.items():
        for value in makes.get(op, ()):
            last = max((where.get(reader, len(items)) for reader, _, _ in value.readers), default=i)
            steps[i + 1] += 1
            steps[min(last + 1, len(items))] -= 1
    return [*accumulate(steps)]


def _part(items: Sequence[Item], start: int) -> Item:
    if len(items) == 1:
        return items[0]
    names = [item.name for item in items if isinstance(item, Group)]
    if len(names) == len(items):
        return Group(f"{names[0]} … {names[-1]}", "groups", [*items])
    return Group(f"operations {start + 1} to {start + len(items)}", "operations", [*items])
