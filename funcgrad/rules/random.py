"""Random numbers: no derivative by a key or by bits; gamma samples follow their shape parameter."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from funcgrad import _jax
from funcgrad.registry import defvjp, zero

KEYS_AND_BITS = zero(
    _jax.random_seed_p,
    _jax.random_wrap_p,
    _jax.random_unwrap_p,
    _jax.random_split_p,
    _jax.random_fold_in_p,
    _jax.random_clone_p,
    _jax.random_bits_p,
    _jax.threefry2x32_p,
    _jax.threefry4x32_p,
    _jax.philox2x32_p,
    _jax.philox4x32_p,
    _jax.iota_2x32_shape_p,
    lax.rng_bit_generator_p,
    lax.rng_uniform_p,
)

random_gamma_grad: Any = lax.random_gamma_grad


@defvjp(_jax.random_gamma_p)
def random_gamma_vjp(ct: Any, key: Any, a: Any, *, out: Any, log_space: bool, **_: Any) -> Any:
    # F(y; a) = u held fixed: dy/da = -F_a / F_y (Figurnov, Mohamed, Mnih 2018); d log y = dy / y
    if not log_space:
        return None, ct * random_gamma_grad(a, out)
    sample = jnp.exp(out)
    sample = jnp.where(sample == 0, jnp.finfo(out.dtype).tiny, sample)
    return None, ct * random_gamma_grad(a, sample) / sample
