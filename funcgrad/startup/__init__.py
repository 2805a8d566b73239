"""funcgrad in the place of jax.grad in the processes that a process starts.

:func:`environment` is given to them. Their Python then finds ``sitecustomize.py`` of this folder, which
calls :func:`begin` once jax is imported there. They count their gradients in a file, one byte each,
which lasts however they end.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from funcgrad.drop_in import Gradients, in_all_threads

STRICT = "FUNCGRAD_STRICT"
COUNTS = "FUNCGRAD_COUNTS"
TAKEN, MISSING = b".", b"x"
"""What is written for a gradient, and for a process in which funcgrad cannot be imported."""

_begun = contextlib.ExitStack()


class InFile(Gradients):
    """Gradients that are counted in a file, which processes share."""

    def __init__(self, path: str):
        super().__init__()
        self.path = path

    def add(self, name: str) -> None:
        super().add(name)
        write(self.path, TAKEN)


def write(path: str, byte: bytes) -> None:
    """Add to a file that other processes write to as well."""
    with contextlib.suppress(OSError), open(path, "ab", buffering=0) as file:  # it may be gone
        file.write(byte)


def environment(strict: bool, counts: Path) -> Mapping[str, str]:
    """What the environment of a process holds so that it, too, takes funcgrad's gradients."""
    here = os.path.dirname(__file__)
    others = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p not in ("", here)]
    return {
        STRICT: str(int(strict)),
        COUNTS: str(counts),
        "PYTHONPATH": os.pathsep.join([here, *others]),
    }


def begin() -> None:
    """Take funcgrad's gradients in this process, as its environment says."""
    gradients = InFile(os.environ[COUNTS])
    _begun.enter_context(in_all_threads(os.environ[STRICT] == "1", gradients))


def end() -> None:
    """No longer: something else in this process counts them."""
    _begun.close()


@contextlib.contextmanager
def in_started_processes(strict: bool, counts: Path) -> Iterator[None]:
    """Let the processes that this one starts take funcgrad's gradients, for a block."""
    names = environment(strict, counts)
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
