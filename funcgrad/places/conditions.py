"""The conditions that a selector can be made of, and :func:`at`, which makes selectors."""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from funcgrad import errors
from funcgrad.catching import CALL
from funcgrad.functions import unmarked
from funcgrad.keys import FunctionId, op_key, underlying
from funcgrad.places.program import Place
from funcgrad.places.selectors import Key, OfPlaces, Regions, Selector


def at(
    scope: str | None = None,
    *,
    op: Any = None,
    function: Callable[..., Any] | None = None,
    name: str | None = None,
    line: str | None = None,
    where: Callable[[Place], bool] | None = None,
) -> Selector:
    """Select places in a function, for taps, edits and overrides; several conditions all hold.

    Args:
      scope: name scopes (``jax.named_scope``, the modules of flax, haiku and equinox), such as
        ``"encoder/layers_*/attn"``: consecutive scopes, anywhere from the outside in, each with the
        wildcards of a file name. ``"**"`` stands for any number of scopes, and a leading ``"/"`` for the
        outermost. A scope whose own name has a ``"/"`` is as many scopes.
      op: a primitive, a function of ``jax.lax`` that stands for one, or a primitive's name.
      function: a function, whose calls are meant: plain, jitted, or with a custom derivative.
      name: a name given by ``jax.ad_checkpoint.checkpoint_name``, with wildcards.
      line: ``"model.py:42"``, a line of the user's that the operation comes from; the file's name may
        begin with folders.
      where: a function from a place (attributes ``op, params, scope, name, operands, outputs, where,
        lines``) to a bool.

    Returns:
      A :class:`Selector`.

    Raises:
      errors.SelectorError: nothing is asked for, or a condition cannot be understood.

    Example:
      >>> import jax, jax.numpy as jnp, funcgrad
      >>> def model(w, x):
      ...     with jax.named_scope("layer"):
      ...         h = jnp.tanh(w * x)
      ...     return jnp.sum(h**2)
      >>> gradient, tapped = funcgrad.grad(model, taps={"h": funcgrad.at("layer")})(1.0, 0.5)
      >>> print(tapped["h"].value, tapped["h"].cotangent)
      0.46211717 0.92423433
    """
    conditions: list[Selector] = []
    if scope is not None:
        conditions.append(Scoped(_pattern(scope)))
    if op is not None:
        conditions.append(OfOp(_name_of_op(op)))
    if function is not None:
        conditions.append(_called(function))
    if name is not None:
        conditions.append(Named(name))
    if line is not None:
        conditions.append(OnLine(*_file_and_line(line)))
    if where is not None:
        conditions.append(Where(where))
    if not conditions:
        raise errors.SelectorError(
            "funcgrad.at was given no condition. Say which places are meant: a scope "
            '(at("encoder/attn")), op=, function=, name=, line= or where=.'
        )
    selected = conditions[0]
    for condition in conditions[1:]:
        selected = selected & condition
    return selected


@dataclass(frozen=True)
class OfOp(OfPlaces):
    """Operations of one primitive."""

    op: str

    def holds(self, place: Place) -> bool:
        return place.op.name == self.op

    def __str__(self) -> str:
        return f"op={self.op}"


@dataclass(frozen=True)
class Named(OfPlaces):
    """Values with a name of ``checkpoint_name``."""

    pattern: str

    def holds(self, place: Place) -> bool:
        return place.name is not None and fnmatch.fnmatchcase(place.name, self.pattern)

    def __str__(self) -> str:
        return f"name={self.pattern!r}"


@dataclass(frozen=True)
class OnLine(OfPlaces):
    """Operations that come from one line of the user's."""

    file: str
    line: int

    def holds(self, place: Place) -> bool:
        return any(line == self.line and self.is_of(file) for file, line, _ in place.lines)

    def is_of(self, file: str) -> bool:
        """Whether a file is the one that is meant."""
        return file == self.file or file.endswith("/" + self.file.lstrip("/"))

    def __str__(self) -> str:
        return f"line={f'{self.file}:{self.line}'!r}"


@dataclass(frozen=True)
class Where(OfPlaces):
    """Operations for which a function of the user's says so."""

    condition: Callable[[Place], bool]

    def holds(self, place: Place) -> bool:
        return bool(self.condition(place))

    def __str__(self) -> str:
        return f"where={getattr(self.condition, '__name__', self.condition)}"


@dataclass(frozen=True)
class Scoped(Regions):
    """Each time that name scopes are entered that a pattern describes."""

    pattern: tuple[str, ...]

    def key(self, place: Place) -> tuple[Key, str] | None:
        named = [
            (i, name)
            for i, scope in enumerate(place.scopes)
            if not scope.name.startswith(CALL)
            for name in scope.name.split("/")
        ]
        names = [name for _, name in named]
        end = shortest_match(self.pattern, names)
        if end is None or not end:
            return None
        last = named[end - 1][0]
        key = tuple(id(scope) for scope in place.scopes[: last + 1])
        return key, "/".join(names[:end])

    def __str__(self) -> str:
        return repr("/".join(self.pattern).removeprefix("**/"))


@dataclass(frozen=True)
class Called(Regions):
    """Each call of a function."""

    description: str
    function: Callable[..., Any]

    def key(self, place: Place) -> tuple[Key, str] | None:
        name = self.description.split(" at ")[0]
        label = f"{place.scope}: {name}" if place.scope else name
        for i, scope in enumerate(place.scopes):
            if scope.name == CALL + self.description:
                return tuple(id(s) for s in place.scopes[: i + 1]), label
        called = place.function
        if called is not None and unmarked(called)[0] == self.description:
            return (place.position,), label
        return None

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        return (self.function,)

    def __str__(self) -> str:
        return f"function={self.description.split(' at ')[0]}"


def shortest_match(pattern: Sequence[str], names: Sequence[str]) -> int | None:
    """How many of the first names a pattern describes, as few as possible; None for no number."""
    ends = (end for end in range(len(names) + 1) if describes(pattern, names[:end]))
    return next(ends, None)


def describes(pattern: Sequence[str], names: Sequence[str]) -> bool:
    """Whether a pattern describes all of these names; ``**`` stands for any number of them."""
    if not pattern:
        return not names
    first, *rest = pattern
    if first == "**":
        return any(describes(rest, names[i:]) for i in range(len(names) + 1))
    return bool(names) and fnmatch.fnmatchcase(names[0], first) and describes(rest, names[1:])


# --- what the user wrote


def _pattern(scope: str) -> tuple[str, ...]:
    if not isinstance(scope, str) or not scope.strip("/"):
        raise errors.SelectorError(
            f"funcgrad.at was given the scope {scope!r}. A scope is a string of names, such as "
            '"encoder/layers_*/attn".'
        )
    names = tuple(scope.strip("/").split("/"))
    return names if scope.startswith("/") else ("**", *names)


def _name_of_op(op: Any) -> str:
    if isinstance(op, str):
        return op
    key = op_key(op)
    if isinstance(key, FunctionId):
        raise errors.SelectorError(
            f"funcgrad.at was given op={op!r}, a function. Write function= for a function's calls; op= "
            "takes a primitive, such as jax.lax.dot_general_p."
        )
    return key.name


def _called(function: Callable[..., Any]) -> Called:
    key = op_key(function)
    if not isinstance(key, FunctionId):
        raise errors.SelectorError(
            f"funcgrad.at was given function={function!r}, which stands for the primitive `{key}`. "
            f"Write op={key}_p."
        )
    python, _, _ = underlying(function)
    return Called(key.description, inspect.unwrap(python))


def _file_and_line(line: str) -> tuple[str, int]:
    file, _, number = str(line).rpartition(":")
    if not file or not number.isdigit():
        raise errors.SelectorError(
            f'funcgrad.at was given line={line!r}. Write a file and a number: line="model.py:42".'
        )
    return file, int(number)
