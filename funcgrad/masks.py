"""Sequences with gaps: a mask says which places are filled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from funcgrad._jax import Mask

T = TypeVar("T")


def mask_of(values: Iterable[object]) -> Mask:
    """Which values are not None."""
    return tuple([value is not None for value in values])


def filled(values: Iterable[T | None]) -> list[T]:
    """The values that are not None."""
    return [value for value in values if value is not None]


def select(values: Iterable[T], mask: Iterable[bool]) -> list[T]:
    """The values in the places that the mask marks."""
    return [value for value, there in zip(values, mask, strict=True) if there]


def only(values: Iterable[T], mask: Iterable[bool]) -> list[T | None]:
    """The values in the places that the mask marks, None in the others."""
    return [value if there else None for value, there in zip(values, mask, strict=True)]


def spread(values: Iterable[T], mask: Iterable[bool]) -> list[T | None]:
    """The values, in order, in the places that the mask marks; None in the others.

    Example:
      >>> spread("ab", (True, False, True))
      ['a', None, 'b']
      >>> filled(['a', None, 'b']), mask_of(['a', None, 'b'])
      (['a', 'b'], (True, False, True))
    """
    remaining = iter(values)
    return [next(remaining) if there else None for there in mask]


def replaced(values: Iterable[T], mask: Iterable[bool], others: Iterable[T]) -> list[T]:
    """The values, with the others, in order, in the places that the mask marks.

    Example:
      >>> replaced("abc", (True, False, True), "xy")
      ['x', 'b', 'y']
    """
    remaining = iter(others)
    return [next(remaining) if there else value for value, there in zip(values, mask, strict=True)]


def both(a: Iterable[bool], b: Iterable[bool]) -> Mask:
    """The places that both masks mark."""
    return tuple([x and y for x, y in zip(a, b, strict=True)])


def either(a: Iterable[bool], b: Iterable[bool]) -> Mask:
    """The places that one of two masks marks."""
    return tuple([x or y for x, y in zip(a, b, strict=True)])
