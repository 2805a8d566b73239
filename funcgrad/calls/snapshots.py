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
        later = self.times[None, :] > self.times[:, None]
        highest = jnp.max(jnp.where(later, self.levels[None, :], EMPTY), axis=1)
        vacant = self.times == EMPTY
        dispensable = ~vacant & (self.levels < highest)
        latest = jnp.argmax(self.times)
        # of vacant, dispensable and latest places the first kind that there is
        rank = jnp.where(vacant, 2, jnp.where(dispensable, 1, 0))
        promoted = ~jnp.any(rank > 0)
        place = jnp.where(promoted, latest, jnp.argmax(rank))
        level = jnp.where(promoted, self.levels[place] + 1, 0)
        level = jnp.where(time == 0, BOTTOM, level).astype(jnp.int32)
        return Snapshots(
            self.times.at[place].set(time),
            self.levels.at[place].set(level),
            [
                lax.dynamic_update_index_in_dim(old, _jax.to_be_read_again(new), place, 0)
                for old, new in zip(self.states, state, strict=True)
            ],
        )

    def latest(self) -> tuple[Value, list[Value]]:
        """The time of the latest snapshot, and its state."""
        place = jnp.argmax(self.times)
        states = [lax.dynamic_index_in_dim(x, place, 0, keepdims=False) for x in self.states]
        return self.times[place], [_jax.to_be_read_again(x) for x in states]

    def drop_from(self, time: Value) -> Snapshots:
        """Empty the places of snapshots taken at `time` or later."""
        return self._replace(times=jnp.where(self.times >= time, EMPTY, self.times))
