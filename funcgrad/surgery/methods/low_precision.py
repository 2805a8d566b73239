"""Backward matrix products in bfloat16 or float8, rounded to the nearest or stochastically."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from funcgrad.default import DEFAULT
from funcgrad.places.selectors import Selector
from funcgrad.registry import Rules, defvjp


def rounded(x: Any, dtype: Any, key: Any = None) -> Any:
    """Round to the numbers that another dtype has, in `x`'s own dtype.

    Args:
      x: floating-point array.
      dtype: the dtype with fewer numbers, such as ``jnp.bfloat16`` or ``jnp.float8_e5m2``. What is
        larger than its largest number becomes that number.
      key: None to round to the nearest, ties to even. A key of ``jax.random`` to round up or down at
        random, so that the expected value is `x`.

    Returns:
      An array of `x`'s shape and dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> from funcgrad.surgery.methods import rounded
      >>> print(rounded(jnp.array([1.1, 3.3]), jnp.float8_e5m2))
      [1.  3.5]
    """
    info, wide = jnp.finfo(dtype), x.astype(jnp.promote_types(x.dtype, jnp.float32))
    _, exponent = jnp.frexp(wide)  # 2^(exponent - 1) <= |x| < 2^exponent
    last_bit = jnp.maximum(exponent - 1, info.minexp) - info.nmant
    steps = jnp.ldexp(wide, -last_bit)
    if key is None:
        whole = jnp.round(steps)
    else:
        whole = jnp.floor(steps + jax.random.uniform(key, steps.shape, steps.dtype))
    largest = float(info.max)
    in_range = jnp.clip(jnp.ldexp(whole, last_bit), -largest, largest)
    return jnp.where(jnp.isfinite(wide), in_range, wide).astype(x.dtype)


def low_precision_products(
    cotangent: Any,
    operand: Any = None,
    *,
    seed: int | None = None,
    scaled: bool = True,
    rules: Rules = DEFAULT,
    at: Selector | None = None,
) -> Rules:
    """Return rules whose backward matrix products read rounded cotangents and operands.

    ``ct_x = round(ct) round(w)^T``, and ``ct_w`` alike; the forward pass is not changed. Products
    and sums have the accuracy that they had. Micikevicius et al. (2022), "FP8 Formats for Deep
    Learning", have ``float8_e5m2`` for cotangents and ``float8_e4m3fn`` for operands.

    Args:
      cotangent: the dtype to which cotangents are rounded.
      operand: the dtype to which operands are rounded; None to leave them.
      seed: None to round to the nearest. A number to round cotangents stochastically: Gupta, Agrawal,
        Gopalakrishnan and Narayanan (2015), "Deep Learning with Limited Numerical Precision". The
        random numbers follow from the seed and the cotangent's own bits.
      scaled: multiply each array by a power of two before it is rounded, so that its largest
        element fits the dtype, and divide after that.
      rules: the rules to begin with.
      at: which matrix products and convolutions; None for all.

    Returns:
      New rules.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> from funcgrad.surgery.methods import low_precision_products
      >>> rules = low_precision_products(jnp.float8_e5m2)
      >>> w = jnp.array([1.0, 2.0])
      >>> print(funcgrad.grad(lambda x: 1.1 * (x @ w), rules=rules)(jnp.ones(2)))
      [1. 2.]
    """

    @defvjp(lax.dot_general_p, lax.conv_general_dilated_p, optional=True)
    def low_precision_vjp(ct: Any, x: Any, w: Any, *, original: Any, **params: Any) -> Any:
        key = None if seed is None else jax.random.fold_in(jax.random.key(seed), _checksum(ct))
        low_ct = _scaled(ct, cotangent, scaled, key)
        if operand is not None:
            x, w = (_scaled(y, operand, scaled) for y in (x, w))
        return original(low_ct, x, w, **params)

    return rules.override(dict.fromkeys(low_precision_vjp.ops, low_precision_vjp), at=at)


def _scaled(x: Any, dtype: Any, scaled: bool, key: Any = None) -> Any:
    """`x` rounded, by default after its largest element was brought near the dtype's largest number."""
    if not scaled:
        return rounded(x, dtype, key)
    largest = jnp.max(jnp.abs(x), initial=0)
    _, top = jnp.frexp(largest.astype(jnp.float32))
    _, room = jnp.frexp(jnp.float32(jnp.finfo(dtype).max))
    shift = jnp.where((largest > 0) & jnp.isfinite(largest), room - 1 - top, 0)
    shift = jnp.clip(shift, -100, 100)
    return jnp.ldexp(rounded(jnp.ldexp(x, shift), dtype, key), -shift)


def _checksum(x: Any) -> Any:
    """A number that depends on all bits of an array, and on their order."""
    bits = lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32).ravel()
    odd = 2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1
    return jnp.sum(bits * odd * jnp.uint32(2654435761), dtype=jnp.uint32)
