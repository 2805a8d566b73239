"""Shapes of cotangents against shapes of values: the one place where broadcasting is undone."""

from __future__ import annotations

from typing import Any

import jax

from funcgrad import _jax


def broadcasts_to(narrow: tuple[int, ...], wide: tuple[int, ...]) -> bool:
    return narrow == () or (
        len(narrow) == len(wide) and all(n in (1, w) for n, w in zip(narrow, wide, strict=True))
    )


def unbroadcast(ct: Any, aval: Any) -> Any:
    """Sum a cotangent over the axes along which its value, of this type, was broadcast."""
    if _jax.is_high(aval) or ct.shape == aval.shape:
        return ct
    if _jax.has_own_dtype(_jax.typeof(ct)):
        raise TypeError(
            f"A cotangent of the extended dtype {ct.dtype} would have to be summed over the axes along "
            f"which its value was broadcast from {aval.str_short()} to shape {ct.shape}; such a dtype "
            "says how two cotangents add up. Apply what returns such cotangents before the broadcast."
        )
    if aval.shape == ():
        total = jax.lax.reduce_sum(ct, tuple(range(ct.ndim)))
    else:
        pairs = zip(aval.shape, ct.shape, strict=True)
        axes = tuple(i for i, (n, w) in enumerate(pairs) if n != w)
        total = jax.lax.expand_dims(jax.lax.reduce_sum(ct, axes), axes)
    return _jax.with_cotangent_type(total, aval)
