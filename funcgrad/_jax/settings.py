"""Settings of JAX's kind: local to a thread, and part of what programs are cached by."""

from __future__ import annotations

import contextlib
from typing import Any

from jax._src.config import State, int_state

loop_checkpoints = int_state(
    "funcgrad_loop_checkpoints",
    32,
    "How many states funcgrad keeps of a while_loop for its backward pass.",
    include_in_jit_key=True,
    include_in_trace_context=True,
)


def _setting_of_objects(name: str, meaning: str) -> Any:
    """A setting whose values are any hashable objects, and so none that a command line could hold.

    ``jax.config.parse_flags_with_absl`` makes a flag of each setting that JAX lists: not of these.
    """
    return State(name, None, meaning, include_in_jit_key=True, include_in_trace_context=True)


caught_functions = _setting_of_objects(
    "funcgrad_caught_functions",
    "Functions whose calls funcgrad makes one op each while it records, with their rules.",
)
drop_in = _setting_of_objects(
    "funcgrad_as_jax_grad",
    "What jax.grad and its like are, within a block of funcgrad.as_jax_grad.",
)


def uncaught() -> Any:
    """A context in which no function is caught."""
    return contextlib.nullcontext() if caught_functions.value is None else caught_functions(None)


def set_drop_in_everywhere(value: Any) -> Any:
    """Set what jax.grad is for all threads that have no value of their own; return what it was."""
    before = drop_in.get_global()
    drop_in.set_global(value)
    return before
