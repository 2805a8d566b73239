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
random keys alone mix them, what has no derivative stays as it is. Where a primitive of the body cannot
be read, it is not known, and that is an error.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax

from funcgrad import _jax, errors
from funcgrad._jax import Aval, Value
from funcgrad.partition.axes import Place, rows_apart


def body_of_all(body: _jax.ClosedJaxpr, test: _jax.ClosedJaxpr, num_tests: int) -> _jax.ClosedJaxpr:
    """The body as a function of all of the loop's operands, those of its test included."""
    num_carry, num_axes = len(body.out_avals), len(test.out_avals[0].shape)
    if not num_tests and not num_axes:
        return body
    num_consts = num_tests + len(body.in_avals) - num_carry

    def staged(
        body: _jax.ClosedJaxpr,
        test: _jax.ClosedJaxpr,
        effects: _jax.ClosedJaxpr | None = None,
        places: Sequence[Place] | None = None,
    ) -> _jax.ClosedJaxpr:
        def run(*operands: Value) -> list[Value]:
            old, given = operands[num_consts:], operands[num_tests:]
            if effects is not None:
                _jax.eval_closed_jaxpr(effects, given)
            if not num_axes:
                return _jax.eval_closed_jaxpr(body, given)
            (going,) = _jax.eval_closed_jaxpr(test, [*operands[:num_tests], *old])
            if places is not None:
                given = going_rows(going, given, places[num_tests:])
            new = _jax.eval_closed_jaxpr(body, given)
            return [select_examples(going, y, x) for x, y in zip(old, new, strict=True)]

        tests, steps = _jax.input_types(test), _jax.input_types(body)
        avals = [*tests[:num_tests], *steps[: num_consts - num_tests]]
        return _jax.stage_closed(run, [*avals, *body.out_avals], _jax.function_of(body))

    plain = staged(body, test)
    if not num_axes or any(map(is_sharded_key, plain.in_avals)):
        return plain
    (acting, silent), (_, silent_test) = map(_jax.effects_apart, (body, test))
    if silent is None or silent_test is None:
        return plain
    program = staged(silent, silent_test) if plain.effects else plain
    places = places_of_examples(program, [(num_consts, axis) for axis in range(num_axes)])
    if places is None or not are_nested(places):
        return plain
    return staged(silent, test, acting, places)


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
        fixed = tuple(not _jax.is_inexact(aval) for aval in program.in_avals)
        rows = rows_apart(program, examples, fixed)
    if rows.unknown is not None:
        where = _jax.where(rows.unknown.source_info) or "<unknown line>"
        raise errors.Unlocated(errors.UnknownExamplesError, rows.unknown.primitive, where)
    return rows.places


def select_examples(which: Value, on_true: Value, on_false: Value) -> Value:
    """By leading axes, which are the batch's."""
    return lax.select(spread_to(on_true, which), on_true, on_false)


def going_rows(going: Value, values: Sequence[Value], places: Sequence[Place]) -> list[Value]:
    """Values in which the rows of examples that have ended are those of one that goes on.

    Args:
      going: which examples go on. It has an axis for each vmap.
      places: which axes of each value are those.

    Rows are replaced along one axis after the other, those first which the fewest values have.
    """
    found = list(values)
    for axis in order_of(places):
        row = jnp.argmax(going, axis, keepdims=True)
        for i, (x, place) in enumerate(zip(found, places, strict=True)):
            along = place[axis]
            if along is not None:
                other = rows_at(x, place_in(x, row, place), along)
                mask = spread_to(x, place_in(x, going, place))
                found[i] = lax.select(mask, x, lax.stop_gradient(other))
        going = jnp.any(going, axis, keepdims=True)
    return found


def order_of(places: Sequence[Place]) -> list[int]:
    """The axes of examples, those first which the fewest values have."""
    axes = range(len(places[0]))
    return sorted(axes, key=lambda axis: sum(place[axis] is not None for place in places))


def are_nested(places: Sequence[Place]) -> bool:
    """Whether a value that has an axis of examples has all axes which more values have.

    It is not so where one constant is of the inner vmap alone and another of the outer one alone. No
    example has the constants of one that goes on then, so there is nothing to replace them by.
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


def is_sharded_key(aval: Aval) -> bool:
    """Whether values of this type cannot be added up to bring a row from one device to the others."""
    return _jax.is_sharded(aval) and _jax.has_own_dtype(aval)
