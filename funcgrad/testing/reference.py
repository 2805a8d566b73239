"""JAX's own reverse mode, for tools that put ours beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax


def vjp_of_jax(fun: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """What ``jax.vjp`` returns.

    Args:
      fun: a function of pytrees of arrays.
      *primals: its arguments.
      has_aux: `fun` returns a pair of its output and auxiliary data.
    """
    return jax.vjp(fun, *primals, has_aux=has_aux)
