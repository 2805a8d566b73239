"""Settings of JAX's that are meant for a user's program, and not for the rules of this package."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jax._src.config import disable_jit, enable_x64, numpy_dtype_promotion, numpy_rank_promotion


def for_rules(avals: Iterable[Any], own: bool) -> contextlib.AbstractContextManager[Any]:
    """The settings in which a rule is traced for values of these types.

    Values of 64 bits stay such, where the user's program switched to 64 bits only for a part of it.
    Implicit promotion is allowed in the rules of this package (`own`): a user who forbids it means the
    program. They are traced without the jits inside ``jax.numpy``, each of which is a trace of its own.
    Nothing is entered that is set so already, as each change of a setting costs JAX's caches.
    """
    changes = []
    if own and not disable_jit.value:
        changes.append(disable_jit(True))
    if own and numpy_dtype_promotion.value != "standard":
        changes.append(numpy_dtype_promotion("standard"))
    if own and numpy_rank_promotion.value != "allow":
        changes.append(numpy_rank_promotion("allow"))
    if not enable_x64.value and any(map(_has_64_bits, avals)):
        changes.append(jax.enable_x64(True))
    if not changes:
        return contextlib.nullcontext()
    if len(changes) == 1:
        return changes[0]
    stack = contextlib.ExitStack()
    for change in changes:
        stack.enter_context(change)
    return stack


LONG = frozenset(map(np.dtype, ("float64", "complex128")))


def _has_64_bits(aval: Any) -> bool:
    return getattr(aval, "dtype", None) in LONG
