"""Shapes of cotangents against shapes of values: the one place where broadcasting is undone."""

from __future__ import annotations

from typing import Any

import jax

from funcgrad import _jax


def broadcasts_to(narrow: tuple[int, ...], wide: tuple[int, ...]) -> bool:
    return narrow == () or (
        len(narrow) == len(wide) and all(n in (1, w) for n, w in zip(narrow, wide, strict=True))
    )


def varying_like(ct: Any, aval: Any) -> Any:
    """A cotangent that varies over the mesh axes over which, in a shard_map, its value does."""
    mat = getattr(aval, "mat", None)
    if mat is None or not mat.varying:
        return ct
    missing = mat.varying - _jax.typeof(ct).mat.varying
    return _jax.pvary(ct, tuple(missing)) if missing else ct


def unbroadcast(ct: Any, aval: Any) -> Any:
    """Sum a cotangent over the axes along which its value was broadcast."""
    if _jax.is_high(aval) or ct.shape == aval.shape:
        return ct
    if aval.shape == ():
        return jax.lax.reduce_sum(ct, tuple(range(ct.ndim)))
    axes = tuple(i for i, (n, w) in enumerate(zip(aval.shape, ct.shape, strict=True)) if n != w)
    return jax.lax.expand_dims(jax.lax.reduce_sum(ct, axes), axes)
