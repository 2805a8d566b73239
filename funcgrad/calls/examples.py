"""The body of a vmapped loop, in which each example has a test of its own, and some have ended.

JAX runs the body on all examples, and an example that has ended keeps its values:

    carry = select(test(carry), body(carry), carry)

The derivative must not touch an example that has ended: where the body has an infinite slope at its
values, zero times that slope is NaN. So the body is given the values of an example that goes on in the
place of those of one that has ended, whose results are not used:

    safe = select(test(carry), carry, those of an example that goes on)
    carry = select(test(carry), body(safe), carry)

A print must still show the values of the examples themselves: effects run apart, with those.

This is right where the body keeps the examples apart, which `partition/axes.py` finds out. Where a
collective over the vmapped axis mixes them, the values of an example that has ended do count. Where
random keys alone mix them, keys stay as they are, and so do the numbers that they are made of. Where a
primitive of the body cannot be read, it is not known, and that is an error.

Where one constant is of the inner of two vmaps alone and another of the outer one alone, no example that
goes on has both constants of one that has ended. The safe values are its own there, those of its last
step, which cost a second carry (`loop_of_own_values`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from funcgrad import _jax, errors
from funcgrad._jax import Value
from funcgrad.errors import UnknownExamplesError
from funcgrad.partition.axes import Place, Rows, rows_apart


def body_of_all(body: _jax.ClosedJaxpr, test: _jax.ClosedJaxpr, num_tests: int) -> _jax.ClosedJaxpr:
    """The body as a function of all of the loop's operands, those of its test included."""
    loop = VmappedLoop(body, test, num_tests)
    if not num_tests and not loop.num_axes:
        return body

    def run(*operands: Value) -> list[Value]:
        if not loop.num_axes:
            return _jax.eval_closed_jaxpr(body, operands[num_tests:])
        going = loop.going(operands)
        if loop.places is None:
            return loop.after_step(going, operands)
        return loop.after_step(going, operands, going_rows(going, operands, loop.places))

    return _jax.stage_closed(run, loop.avals, _jax.function_of(body))


def loop_of_own_values(
    body: _jax.ClosedJaxpr, test: _jax.ClosedJaxpr, num_tests: int
) -> _jax.ClosedJaxpr | None:
    """The whole loop, in which an example that has ended has the last values with which it went on.

    Returns:
      A program of the loop's operands. None where the body can be given another example's values,
      which needs no second carry.

    Some constants may be of the inner of two vmaps alone, and others of the outer one alone. No other
    example has both constants of an example then, so that its own last values are all that is safe. An
    example that does not begin has none; it is given those of another with as many of its constants
    as there are.
    """
    loop = VmappedLoop(body, test, num_tests)
    if loop.num_axes < 2 or loop.places is None or are_nested(loop.places):
        return None
    num_consts, places = loop.num_consts, loop.places

    def run(*operands: Value) -> list[Value]:
        own, init = operands[:num_consts], list(operands[num_consts:])
        (begins,) = _jax.eval_closed_jaxpr(loop.silent_test, [*own[:num_tests], *init])
        safe = going_rows(begins, operands, places)
        consts, first = safe[:num_consts], [*map(lax.stop_gradient, safe[num_consts:])]

        def step(carry: tuple[list[Value], list[Value]]) -> tuple[list[Value], list[Value]]:
            last, now = carry
            going = loop.going([*own, *now])
            last = [select_examples(going, x, y) for x, y in zip(now, last, strict=True)]
            return last, loop.after_step(going, [*own, *now], [*consts, *last])

        return lax.while_loop(
            lambda carry: jnp.any(loop.going([*own, *carry[1]])), step, (first, init)
        )[1]

    return _jax.stage_closed(run, loop.avals, _jax.function_of(body))


class Parts(NamedTuple):
    """A body's or a test's effects, if it has any, and its values."""

    acting: _jax.ClosedJaxpr | None
    silent: _jax.ClosedJaxpr


@dataclass(frozen=True, eq=False)
class VmappedLoop:
    """A loop's programs. Its test has an axis for each vmap, first; it has none if all end together.

    Attributes:
      num_tests: how many constants the test has, which come before the body's.
    """

    body: _jax.ClosedJaxpr
    test: _jax.ClosedJaxpr
    num_tests: int

    @property
    def num_axes(self) -> int:
        """How many vmaps there are."""
        return len(self.test.out_avals[0].shape)

    @property
    def num_consts(self) -> int:
        """How many constants the test and the body have."""
        return self.num_tests + len(self.body.in_avals) - len(self.body.out_avals)

    @property
    def avals(self) -> list[Any]:
        """The types of the loop's operands."""
        tests, steps = _jax.input_types(self.test), _jax.input_types(self.body)
        consts = steps[: self.num_consts - self.num_tests]
        return [*tests[: self.num_tests], *consts, *self.body.out_avals]

    def going(self, operands: Sequence[Value]) -> Value:
        """Which examples go on, with the effects of the test."""
        carry = operands[self.num_consts :]
        return _jax.eval_closed_jaxpr(self.test, [*operands[: self.num_tests], *carry])[0]

    def after_step(
        self, going: Value, own: Sequence[Value], safe: Sequence[Value] | None = None
    ) -> list[Value]:
        """The carry after a step, which an example that has ended keeps.

        Args:
          own: the loop's operands, with which effects run.
          safe: the same with other values for examples that have ended; None to take no others.
        """
        if safe is None:
            new = _jax.eval_closed_jaxpr(self.body, own[self.num_tests :])
        else:
            if self.parts.acting is not None:
                _jax.eval_closed_jaxpr(self.parts.acting, own[self.num_tests :])
            new = _jax.eval_closed_jaxpr(self.parts.silent, safe[self.num_tests :])
        old = own[self.num_consts :]
        return [select_examples(going, y, x) for x, y in zip(old, new, strict=True)]

    @cached_property
    def parts(self) -> Parts:
        """The body's."""
        return parts_of(self.body)

    @cached_property
    def silent_test(self) -> _jax.ClosedJaxpr:
        """The test without effects."""
        return parts_of(self.test).silent

    @cached_property
    def places(self) -> list[Place] | None:
        """Which axes of each operand are those of examples; None if the examples are mixed."""

        def run(*operands: Value) -> list[Value]:
            carry = operands[self.num_consts :]
            consts = operands[: self.num_tests]
            (going,) = _jax.eval_closed_jaxpr(self.silent_test, [*consts, *carry])
            new = _jax.eval_closed_jaxpr(self.parts.silent, operands[self.num_tests :])
            return [select_examples(going, y, x) for x, y in zip(carry, new, strict=True)]

        program = _jax.stage_closed(run, self.avals, _jax.function_of(self.body))
        return places_of_examples(program, [(self.num_consts, k) for k in range(self.num_axes)])


def parts_of(program: _jax.ClosedJaxpr) -> Parts:
    """The effects of a program of a vmapped loop, and its values.

    Raises:
      errors.Unlocated: an :class:`errors.UnknownExamplesError` or, if it stores into a reference that
        cannot be replaced by its content, an :class:`errors.MutableReferenceError`.
    """
    try:
        return Parts(*_jax.effects_apart(program))
    except _jax.NotApartError as error:
        if error.equation is None:
            raise errors.Unlocated(
                errors.MutableReferenceError, lax.while_p, STORED_AFTER_ALL
            ) from None
        raise _unknown(error.equation, UnknownExamplesError.ACTING) from None


STORED_AFTER_ALL = (
    "whose examples end one by one, which must not store what one that has ended would store. JAX does "
    "not let a gradient follow such a reference (kind='no_grad_no_remat')."
)


def places_of_examples(
    program: _jax.ClosedJaxpr, examples: Sequence[tuple[int, int]]
) -> list[Place] | None:
    """Which axes of each operand are those of examples; None if the examples are mixed.

    Args:
      examples: operands, each with one of these axes.

    Raises:
      errors.Unlocated: an :class:`errors.UnknownExamplesError`, which lacks the loop's line.
    """
    rows = rows_apart(program, examples)
    if rows.places is None:  # not by what has a derivative, perhaps
        rows = rows_but_of_keys(program, examples)
    if rows.unknown is not None:
        raise _unknown(rows.unknown, UnknownExamplesError.UNREAD)
    return rows.places


def rows_but_of_keys(program: _jax.ClosedJaxpr, examples: Sequence[tuple[int, int]]) -> Rows:
    """The rows if random keys, or the numbers that they are made of, stay as they are.

    Of the operands without a derivative, those that do not mix the examples have places too.
    """
    fixed = [not _jax.is_inexact(aval) for aval in program.in_avals]
    rows = rows_apart(program, examples, tuple(fixed))
    for i in [i for i, is_fixed in enumerate(fixed) if is_fixed and rows.places is not None]:
        fixed[i] = False
        fewer = rows_apart(program, examples, tuple(fixed))
        fixed[i] = fewer.places is None
        rows = rows if fixed[i] else fewer
    return rows


def _unknown(eqn: _jax.Equation, why: str) -> errors.Unlocated:
    where = _jax.where(eqn.source_info) or "<unknown line>"
    return errors.Unlocated(UnknownExamplesError, eqn.primitive, where, why)


def select_examples(which: Value, on_true: Value, on_false: Value) -> Value:
    """By leading axes, which are the batch's."""
    return lax.select(spread_to(on_true, which), on_true, on_false)


def going_rows(going: Value, values: Sequence[Value], places: Sequence[Place]) -> list[Value]:
    """Values in which the rows of examples that have ended are those of one that goes on.

    Args:
      going: which examples go on. It has an axis for each vmap.
      places: which axes of each value are those.

    Rows are replaced along one axis after the other, those first which the fewest values have. A row
    of a value that lacks an axis goes on if any example along that axis does.
    """
    order, stages = order_of(places), dict[tuple[bool, ...], list[Stage]]()
    found = []
    for x, place in zip(values, places, strict=True):
        there = tuple(axis is not None for axis in place)
        if there not in stages:
            stages[there] = stages_of(going, [axis for axis in order if there[axis]])
        for axis, rows, row in stages[there]:
            along = place[axis]
            if along is not None:
                other = rows_at(x, place_in(x, row, place), along)
                mask = spread_to(x, place_in(x, rows, place))
                x = lax.select(mask, x, lax.stop_gradient(other))
        found.append(x)
    return found


class Stage(NamedTuple):
    """Along which axis rows are replaced, which of them are not, and by which the others are."""

    axis: int
    going: Value
    row: Value


def stages_of(going: Value, axes: Sequence[int]) -> list[Stage]:
    """The replacements along these axes, in this order, for values that have no others."""
    absent = [axis for axis in range(going.ndim) if axis not in axes]
    if absent:
        going = jnp.any(going, absent, keepdims=True)
    found = []
    for axis in axes:
        found.append(Stage(axis, going, jnp.argmax(going, axis, keepdims=True)))
        going = jnp.any(going, axis, keepdims=True)
    return found


def order_of(places: Sequence[Place]) -> list[int]:
    """The axes of examples, those first which the fewest values have."""
    axes = range(len(places[0]))
    return sorted(axes, key=lambda axis: sum(place[axis] is not None for place in places))


def are_nested(places: Sequence[Place]) -> bool:
    """Whether a value that has an axis of examples has all axes which more values have.

    It is not so where one constant is of the inner vmap alone and another of the outer one alone.
    """
    order = order_of(places)
    there = [[place[axis] is not None for axis in order] for place in places]
    return all(mask == sorted(mask) for mask in there)


def place_in(x: Value, which: Value, place: Place) -> Value:
    """Something for each example with the axes of a value: those of size 1 that it does not have."""
    which = lax.squeeze(which, [k for k, axis in enumerate(place) if axis is None])
    axes = [axis for axis in place if axis is not None]
    which = lax.transpose(which, sorted(range(len(axes)), key=axes.__getitem__))
    return lax.expand_dims(which, [k for k in range(x.ndim) if k not in axes])


def rows_at(x: Value, index: Value, axis: int) -> Value:
    """The row of an axis that the index says, in the place of each."""
    sharding = _jax.explicit_sharding(_jax.typeof(x))
    if sharding is not None and _jax.is_key(x):  # keys do not add up, their numbers do
        row = rows_at(jax.random.key_data(x), index, axis)
        return jax.random.wrap_key_data(row, impl=jax.random.key_impl(x))
    if sharding is not None:  # the row may lie on another device
        at = lax.broadcasted_iota(index.dtype, x.shape, axis, out_sharding=sharding)
        row = sum_over(lax.select(at == spread_to(x, index), x, jnp.zeros_like(x)), axis)
    elif index.size == 1:
        row = lax.dynamic_index_in_dim(x, lax.reshape(index, ()), axis)
    else:
        row = jnp.take_along_axis(x, index, axis, mode="clip")
    return spread_to(x, row)


def sum_over(x: Value, axis: int) -> Value:
    """The sum over an axis, of truths too, as an axis of size 1."""
    if x.dtype == jnp.bool_:
        return jnp.any(x, axis, keepdims=True)
    return jnp.sum(x, axis, x.dtype, keepdims=True)


def spread_to(x: Value, which: Value) -> Value:
    """Something with the first axes of a value, broadcast to its type."""
    sharding = _jax.explicit_sharding(_jax.typeof(x))
    return lax.broadcast_in_dim(which, x.shape, tuple(range(which.ndim)), out_sharding=sharding)
