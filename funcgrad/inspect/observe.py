"""What a differentiation did: its tape, and those inside its calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from funcgrad.registry import Rules
from funcgrad.tape import FrozenTape
from funcgrad.transforms import vjp


def tape_of(fun: Callable[..., Any], *args: Any, rules: Rules, strict: bool = False) -> FrozenTape:
    """The tape of `fun`, differentiated by all floating-point leaves of its arguments.

    Args:
      fun: a function of pytrees of arrays; it is traced, not run.
      *args: its arguments, or ``jax.ShapeDtypeStruct`` in their place.
      rules: the backward rules.
      strict: do not count on JAX for primitives of third-party packages.

    Returns:
      The tape, whose nodes are in the order in which the ops ran.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> tape = funcgrad.extend.tape_of(lambda x: jnp.sin(3 * x), 0.0, rules=funcgrad.DEFAULT)
      >>> print(*(node.op for node in funcgrad.extend.walk_nodes(tape)))
      mul sin
    """
    found: list[FrozenTape] = []

    def run(*args: Any) -> None:
        _, pullback = vjp(fun, *args, rules=rules, strict=strict)
        found.append(pullback._static.tape)

    jax.eval_shape(run, *args)
    return found[0]
