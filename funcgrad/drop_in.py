"""Trying funcgrad on an existing code base without editing it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax

from funcgrad import _jax
from funcgrad.default import DEFAULT
from funcgrad.jacobians import jacrev
from funcgrad.registry import Rules
from funcgrad.surface import public
from funcgrad.transforms import grad, value_and_grad, vjp

SWAPPED = {"grad": grad, "value_and_grad": value_and_grad, "vjp": vjp, "jacrev": jacrev}


@dataclass(frozen=True)
class Settings:
    """What a block differentiates by: part of the key of what JAX caches meanwhile."""

    rules: Rules
    strict: bool

    def __repr__(self) -> str:
        return f"<funcgrad with {len(self.rules)} rules{', strict' * self.strict}>"


@public
@contextlib.contextmanager
def as_jax_grad(*, rules: Rules = DEFAULT, strict: bool = False) -> Iterator[None]:
    """Let ``jax.grad``, ``jax.value_and_grad``, ``jax.vjp`` and ``jax.jacrev`` be funcgrad's.

    Within the block, code of this thread that looks these names up in module ``jax`` gets
    funcgrad's; a name that was imported before (``from jax import grad``) keeps JAX's, and so do
    other threads. The names are restored when the block ends, whatever happens in it. A jitted
    function is compiled for the block and for the outside separately, as under a setting of JAX's
    own, so that no cache mistakes one for the other. Blocks may be nested; blocks in several
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
            setattr(jax, name, _chosen_by_setting(ours, before[name]))
        with _jax.drop_in(Settings(rules, strict)):
            yield
    finally:
        for name, original in before.items():
            setattr(jax, name, original)


def _chosen_by_setting(ours: Callable[..., Any], original: Callable[..., Any]) -> Any:
    """`ours` in a thread that is in a block, `original` in any other."""

    @_jax.boundary
    @functools.wraps(ours)
    def chosen(*args: Any, **kwargs: Any) -> Any:
        settings = _jax.drop_in.value
        if not isinstance(settings, Settings):
            return original(*args, **kwargs)
        return ours(*args, **kwargs, rules=settings.rules, strict=settings.strict)

    return chosen
