"""Room for a differentiation on Python's stack of frames."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

SLOTS = 33_000
"""A frame of 264 kB: CPython makes a chunk of 512 KiB for it, and its calls have the rest."""


def with_room(fun: Callable[P, R]) -> Callable[P, R]:
    """`fun`, with its calls in one chunk of Python's stack.

    CPython keeps frames in chunks of 16 KiB. It maps a chunk when a call does not fit in the last
    one, and unmaps the chunk when that call returns. A loop whose calls cross the end of a chunk
    maps and unmaps one each time, and tracing takes up to 1.4 times as long. Whether that happens
    depends on the depth of the caller. A frame of a large size gets a large chunk.
    """

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return fun(*args, **kwargs)

    call.__code__ = call.__code__.replace(co_stacksize=SLOTS)
    return functools.wraps(fun)(call)
