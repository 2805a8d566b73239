"""Tracebacks without internal frames, and where in the user's source a NaN begins."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src import config, traceback_util
from jax._src.api_util import InternalFloatingPointError
from jax.extend import source_info_util
from jax.extend.core import ClosedJaxpr, Jaxpr

from funcgrad._jax.calls import scan_settings
from funcgrad._jax.jaxprs import convert_consts, inner_jaxprs, jitted, read, values_of
from funcgrad._jax.ops import where
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


NOT_FINITE = (FloatingPointError, InternalFloatingPointError)
"""What JAX raises under ``jax_debug_nans`` and ``jax_debug_infs``."""


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
    with jax.debug_nans(False), jax.debug_infs(False):
        results = run()
    known = [to_concrete_value(y) for y in results[:count]]
    return run() if _is_bad([y for y in known if y is not None], tests) else results


def _tests() -> list[Any]:
    return [np.isnan] * config.debug_nans.value + [np.isinf] * config.debug_infs.value


def first_not_finite(jaxpr: Jaxpr, args: Sequence[Any]) -> tuple[str, str | None] | None:
    """Where a jaxpr without constants first gives what JAX has been told to look for.

    That is an operation, at any depth, and its place in the user's source; None if there is none.
    """
    args = [to_concrete_value(x) for x in args]
    if any(x is None for x in args):
        return None
    tests = _tests()
    with jax.debug_nans(False), jax.debug_infs(False):
        return _find(jaxpr, args, tests)


def _find(jaxpr: Jaxpr, args: Sequence[Any], tests: Sequence[Any]) -> Any:
    known = dict(zip(jaxpr.invars, args, strict=True))
    for eqn in jaxpr.eqns:
        found = values_of([eqn], known)
        if _is_bad(found.values(), tests):
            called = _called(eqn, read(eqn.invars, known), tests)
            deeper = _find(*called, tests) if called else None
            return deeper or (str(eqn.primitive), where(eqn.source_info))
        known.update(found)
    return None


def _is_bad(values: Iterable[Any], tests: Sequence[Any]) -> bool:
    arrays = [np.asarray(y) for y in values if is_inexact(y)]
    return any(bool(test(y).any()) for y in arrays for test in tests)


def _called(
    eqn: Any, operands: Sequence[Any], tests: Sequence[Any]
) -> tuple[Jaxpr, Sequence[Any]] | None:
    """The function that an operation calls, with its arguments: of a loop, in the step at fault."""
    params = eqn.params
    if eqn.primitive is jax.lax.cond_p:
        index, *given = operands
        return _with_consts(params["branches"][int(index)], given)
    if eqn.primitive in (jax.lax.scan_p, jax.lax.while_p):
        steps = _scan_steps if eqn.primitive is jax.lax.scan_p else _while_steps
        bodies = (
            (body, args) for body, args, outs in steps(params, operands) if _is_bad(outs, tests)
        )
        failing = next(bodies, None)
        return _with_consts(*failing) if failing else None
    fits = (inner for inner in inner_jaxprs(params) if len(inner.invars) == len(operands))
    inner = next((inner for inner in fits if not inner.constvars), None)
    return (inner, operands) if inner is not None else None


def _with_consts(closed: ClosedJaxpr, args: Sequence[Any]) -> tuple[Jaxpr, list[Any]]:
    return convert_consts(closed), [*closed.consts, *args]


def _scan_steps(params: Any, operands: Sequence[Any]) -> Iterator[Any]:
    """A scan's body with the arguments and the results of each step."""
    num_consts, num_carry, length, reverse, _ = scan_settings(params)
    body = params["jaxpr"]
    run = jitted(body, "step")
    consts, carry = operands[:num_consts], operands[num_consts : num_consts + num_carry]
    xs = operands[num_consts + num_carry :]
    for i in reversed(range(length)) if reverse else range(length):
        args = [*consts, *carry, *[x[i] for x in xs]]
        outs = run(*args)
        yield body, args, outs
        carry = outs[:num_carry]


def _while_steps(params: Any, operands: Sequence[Any]) -> Iterator[Any]:
    """A while loop's body with the arguments and the results of each step."""
    body = params["body_jaxpr"]
    going, run = jitted(params["cond_jaxpr"], "test"), jitted(body, "step")
    num_tests, num_consts = params["cond_nconsts"], params["body_nconsts"]
    of_test, of_body = operands[:num_tests], operands[num_tests : num_tests + num_consts]
    carry = operands[num_tests + num_consts :]
    while np.any(going(*of_test, *carry)[0]):
        args = [*of_body, *carry]
        outs = run(*args)
        yield body, args, outs
        carry = outs
