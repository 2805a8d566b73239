"""What a user says of operations besides what they compute: metadata for XLA, and where to compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from jax._src.config import compute_on_context_manager, xla_metadata_context_manager
from jax._src.xla_metadata_lib import update_metadata

_NOTHING = (None, None)


def current_annotations() -> tuple[Any, Any]:
    """What ``compute_on`` and ``set_xla_metadata`` say where an operation would now be traced."""
    found = compute_on_context_manager.value, xla_metadata_context_manager.value
    return _NOTHING if found == _NOTHING else found


def annotated_as(annotations: tuple[Any, Any]) -> AbstractContextManager[None]:
    """A context in which operations are annotated as another operation, as JAX's backward pass does.

    Metadata for XLA come on top of those that are there now.
    """
    kind, metadata = annotations
    now = xla_metadata_context_manager.value
    if metadata is not None and metadata != now:
        metadata = update_metadata(now, metadata.val)
    return annotated_only_as((kind, now if metadata is None else metadata))


def annotated_only_as(annotations: tuple[Any, Any]) -> AbstractContextManager[None]:
    """The same, but whatever is said now is not said in it."""
    return nullcontext() if annotations == current_annotations() else _annotated(*annotations)


@contextmanager
def _annotated(kind: Any, metadata: Any) -> Iterator[None]:
    settings = (compute_on_context_manager, kind), (xla_metadata_context_manager, metadata)
    before = [(setting, setting.swap_local(value)) for setting, value in settings]
    try:
        yield
    finally:
        for setting, value in before:
            setting.set_local(value)
