"""The body of a vmapped loop, in which each example has a test of its own, and some have ended.

JAX runs the body on all examples, and an example that has ended keeps its values:

    carry = select(test(carry), body(carry), carry)

The derivative must not touch an example that has ended: where the body has an infinite slope at its
values, zero times that slope is NaN. So the body is given the values of an example that goes on in the
place of those of one that has ended, whose results are not used:

    safe = select(test(carry), carry, those of an example that goes on)
    carry = select(test(carry), body(safe), carry)

This is right where the body keeps the examples apart, which `partition/axes.py` finds out. Where a
collective over the vmapped axis mixes them, the values of an example that has ended do count.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax

from funcgrad import _jax
from funcgrad._jax import Value
from funcgrad.partition.axes import Place, rows_apart


def body_of_all(body: _jax.ClosedJaxpr, test: _jax.ClosedJaxpr, num_tests: int) -> _jax.ClosedJaxpr:
    """The body as a function of all of the loop's operands, those of its test included."""
    num_carry, num_axes = len(body.out_avals), len(test.out_avals[0].shape)
    if not num_tests and not num_axes:
        return body
    num_consts = num_tests + len(body.in_avals) - num_carry

    def staged(places: Sequence[Place] | None) -> _jax.ClosedJaxpr:
        def run(*operands: Value) -> list[Value]:
            old = operands[num_consts:]
            if not num_axes:
                return _jax.eval_closed_jaxpr(body, operands[num_tests:])
            (going,) = _jax.eval_closed_jaxpr(test, [*operands[:num_tests], *old])
            given = operands[num_tests:]
            if places is not None:
                given = going_rows(going, given, places[num_tests:])
            new = _jax.eval_closed_jaxpr(body, given)
            return [select_examples(going, y, x) for x, y in zip(old, new, strict=True)]

        tests, steps = _jax.input_types(test), _jax.input_types(body)
        avals = [*tests[:num_tests], *steps[: num_consts - num_tests]]
        return _jax.stage_closed(run, [*avals, *body.out_avals], _jax.function_of(body))

    plain = staged(None)
    if not num_axes or plain.effects:
        return plain
    places = rows_apart(plain, [(num_consts, axis) for axis in range(num_axes)])
    if places is None or not are_nested(places) or has_sharded_rows(plain, places):
        return plain
    return staged(places)


def has_sharded_rows(body: _jax.ClosedJaxpr, places: Sequence[Place]) -> bool:
    """Whether a value that has an axis of examples is not whole on every device, by its type."""
    return any(
        _jax.is_sharded(aval) and any(axis is not None for axis in place)
        for aval, place in zip(body.in_avals, places, strict=True)
    )


def select_examples(which: Value, on_true: Value, on_false: Value) -> Value:
    """By leading axes, which are the batch's."""
    which = lax.broadcast_in_dim(which, on_true.shape, tuple(range(which.ndim)))
    return lax.select(which, on_true, on_false)


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
                mask = lax.broadcast_in_dim(place_in(x, going, place), x.shape, range(x.ndim))
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
    if index.size == 1:
        row = lax.dynamic_index_in_dim(x, lax.reshape(index, ()), axis)
    else:
        row = jnp.take_along_axis(x, index, axis, mode="clip")
    return lax.broadcast_in_dim(row, x.shape, tuple(range(x.ndim)))
