"""Calls: primitives that carry a function, a file for each, named after the user's word for it."""

from funcgrad.calls import (
    checkpoint,
    cond,
    custom,
    custom_vmap,
    expanded,
    hijax,
    jit,
    linear_call,
    linear_solve,
    logs,
    references,
    replayed,
    scan,
    shard_map,
    while_loop,
    wrapped,
)

CALLS = (
    jit,
    custom,
    scan,
    while_loop,
    cond,
    checkpoint,
    shard_map,
    linear_solve,
    linear_call,
    custom_vmap,
    wrapped,
    replayed,
    references,
    expanded,
    hijax,
    logs,
)
"""The modules whose entries say how calls are differentiated."""
