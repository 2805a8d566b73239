"""Functions of JAX's with a custom derivative, for which a rule of ours costs less outside jit."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from funcgrad.registry import defvjp


@defvjp(jax.nn.relu)
def relu_vjp(ct: Any, x: Any, *, out: Any, **_: Any) -> Any:
    # y = max(x, 0); dy/dx = [y > 0], which is 0 at 0
    return jnp.where(out > 0, ct, jnp.zeros_like(ct))
