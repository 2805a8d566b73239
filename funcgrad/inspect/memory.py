"""What checkpointed functions keep and compute again, beside what XLA allocates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax

from funcgrad import _jax
from funcgrad.calls.checkpoint import RematProgram
from funcgrad.default import DEFAULT
from funcgrad.inspect.observe import tape_of
from funcgrad.partition.budget import Estimate, Search
from funcgrad.registry import Rules
from funcgrad.surface import public
from funcgrad.tape import FrozenTape, walk_nodes
from funcgrad.transforms import vjp


@dataclass(frozen=True)
class Region:
    """A checkpointed function within a function.

    Attributes:
      name: ``name at file:line`` of the function.
      estimate: bytes kept, bytes alive at most, and operations computed again.
      everything: the same if nothing were computed again.
    """

    name: str
    estimate: Estimate
    everything: Estimate


@dataclass(frozen=True)
class Memory:
    """What a gradient takes; printed, a table.

    Attributes:
      regions: the checkpointed functions, in the order of the program.
      temp_size_in_bytes: XLA's own count of temporary memory for the whole gradient, or None where
        its backend does not say.
    """

    regions: tuple[Region, ...]
    temp_size_in_bytes: int | None

    def __str__(self) -> str:
        lines = [
            f"{region.name}: keeps {region.estimate.kept:,} of {region.everything.kept:,} bytes, "
            f"at most {region.estimate.peak:,} alive, repeats {region.estimate.repeated:.3g} operations"
            for region in self.regions
        ]
        found = self.temp_size_in_bytes
        xla = "not known" if found is None else f"{found:,} bytes"
        return "\n".join([*lines, f"XLA's temporary memory for the whole gradient: {xla}"])


@public
def memory(fun: Callable[..., Any], *args: Any, rules: Rules = DEFAULT) -> Memory:
    """Estimate what the checkpointed functions in `fun` keep, and ask XLA what the gradient takes.

    Args:
      fun: a function of pytrees of arrays; its gradient by all floating-point leaves is compiled.
      *args: its arguments, or ``jax.ShapeDtypeStruct`` in their place.
      rules: the backward rules.

    Returns:
      A :class:`Memory`; sizes in bytes, estimated without inputs and results.

    Example:
      >>> import jax, jax.numpy as jnp, funcgrad
      >>> layer = jax.checkpoint(lambda w, x: jnp.tanh(jnp.tanh(w @ x) @ x))
      >>> found = funcgrad.inspect.memory(layer, jnp.ones((8, 8)), jnp.ones((8, 8)))
      >>> found.regions[0].estimate.kept, found.regions[0].everything.kept > 0
      (0, True)
    """

    def gradient(*args: Any) -> Any:
        out, pullback = vjp(fun, *args, rules=rules)
        return pullback(jax.tree.map(_jax.seed_like, out))

    tape = tape_of(fun, *args, rules=rules.quietly())  # the gradient reports
    compiled = jax.jit(gradient).lower(*args).compile()
    analysis = compiled.memory_analysis()
    return Memory(
        tuple(_regions(tape)),
        None if analysis is None else analysis.temp_size_in_bytes,
    )


def _regions(tape: FrozenTape) -> Iterator[Region]:
    """The checkpointed functions that were recorded, in order."""
    for node in walk_nodes(tape):
        program = node.pullback
        if isinstance(program, RematProgram):
            search = Search(program.plan.joint, program.inputs)
            everything = search.estimate(search.everything())
            yield Region(str(node.op), search.estimate(program.plan), everything)
