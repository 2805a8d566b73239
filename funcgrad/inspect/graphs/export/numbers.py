"""An array in a few numbers, a small picture and a histogram."""

from __future__ import annotations

import base64
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SMALL = 64
"""The most elements that are written one by one."""

SIDE = 32
"""The most rows and columns of a picture."""

BINS = 16


def data(x: Any) -> dict[str, Any] | None:
    """Shape, range, mean, norm, how many elements are not finite; all elements if they are few.

    Of more than 64 elements there is a picture of at most 32 by 32 of them, from the least (0) to the
    largest (255), and a histogram of 16 bins. Only finite elements count. Numbers have 6 digits.
    """
    array = as_numpy(x)
    if array is None:
        return None
    numbers = _real(array)
    finite = numbers.ravel()
    if not math.isfinite(float(finite.sum())):
        finite = finite[np.isfinite(finite)]
    found: dict[str, Any] = {"shape": list(array.shape), **_summary(finite)}
    found["nonfinite"] = numbers.size - finite.size
    if array.size <= SMALL:
        listed = _listed(array) if numbers.size == finite.size else _told(array.tolist())
        return found | {"numbers": listed}
    return found | {"image": _image(numbers, finite), "histogram": _histogram(finite)}


def _summary(finite: np.ndarray) -> dict[str, Any]:
    """The range, the mean and the norm; None for no elements."""
    if not finite.size:
        return {"min": None, "max": None, "mean": None, "norm": None}
    norm = math.sqrt(np.square(finite).sum())
    return {
        "min": rounded(finite.min()),
        "max": rounded(finite.max()),
        "mean": rounded(finite.mean()),
        "norm": rounded(norm),
    }


def rounded(x: Any) -> float:
    """A finite number with 6 digits."""
    return float(f"{x:.6g}")


def as_numpy(x: Any) -> np.ndarray | None:
    """The array's numbers; None where there is none to show: a key, a reference, an array of others."""
    if not (isinstance(x, (jax.Array, np.ndarray)) or np.isscalar(x)):
        return None
    dtype = getattr(x, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.extended):
        return None
    return np.asarray(x) if getattr(x, "is_fully_addressable", True) else None


def _real(array: np.ndarray) -> np.ndarray:
    """The elements as floating-point numbers, complex ones by their absolute values."""
    if np.iscomplexobj(array):
        array = np.abs(array)
    return np.asarray(array, np.float64)


def _listed(array: np.ndarray) -> Any:
    """The elements as nested lists; all of them are finite."""
    if array.dtype.kind != "f" or not array.size:
        return _told(array.tolist())
    text = " ".join(["%.6g"] * array.size) % tuple(array.ravel().tolist())
    return np.array(text.split(), np.float64).reshape(array.shape).tolist()


def _told(x: Any) -> Any:
    """Nested lists in which numbers that JSON lacks are text."""
    if isinstance(x, list):
        return [_told(element) for element in x]
    if isinstance(x, (bool, int, str)):
        return x
    if isinstance(x, complex) or not math.isfinite(x):
        return str(x)
    return rounded(x)


def _image(numbers: np.ndarray, finite: np.ndarray) -> dict[str, Any]:
    """Some elements as bytes, the first axes as rows; what is not finite is black."""
    rows = numbers.reshape(-1, numbers.shape[-1] if numbers.ndim > 1 else numbers.size)
    picked = rows[np.ix_(*(_picked(length) for length in rows.shape))]
    least, largest = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    above = np.where(np.isfinite(picked), picked - least, 0)
    pixels = (above * (255 / (largest - least) if largest > least else 0)).astype(np.uint8)
    text = base64.b64encode(pixels.tobytes()).decode()
    return {"rows": pixels.shape[0], "columns": pixels.shape[1], "pixels": text}


@functools.lru_cache(1024)
def _picked(length: int) -> np.ndarray:
    """Evenly spaced positions, at most so many as a picture has."""
    return np.linspace(0, length - 1, min(length, SIDE)).astype(int)


def _histogram(finite: np.ndarray) -> dict[str, Any]:
    """How many elements there are in bins of one width from the least to the largest."""
    if not finite.size:
        return {"edges": [], "counts": []}
    least, largest = float(finite.min()), float(finite.max())
    if largest <= least:
        least, largest = least - 0.5, largest + 0.5
    bins = ((finite - least) * (BINS / (largest - least))).astype(np.int64)
    counts = np.bincount(np.clip(bins, 0, BINS - 1), minlength=BINS)
    edges = [rounded(least + i * (largest - least) / BINS) for i in range(BINS + 1)]
    return {"edges": edges, "counts": counts.tolist()}
