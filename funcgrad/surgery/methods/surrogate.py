"""A value with another value's derivative."""

from __future__ import annotations

from typing import Any

import jax


@jax.custom_vjp
def surrogate(y: Any, derivative_of: Any) -> Any:
    """`y`; its cotangent goes to `derivative_of`, an array of the same type, and to nothing else."""
    return y


def _forward(y: Any, derivative_of: Any) -> tuple[Any, None]:
    return y, None


def _backward(_: None, ct: Any) -> tuple[None, Any]:
    return None, ct


surrogate.defvjp(_forward, _backward)
