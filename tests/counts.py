"""How much work a function does, in counts that a busy machine does not change."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import funcgrad

PACKAGE = str(Path(funcgrad.__file__).parent)


def lines_run(function: Callable[[], Any]) -> int:
    """How many lines of the package `function` runs: each turn of a loop counts, also in one line."""
    count = 0

    def on_line(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        count += event == "line"
        return on_line

    def on_call(frame: FrameType, event: str, arg: Any) -> Any:
        return on_line if frame.f_code.co_filename.startswith(PACKAGE) else None

    before = sys.gettrace()
    sys.settrace(on_call)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


def calls_made(function: Callable[[], Any]) -> int:
    """How many functions `function` calls, in Python or in C, the package's or JAX's."""
    count = 0

    def on_event(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(on_event)
    try:
        function()
    finally:
        sys.setprofile(before)
    return count
