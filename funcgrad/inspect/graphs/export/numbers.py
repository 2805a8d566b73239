"""An array in a few numbers, a small picture and a histogram."""

from __future__ import annotations

import base64
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
    largest (255), and a histogram of 16 bins.
    """
    array = as_numpy(x)
    if array is None:
        return None
    numbers = _real(array)
    finite = numbers[np.isfinite(numbers)]
    least, largest = (float(finite.min()), float(finite.max())) if finite.size else (None, None)
    found = {
        "shape": list(array.shape),
        "min": least,
        "max": largest,
        "mean": float(finite.mean()) if finite.size else None,
        "norm": float(np.linalg.norm(finite)) if finite.size else None,
        "nonfinite": int(numbers.size - finite.size),
    }
    if array.size <= SMALL:
        return found | {"numbers": _listed(array.tolist())}
    if least is None or largest is None:
        return found
    counts, edges = np.histogram(finite, bins=BINS)
    histogram = {"edges": edges.tolist(), "counts": counts.tolist()}
    return found | {"image": _image(numbers, least, largest), "histogram": histogram}


def as_numpy(x: Any) -> np.ndarray | None:
    """The array's numbers; None where there is none to show: a key, a reference, an array of others."""
    if x is None or not (isinstance(x, (jax.Array, np.ndarray)) or np.isscalar(x)):
        return None
    dtype = getattr(x, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.extended):
        x = jax.random.key_data(x) if jnp.issubdtype(dtype, jax.dtypes.prng_key) else None
    if x is None or not getattr(x, "is_fully_addressable", True):
        return None
    return np.asarray(x)


def _real(array: np.ndarray) -> np.ndarray:
    """The elements as floating-point numbers, complex ones by their absolute values."""
    if np.iscomplexobj(array):
        array = np.abs(array)
    return np.asarray(array, np.float64)


def _listed(x: Any) -> Any:
    """Nested lists in which what JSON has no number for is text."""
    if isinstance(x, list):
        return [_listed(element) for element in x]
    if isinstance(x, complex):
        return str(x)
    if isinstance(x, float) and not math.isfinite(x):
        return str(x)
    return x if isinstance(x, (bool, int, float, str)) else float(x)


def _image(numbers: np.ndarray, least: float, largest: float) -> dict[str, Any]:
    rows = numbers.reshape(-1, numbers.shape[-1]) if numbers.ndim > 1 else _folded(numbers)
    picked = rows[np.ix_(*(_picked(length) for length in rows.shape))]
    scaled = (np.nan_to_num(picked, posinf=largest, neginf=least, nan=least) - least) * (
        255 / (largest - least) if largest > least else 0
    )
    pixels = np.clip(scaled, 0, 255).astype(np.uint8)
    text = base64.b64encode(pixels.tobytes()).decode()
    return {"rows": pixels.shape[0], "columns": pixels.shape[1], "pixels": text}


def _folded(vector: np.ndarray) -> np.ndarray:
    """A vector as one row."""
    return vector.reshape(1, -1)


def _picked(length: int) -> np.ndarray:
    """Evenly spaced positions, at most so many as a picture has."""
    return np.unique(np.linspace(0, length - 1, min(length, SIDE)).astype(int))
