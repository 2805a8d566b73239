"""JAX's functions for derivatives backward, and who is left with them while ours stand there."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import FrameType, FunctionType

import jax

REVERSE_MODE = ("grad", "value_and_grad", "vjp", "jacrev", "jacobian", "hessian")


def reverse_mode_functions() -> Mapping[FunctionType, str]:
    """JAX's functions for derivatives backward, as they are written, with their names."""
    functions: dict[FunctionType, str] = {}
    for name in REVERSE_MODE:  # an alias counts as what it means
        functions.setdefault(inspect.unwrap(getattr(jax, name)), name)
    return functions


BETWEEN = ("jax._src.traceback_util", "jax._src.repro")
"""Modules whose frames stand between a function of JAX's and who calls it."""

OWN = ("jax._src.ad_checkpoint", "funcgrad.calls.third_party", "funcgrad.testing")
"""Who asks for JAX's derivatives and means them: JAX's account of what its own remat keeps, our
fallback for primitives of third parties, and our checks."""


def means_jax(frame: FrameType) -> bool:
    """Whether a call of a function of JAX's, with this frame, is for JAX's own implementation."""
    caller = frame.f_back
    while caller is not None and _module(caller).startswith(BETWEEN):
        caller = caller.f_back
    if caller is None:
        return False
    module, name = _module(caller), caller.f_code.co_name
    if module == "jax._src.api":  # one of them by another: jax.grad by jax.value_and_grad
        return name in REVERSE_MODE
    return any(module == own or module.startswith(own + ".") for own in OWN)


def _module(frame: FrameType) -> str:
    return frame.f_globals.get("__name__") or ""
