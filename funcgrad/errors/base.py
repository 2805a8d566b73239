"""What every error here is, and how it learns where it happened."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any


class FuncgradError(Exception):
    """Base of every error that funcgrad raises itself.

    Example:
      >>> import funcgrad
      >>> try:
      ...     funcgrad.grad(lambda x: (x, x))(1.0)
      ... except funcgrad.FuncgradError as error:
      ...     print(type(error).__name__)
      OutputError
    """


class Unlocated(Exception):
    """An error on its way to where the user's source line is known; never leaves funcgrad."""

    def __init__(self, kind: type[Exception], *args: Any, cause: Exception | None = None):
        super().__init__(kind.__name__, *args)
        self.kind, self.arguments, self.cause = kind, args, cause

    def at(self, where: str | None) -> Exception:
        """The error proper, with its place in the user's source; this one while it is unknown.

        An error that a rule raised comes with the rule's own frames.
        """
        if where is None:
            return self
        cause = self.cause
        return self.kind(*self.arguments, where).with_traceback(cause and cause.__traceback__)


@contextlib.contextmanager
def located_at(where: Callable[[], str | None]) -> Iterator[None]:
    """Give errors that come out of the block a place, which is looked up only then."""
    try:
        yield
    except Unlocated as problem:
        raise problem.at(where()) from problem.cause


def at_worst_unknown() -> contextlib.AbstractContextManager[None]:
    """Give errors that come out of the block without a place one that says so."""
    return located_at(lambda: "<unknown line>")


def unfit_signature(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> inspect.Signature | None:
    """A user's function's own signature, if it cannot be called so; None too where it has none.

    A decorated function is called by its wrapper's signature, not by the one that it shows.
    """
    try:
        signature = inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return signature
    return None
