"""The most steps that a while loop can take, where its test and its counter say so.

    while i < 7 and error > tolerance:      i = 0 before the loop, i + 1 after a step: 7 steps

The test is a conjunction. One part of it compares an integer carry with a number, and the body adds a
number to this carry. What is not known to be so gives no bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from funcgrad import _jax
from funcgrad._jax import Atom, Equation, Var
from funcgrad.partition.axes import program_behind

SAME = frozenset({lax.convert_element_type_p, lax.copy_p, lax.stop_gradient_p, lax.reduce_or_p})
"""Operations that leave a truth as it is: one without axes, so that there is nothing to reduce."""


class Comparison(NamedTuple):
    """Something is less than something, or as much as that if `equal`."""

    less: Atom
    more: Atom
    equal: bool


COMPARISONS = {
    lax.lt_p: lambda a, b: Comparison(a, b, False),
    lax.le_p: lambda a, b: Comparison(a, b, True),
    lax.gt_p: lambda a, b: Comparison(b, a, False),
    lax.ge_p: lambda a, b: Comparison(b, a, True),
}


def most_steps(
    test: _jax.ClosedJaxpr, body: _jax.ClosedJaxpr, start: Sequence[int | None]
) -> int | None:
    """The most steps that a loop can take; None if that is not known.

    Args:
      test: the loop's test, as a function of its constants and the carries.
      body: the loop's body, as a function of its constants and the carries.
      start: the carries before the loop, where they are integers that are known.
    """
    carries = test.jaxpr.invars[len(test.in_avals) - len(start) :]
    first = len(body.in_avals) - len(start)
    before, after = body.jaxpr.invars[first:], body.jaxpr.outvars
    makers = _makers(body.jaxpr.eqns)
    counters = {
        v: (begin, _added(old, new, makers))
        for v, begin, old, new in zip(carries, start, before, after, strict=True)
        if begin is not None
    }
    (going,) = test.jaxpr.outvars
    parts = _parts(going, _makers(test.jaxpr.eqns))
    bounds = [_bound(part, counters) for part in parts]
    return min((bound for bound in bounds if bound is not None), default=None)


def _makers(eqns: Sequence[Equation]) -> dict[Var, Equation]:
    return {v: eqn for eqn in eqns for v in eqn.outvars}


def _parts(truth: Atom, makers: Mapping[Var, Equation]) -> Iterator[Comparison]:
    """Comparisons that all hold where `truth`, which has no axes, holds."""
    eqn = None if _jax.is_literal(truth) else makers.get(truth)
    if eqn is None or any(_jax.type_of(v).shape for v in eqn.invars):
        return
    if eqn.primitive in COMPARISONS:
        yield COMPARISONS[eqn.primitive](*eqn.invars)
    elif eqn.primitive is lax.and_p or eqn.primitive in SAME:
        for v in eqn.invars:
            if _is_truth(v):
                yield from _parts(v, makers)
    elif len(eqn.invars) == 1 and _is_identity(eqn):
        yield from _parts(eqn.invars[0], makers)


def _is_truth(v: Atom) -> bool:
    return _jax.type_of(v).dtype == np.bool_


def _is_identity(eqn: Equation) -> bool:
    """Whether the program that JAX runs for an unknown operation on a truth gives it back."""
    program = program_behind(eqn)
    if program is None or program.jaxpr.effects or len(program.jaxpr.outvars) != 1:
        return False
    found, makers = program.jaxpr.outvars[0], _makers(program.jaxpr.eqns)
    while not _jax.is_literal(found) and found in makers:
        inner = makers[found]
        if inner.primitive not in SAME or not _is_truth(found):
            return False
        found = inner.invars[0]
    return found is program.jaxpr.invars[0] and program.out_avals == program.in_avals


def _added(old: Var, new: Atom, makers: Mapping[Var, Equation]) -> int:
    """What a step adds to a carry; 0 if that is not known."""
    eqn = None if _jax.is_literal(new) else makers.get(new)
    if eqn is None or eqn.primitive not in (lax.add_p, lax.sub_p):
        return 0
    a, b = eqn.invars
    if eqn.primitive is lax.add_p and b is old:
        a, b = b, a
    step = _jax.known_integer(b)
    if a is not old or step is None:
        return 0
    return step if eqn.primitive is lax.add_p else -step


def _bound(part: Comparison, counters: Mapping[Var, tuple[int, int]]) -> int | None:
    """The most steps of a loop that ends when this comparison does not hold."""
    up = not _jax.is_literal(part.less)
    counter, limit = (part.less, part.more) if up else (part.more, part.less)
    end = _jax.known_integer(limit)
    if end is None or _jax.is_literal(counter) or counter not in counters:
        return None
    start, added = counters[counter]
    added, room = (added, end - start) if up else (-added, start - end)
    if added <= 0:
        return None
    info = jnp.iinfo(_jax.type_of(counter).dtype)
    last = end - 1 + part.equal + added if up else end + 1 - part.equal - added
    if not int(info.min) <= last <= int(info.max):
        return None  # the counter might begin anew
    return max(0, (room - (not part.equal)) // added + 1)
