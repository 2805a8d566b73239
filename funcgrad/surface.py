"""How functions look from outside: their signatures, their documentation, and errors out of them."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from funcgrad import _jax
from funcgrad.arguments import Argnums
from funcgrad.default import DEFAULT
from funcgrad.registry import Rules

F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")
R = TypeVar("R")

WRAPPED = ("__module__", "__name__", "__qualname__")


class _Named(Rules):
    """The default rules, shown in signatures by their name instead of one by one."""

    def __repr__(self) -> str:
        return "DEFAULT"


def public(fun: F) -> F:
    """A function of the package: errors leave it without internal frames, and ``help`` is short."""
    signature = inspect.signature(fun)
    shown = [
        p.replace(default=_named_default()) if p.default is DEFAULT else p
        for p in signature.parameters.values()
    ]
    bounded: Any = _jax.boundary(fun)
    bounded.__signature__ = signature.replace(parameters=shown)
    return bounded


@functools.cache
def _named_default() -> Rules:
    named = copy.copy(DEFAULT)
    named.__class__ = _Named
    return named


def derivative_of(
    fun: Callable[P, Any], what: str, argnums: Argnums, returns: str
) -> Callable[[Callable[..., R]], Callable[P, R]]:
    """Make a function look like the `fun` of which it computes a derivative.

    Args:
      fun: the user's function.
      what: what is computed, such as ``Gradient``.
      argnums: by which arguments.
      returns: what the function returns, in words.

    Returns:
      A decorator. The decorated function has `fun`'s name and signature; its documentation says
      whose derivative it is, and goes on with `fun`'s; errors leave it without internal frames.
    """
    unbound: Any = fun.func if isinstance(fun, functools.partial) else fun
    name = getattr(unbound, "__name__", type(unbound).__name__)
    original = getattr(unbound, "__doc__", None)
    doc = _documentation(
        what, name, argnums, returns, original if isinstance(original, str) else ""
    )

    def decorate(derivative: Callable[..., R]) -> Callable[P, R]:
        wrapped: Any = _jax.boundary(derivative)
        like: Any = fun
        functools.update_wrapper(wrapped, like, assigned=WRAPPED)
        wrapped.__doc__ = doc
        return wrapped

    return decorate


@functools.lru_cache(maxsize=256)
def _documentation(what: str, name: str, argnums: Argnums, returns: str, original: str) -> str:
    doc = (
        f"{what} of `{name}` with respect to {_in_words(argnums)}.\n\n"
        f"Takes the same arguments as `{name}`, and returns {returns}."
    )
    if original:
        doc += f"\n\nThe documentation of `{name}`:\n\n{inspect.cleandoc(original)}"
    return doc


def _in_words(argnums: Argnums) -> str:
    if isinstance(argnums, int):
        return f"positional argument {argnums}"
    return f"positional arguments {', '.join(map(str, argnums)) or '(none)'}"
