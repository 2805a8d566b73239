"""Where an equation stands: its name scopes, its lines, and how it is run again in its place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jax._src import source_info_util as _source_info
from jax._src.ad_checkpoint import name_p
from jax._src.core import DropVar
from jax.extend import source_info_util

from funcgrad._jax.types import Equation, Var

checkpoint_name_p = name_p


def scopes_of_equation(eqn: Equation) -> tuple[Any, ...]:
    """The name scopes around an equation, each an object of its own for each time it was entered."""
    return scopes_of_source(eqn.source_info)


def scopes_of_source(source: Any) -> tuple[Any, ...]:
    """The same from the source information of an operation; transforms are left out."""
    stack = source.name_stack.stack
    return tuple(element for element in stack if isinstance(element, _source_info.Scope))


@dataclass(frozen=True)
class Frame:
    """A frame of the user's: its file, its function, the span of the expression that it evaluates."""

    file: str
    function: str
    span: tuple[int, int, int, int]


def user_frames(source: Any) -> list[Frame]:
    """The user's frames around an equation, from the inside out."""
    return [
        Frame(
            f.file_name, f.function_name, (f.start_line, f.start_column, f.end_line, f.end_column)
        )
        for f in _source_info.user_frames(source.traceback)
    ]


def names_of_inputs(jaxpr: Any) -> list[str]:
    """The names of a jaxpr's inputs in the function that it was traced from; empty where not known."""
    names = jaxpr.debug_info.arg_names
    return [*names] if names is not None and len(names) == len(jaxpr.invars) else []


def user_points(source: Any) -> list[tuple[str, tuple[int, int], str]]:
    """The same with line and column in the place of the line."""
    frames = _source_info.user_frames(source.traceback)
    return [(f.file_name, (f.start_line, f.start_column), f.function_name) for f in frames]


@contextlib.contextmanager
def in_place_of(eqn: Equation) -> Iterator[None]:
    """A context in which operations come from an equation's line, in its name scopes."""
    stack = source_info_util.current_name_stack() + eqn.source_info.name_stack
    line = source_info_util.user_context(eqn.source_info.traceback, name_stack=stack)
    with line, eqn.ctx.manager:
        yield


def is_dropped(v: Var) -> bool:
    """Whether nothing reads an equation's output."""
    return isinstance(v, DropVar)


def bind_equation(eqn: Equation, operands: Sequence[Any]) -> list[Any]:
    """Run an equation's operation on other operands."""
    out = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))
    return out if eqn.primitive.multiple_results else [out]


def functions_of_nn(eqn: Equation) -> set[str]:
    """The functions of ``jax.nn`` that an equation comes from, by their names."""
    traceback = eqn.source_info.traceback
    frames = () if traceback is None else traceback.frames
    return {frame.function_name for frame in frames if "jax/_src/nn/" in frame.file_name}


def user_positions(eqn: Equation) -> list[Any]:
    """The user's frames around an equation, with columns: equal for what one expression made twice."""
    return [*_source_info.user_frames(eqn.source_info.traceback)]
