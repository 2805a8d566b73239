"""Trying funcgrad on an existing code base without editing it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import jax

from funcgrad.default import DEFAULT
from funcgrad.jacobians import jacrev
from funcgrad.registry import Rules
from funcgrad.transforms import grad, value_and_grad, vjp

SWAPPED = {"grad": grad, "value_and_grad": value_and_grad, "vjp": vjp, "jacrev": jacrev}


@contextlib.contextmanager
def as_jax_grad(*, rules: Rules = DEFAULT, strict: bool = False) -> Iterator[None]:
    """Let ``jax.grad``, ``jax.value_and_grad``, ``jax.vjp`` and ``jax.jacrev`` be funcgrad's.

    Within the block, and for all threads, code that looks these names up in module ``jax`` gets
    funcgrad's; a name that was imported before (``from jax import grad``) keeps JAX's. They are
    restored when the block ends, whatever happens in it. Blocks may be nested; blocks in several
    threads must not overlap.

    Args:
      rules: the backward rules to chain.
      strict: refuse primitives of third-party packages that have no rule in `rules`.

    Example:
      >>> import jax, funcgrad
      >>> @jax.jit
      ... def power(x, n):  # somebody else's code, of which jax.grad refuses the loop
      ...     return jax.lax.fori_loop(0, n, lambda i, y: y * x, 1.0)
      >>> with funcgrad.as_jax_grad():
      ...     print(jax.grad(power)(3.0, 4))
      108.0
    """
    before: dict[str, Any] = {name: getattr(jax, name) for name in SWAPPED}
    try:
        for name, ours in SWAPPED.items():
            setattr(jax, name, functools.partial(ours, rules=rules, strict=strict))
        yield
    finally:
        for name, original in before.items():
            setattr(jax, name, original)
