"""Online checkpointing: which states of a loop of unknown length to keep in a fixed number of slots.

Each checkpoint has a level. One is dispensable if a later one has a higher level. A new checkpoint takes
an empty slot, else that of a dispensable one, else that of the latest, whose level it raises by one. For
every length this repeats no step more often than the best schedule made with the length known
(Wang, Moin and Iaccarino, "Minimal repetition dynamic checkpointing algorithm for unsteady adjoint
calculation", 2009).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

EMPTY = -1
BOTTOM = 2**30
"""The level of the first checkpoint, which is never dispensable."""


class Slots(NamedTuple):
    """Checkpoints, in no order.

    Attributes:
      times: when each was taken, or EMPTY.
      levels: the level of each.
      states: the states, stacked along a leading axis.
    """

    times: Any
    levels: Any
    states: list[Any]

    @classmethod
    def empty(cls, count: int, like: Sequence[Any]) -> Slots:
        """`count` empty slots for states like this one."""
        times = jnp.full(count, EMPTY, jnp.int32)
        levels = jnp.zeros(count, jnp.int32)
        return cls(times, levels, [lax.broadcast(x, (count,)) for x in like])

    def put(self, time: Any, state: Sequence[Any]) -> Slots:
        """Take a checkpoint that is later than all others."""
        later = self.times[None, :] > self.times[:, None]
        highest = jnp.max(jnp.where(later, self.levels[None, :], EMPTY), axis=1)
        vacant = self.times == EMPTY
        dispensable = ~vacant & (self.levels < highest)
        latest = jnp.argmax(self.times)
        # of vacant, dispensable and latest slots the first kind that there is
        rank = jnp.where(vacant, 2, jnp.where(dispensable, 1, 0))
        promoted = ~jnp.any(rank > 0)
        slot = jnp.where(promoted, latest, jnp.argmax(rank))
        level = jnp.where(promoted, self.levels[slot] + 1, 0)
        level = jnp.where(time == 0, BOTTOM, level).astype(jnp.int32)
        return Slots(
            self.times.at[slot].set(time),
            self.levels.at[slot].set(level),
            [
                lax.dynamic_update_index_in_dim(old, new, slot, 0)
                for old, new in zip(self.states, state, strict=True)
            ],
        )

    def latest(self) -> tuple[Any, list[Any]]:
        """The time of the latest checkpoint, and its state."""
        slot = jnp.argmax(self.times)
        states = [lax.dynamic_index_in_dim(x, slot, 0, keepdims=False) for x in self.states]
        return self.times[slot], states

    def drop_from(self, time: Any) -> Slots:
        """Empty the slots of checkpoints taken at `time` or later."""
        return self._replace(times=jnp.where(self.times >= time, EMPTY, self.times))
