"""What JAX's own reverse mode keeps for its way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from funcgrad import _jax


def residuals_of_jax(fun: Callable[..., Any], *args: Any) -> Any:
    """The program of ``jax.vjp`` on `fun`, whose results are the arrays that its pullback keeps.

    Args:
      fun: a function of pytrees of arrays; it is traced, not run.
      *args: its arguments, or ``jax.ShapeDtypeStruct`` in their place.

    Returns:
      A closed jaxpr. A result that is one of its inputs is an argument that is kept.

    Raises:
      Exception: whatever JAX raises of a function that it cannot differentiate in reverse.
    """
    leaves, tree = jax.tree.flatten(args)
    varied = [i for i, x in enumerate(leaves) if _jax.is_inexact(_jax.typeof(x))]

    def kept(*leaves: Any) -> list[Any]:
        def on_varied(*xs: Any) -> Any:
            given = list(leaves)
            for i, x in zip(varied, xs, strict=True):
                given[i] = x
            return fun(*jax.tree.unflatten(tree, given))

        out, pullback = jax.vjp(on_varied, *(leaves[i] for i in varied))
        pullback(jax.tree.map(_jax.seed_like, out))  # JAX finds here that it cannot, as in a while
        return jax.tree.leaves(pullback)

    return jax.make_jaxpr(kept)(*leaves)
