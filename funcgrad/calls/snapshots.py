"""Online checkpointing: which states of a loop of unknown length to keep, in a fixed number of places.

Each snapshot has a level. A snapshot is dispensable if a later one has a higher level. A new snapshot
takes the first of these places that there is: an empty one, that of a dispensable snapshot, or that of
the latest snapshot, whose level it raises by one. For every length this repeats no step more often than
the best schedule made with the length known (Wang, Moin and Iaccarino, "Minimal repetition dynamic
checkpointing algorithm for unsteady adjoint calculation", 2009).

With three places, times with levels as subscripts (the first snapshot is never dispensable, *):

    0*  1_0 2_0     all places are taken
    0*  1_0 3_1     no place is vacant or dispensable: 3 takes the place of 2, one level up
    0*  4_0 3_1     1 is dispensable, since 3 is later and higher
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from funcgrad import _jax
from funcgrad._jax import Value

EMPTY = -1
BOTTOM = 2**30
"""The level of the first snapshot, which is never dispensable."""
VACANT = 2**31 - 1
DISPENSABLE = 2**31 - 2
"""What such places have instead of a time, so that the largest of all is the place to take."""


class Snapshots(NamedTuple):
    """Snapshots of a loop, in no order.

    Attributes:
      times: when each was taken, or EMPTY.
      levels: the level of each.
      states: the states, stacked along a leading axis.
    """

    times: Value
    levels: Value
    states: list[Value]

    @classmethod
    def empty(cls, count: int, like: Sequence[Value]) -> Snapshots:
        """`count` empty places for states like this one."""
        times = jnp.full(count, EMPTY, jnp.int32)
        levels = jnp.zeros(count, jnp.int32)
        return cls(times, levels, [lax.broadcast(_jax.to_be_read_again(x), (count,)) for x in like])

    def put(self, time: Value, state: Sequence[Value]) -> Snapshots:
        """Take a snapshot that is later than all others."""
        columns, rows = lax.expand_dims(self.times, (0,)), lax.expand_dims(self.times, (1,))
        levels = lax.broadcast_in_dim(self.levels, (self.levels.size,) * 2, (1,))
        highest = jnp.max(lax.select(columns > rows, levels, lax.full_like(levels, EMPTY)), axis=1)
        dispensable = self.levels < highest
        # of vacant, dispensable and latest places the first kind that there is
        score = lax.select(dispensable, lax.full_like(self.times, DISPENSABLE), self.times)
        score = lax.select(self.times == EMPTY, lax.full_like(self.times, VACANT), score)
        place = lax.argmax(score, 0, jnp.int32)
        promoted = at_index(score, place) < DISPENSABLE
        level = lax.select(promoted, at_index(self.levels, place) + 1, jnp.int32(0))
        level = lax.select(time == 0, jnp.int32(BOTTOM), level)
        states = [
            with_index(old, _jax.to_be_read_again(new), place)
            for old, new in zip(self.states, state, strict=True)
        ]
        times, levels = with_index(self.times, time, place), with_index(self.levels, level, place)
        return Snapshots(times, levels, states)

    def latest(self) -> tuple[Value, list[Value]]:
        """The time of the latest snapshot, and its state."""
        place = lax.argmax(self.times, 0, jnp.int32)
        states = [_jax.to_be_read_again(at_index(x, place)) for x in self.states]
        return at_index(self.times, place), states

    def drop_from(self, time: Value) -> Snapshots:
        """Empty the places of snapshots taken at `time` or later."""
        empty = lax.full_like(self.times, EMPTY)
        return self._replace(times=lax.select(self.times >= time, empty, self.times))


def at_index(buffer: Value, index: Value) -> Value:
    """The element of a buffer at an index that is not negative."""
    return lax.dynamic_index_in_dim(buffer, index, 0, keepdims=False, allow_negative_indices=False)


def with_index(buffer: Value, x: Value, index: Value) -> Value:
    """A buffer with another element at an index that is not negative."""
    return lax.dynamic_update_index_in_dim(buffer, x, index, 0, allow_negative_indices=False)
