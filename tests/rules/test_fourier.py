"""fft: complex, real, inverse, over one axis and several, of even and odd lengths."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from tests.rules.cases import Case, complex_normal, normal

FFT = lax.fft_p


def transform(kind: str, *lengths: int) -> Any:
    return lambda x: lax.fft(x, kind, lengths)


CASES = [
    Case(FFT, transform("FFT", 4), (complex_normal(2, 4),), "fft"),
    Case(FFT, transform("FFT", 2, 3), (complex_normal(2, 2, 3),), "fft-2d"),
    Case(FFT, transform("IFFT", 3), (complex_normal(3),), "ifft"),
    Case(FFT, transform("IFFT", 2, 3), (complex_normal(2, 3),), "ifft-2d"),
    Case(FFT, transform("RFFT", 4), (normal(2, 4),), "rfft-even"),
    Case(FFT, transform("RFFT", 5), (normal(5),), "rfft-odd"),
    Case(FFT, transform("RFFT", 1), (normal(2, 1),), "rfft-one"),
    Case(FFT, transform("RFFT", 3, 2, 4), (normal(3, 2, 4),), "rfft-3d"),
    Case(FFT, transform("IRFFT", 4), (complex_normal(2, 3),), "irfft-even"),
    Case(FFT, transform("IRFFT", 5), (complex_normal(3),), "irfft-odd"),
    Case(FFT, transform("IRFFT", 3, 4), (complex_normal(2, 3, 3),), "irfft-2d"),
    Case(FFT, transform("RFFT", 4), (normal(0, 4),), "empty"),
    Case(FFT, transform("FFT", 1), (complex_normal(2, 1),), "fft-one", order=1),
    Case(FFT, transform("IRFFT", 1), (complex_normal(2, 1),), "irfft-one", order=1),
    Case(FFT, transform("IRFFT", 2), (complex_normal(2),), "irfft-two", order=1),
    Case(FFT, transform("IFFT", 2, 2, 3), (complex_normal(2, 2, 3),), "ifft-3d", order=1),
    Case(FFT, transform("IRFFT", 2, 2, 3), (complex_normal(1, 2, 2, 2),), "irfft-3d", order=1),
    Case(FFT, transform("RFFT", 2, 3), (normal(2, 2, 3),), "rfft-2d-batch", order=1),
    Case(FFT, transform("IRFFT", 4), (complex_normal(0, 3),), "irfft-empty", order=1),
    Case(FFT, jnp.fft.ihfft, (normal(5),), "ihfft", order=1),
    Case(FFT, lambda x: jnp.fft.rfft(x, 6), (normal(4),), "padded", order=1),
    Case(FFT, lambda x: jnp.fft.irfft(x, 4, norm="ortho"), (complex_normal(4),), "cut", order=1),
    Case(FFT, jnp.fft.hfft, (complex_normal(4),), "hfft"),
    Case(
        FFT,
        lambda x: jnp.fft.irfft2(jnp.fft.rfft2(x) ** 2, s=(3, 5)),
        (normal(3, 5),),
        "self-convolution",
        rtol=1e-10,
    ),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_precision_is_kept(dtype: Any) -> None:
    with jax.enable_x64(True):
        x = jnp.asarray(normal(6), dtype)
        energy = lambda x: jnp.sum(jnp.fft.irfft(jnp.fft.rfft(x) ** 2) ** 2)
        ours, expected = funcgrad.grad(energy)(x), jax.grad(energy)(x)
        assert ours.dtype == dtype
        np.testing.assert_allclose(ours, expected, rtol=1e-4)
