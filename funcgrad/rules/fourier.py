"""Rule of the discrete Fourier transforms: complex, real to half-complex, and their inverses."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
from jax import lax

from funcgrad.registry import defvjp


@defvjp(lax.fft_p)
def fft_vjp(ct: Any, x: Any, *, fft_type: Any, fft_lengths: Any, **_: Any) -> Any:
    # complex: y = F x and F^T = F;  rfft: ct_x = N irfft(conj(ct) / w), w counts the frequencies
    # that each kept one stands for;  irfft: ct_x = w / N conj(rfft(ct))
    size = math.prod(fft_lengths)
    if fft_type.name == "RFFT":
        weights = _multiplicities(ct.shape[-1], fft_lengths[-1], x.dtype)
        return lax.fft(lax.conj(ct) * (size / weights), "IRFFT", fft_lengths)
    if fft_type.name == "IRFFT":
        weights = _multiplicities(x.shape[-1], fft_lengths[-1], ct.dtype)
        return lax.conj(lax.fft(ct, "RFFT", fft_lengths)) * (weights / size)
    return lax.fft(ct, fft_type, fft_lengths)


def _multiplicities(kept: int, length: int, dtype: Any) -> Any:
    """Two for a frequency k whose mirror image -k was dropped, one where k = -k."""
    k = lax.iota(jnp.int32, kept)
    return jnp.where((k == 0) | (2 * k == length), 1, 2).astype(dtype)
