"""Tracebacks without internal frames, and what JAX's own search for NaNs finds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src import config, traceback_util
from jax._src import core as _core
from jax._src.api_util import InternalFloatingPointError
from jax.extend import source_info_util
from jax.extend.core import Jaxpr

from funcgrad._jax.faults import locate
from funcgrad._jax.marks import INF, NAN
from funcgrad._jax.values import is_inexact, to_concrete_value

F = TypeVar("F", bound=Callable[..., Any])

traceback_util.register_exclusion(os.path.dirname(os.path.dirname(__file__)))


def boundary(fun: F) -> F:
    """`fun`, which errors leave without frames of ours and of JAX's in their traceback.

    The user's setting ``jax_traceback_filtering`` says how, and whether at all.
    """
    return traceback_util.api_boundary(fun)


def at_line_of(source: Any) -> Any:
    """A context in which operations come from the place of another operation."""
    return source_info_util.user_context(source.traceback)


def is_leaked(trace: Any) -> bool:
    """Whether, under ``jax_check_tracer_leaks``, traced values outlive their trace."""
    return config.check_tracer_leaks.value and bool(_core.maybe_find_leaked_tracers(trace))


PULLED_BACK = "vjp_of_"


def pulling_back(op: Any, source: Any, rule: str | None = None) -> Any:
    """A context in which operations come from an op's place and scope, as those that pull it back.

    The name of a user's `rule` is with them: a profile shows ``vjp_of_tanh(by_my_tanh_vjp())``.
    """
    name = str(op).split(" at ")[0]
    scope = source.name_stack.transform(f"{PULLED_BACK}{name}")
    if rule is not None:
        scope = scope.transform(f"by_{rule}")
    return source_info_util.user_context(source.traceback, name_stack=scope)


def pulled_back_op(source: Any) -> str | None:
    """The name of the op that an operation pulls back, the innermost one; None on the way forward."""
    names = [part.name for part in source.name_stack.stack]
    found = [name for name in names if name.startswith(PULLED_BACK)]
    return found[-1].removeprefix(PULLED_BACK) if found else None


def is_vmapped(source: Any) -> bool:
    """Whether an operation comes from under ``jax.vmap``."""
    return any(part.name == "vmap" for part in source.name_stack.stack)


@contextmanager
def away_from_accelerators() -> Iterator[None]:
    """A context in which the CPU computes: a running program may hold the accelerator meanwhile."""
    with jax.default_device(jax.devices("cpu")[0]):
        yield


NOT_FINITE = (FloatingPointError, InternalFloatingPointError)
"""What JAX raises under ``jax_debug_nans`` and ``jax_debug_infs``."""


@contextmanager
def looking_for_nothing() -> Iterator[None]:
    """A context in which JAX looks for no NaNs and infinities of its own."""
    with jax.debug_nans(False), jax.debug_infs(False):
        yield


def looks_for_not_finite() -> bool:
    """Whether JAX has been told to look for NaNs or infinities."""
    return config.debug_nans.value or config.debug_infs.value


def watched(run: Callable[[], list[Any]], count: int) -> list[Any]:
    """What `run` gives, of which JAX looks at the first `count` values for what is not finite.

    The others are values inside a user's jitted call, where JAX looks at none.
    """
    if not looks_for_not_finite():
        return run()
    tests = _tests()
    with looking_for_nothing():
        results = run()
    known = [to_concrete_value(y) for y in results[:count]]
    return run() if _is_bad([y for y in known if y is not None], tests) else results


def _tests() -> list[Any]:
    return [np.isnan] * config.debug_nans.value + [np.isinf] * config.debug_infs.value


def _is_bad(values: Iterable[Any], tests: Sequence[Any]) -> bool:
    arrays = [np.asarray(y) for y in values if is_inexact(y)]
    return any(bool(test(y).any()) for y in arrays for test in tests)


def first_not_finite(jaxpr: Jaxpr, args: Sequence[Any]) -> tuple[str, str | None] | None:
    """Where a jaxpr without constants first gives what JAX has been told to look for.

    That is an operation, at any depth, and its place in the user's source; None if there is none.
    """
    values = [to_concrete_value(x) for x in args]
    if any(x is None for x in values):
        return None
    kinds = [NAN] * config.debug_nans.value + [INF] * config.debug_infs.value
    with looking_for_nothing():
        fault = locate(jaxpr, values, kinds)
    if fault is None or fault.eqn is None:
        return None
    return str(fault.eqn.primitive), fault.where
