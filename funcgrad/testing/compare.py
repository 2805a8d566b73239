"""When two cotangents count as equal, and where they differ most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

Index = tuple[int, ...]


@dataclass(frozen=True)
class Difference:
    """The element of some arrays at which two answers differ most.

    Attributes:
      share: the error as a share of what is allowed: above 1 it is too large.
      leaf: which array.
      index: where in it.
      found: the value there.
      expected: what it should be.
      allowed: the error that is allowed there.
    """

    share: float
    leaf: int
    index: Index
    found: Any
    expected: Any
    allowed: float


def as_double(x: Any) -> np.ndarray:
    """An array of any floating or complex dtype in double precision, on the host."""
    x = np.asarray(x)
    return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)


def default_rtol(eps: float) -> float:
    """Half of the digits that there are."""
    return eps**0.5


def worst(
    found: Sequence[Any],
    expected: Sequence[Any],
    rtol: float,
    eps: float,
    noise: Sequence[float] | None = None,
) -> Difference:
    """Compare arrays element by element.

    What is allowed is ``rtol`` of the element, and ``eps**0.8`` of the largest element of its array
    (what rounding leaves of an element that is small by cancellation), and `noise`, by array.
    """
    worst = Difference(0.0, 0, (), 0.0, 0.0, 0.0)
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        a, b = as_double(a), as_double(b)
        if a.size == 0:
            continue
        sizes = np.abs(b)
        largest = np.max(sizes, where=np.isfinite(sizes), initial=0.0)
        allowed = rtol * sizes + eps**0.8 * largest + (noise[i] if noise else 0.0)
        shares = _shares(a, b, allowed)
        index = np.unravel_index(int(np.argmax(shares)), shares.shape)
        if shares[index] > worst.share:
            place = tuple(map(int, index))
            worst = Difference(float(shares[index]), i, place, a[index], b[index], allowed[index])
    return worst


def _shares(a: np.ndarray, b: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Errors by what is allowed; what is not finite must be the same on both sides."""
    with np.errstate(all="ignore"):
        errors = np.abs(a - b)
        shares = np.where(errors == 0, 0.0, errors / np.maximum(allowed, 1e-300))
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    broken = ~(np.isfinite(a) & np.isfinite(b))
    return np.where(broken, np.where(same, 0.0, np.inf), shares)


def bisect(measure: Callable[[np.ndarray], float], size: int) -> int:
    """The element that contributes most to a measured error, by halving.

    `measure` takes a mask over the elements, and returns the error with only those varied.
    """
    low, high = 0, size
    while high - low > 1:
        middle = (low + high) // 2
        errors = []
        for start, stop in ((low, middle), (middle, high)):
            mask = np.zeros(size)
            mask[start:stop] = 1
            errors.append(measure(mask))
        low, high = (low, middle) if errors[0] >= errors[1] else (middle, high)
    return low


def show(x: Any) -> str:
    """A number with all of its digits."""
    return repr(x.item() if isinstance(x, (np.ndarray, np.generic)) else x)


def show_tree(tree: Any, limit: int = 32) -> str:
    """Arrays as text from which they can be made again, if they are small."""
    sizes = [np.size(x) for x in jax.tree.leaves(tree)]
    if sum(sizes) > limit:
        return f"{sum(sizes)} numbers, see the exception's attribute `cotangent`"
    with np.printoptions(precision=17, floatmode="unique"):
        leaves = [np.array_repr(np.asarray(x)) for x in jax.tree.leaves(tree)]
    text = ", ".join(" ".join(leaf.split()) for leaf in leaves)
    return text if len(leaves) == 1 else f"({text})"
