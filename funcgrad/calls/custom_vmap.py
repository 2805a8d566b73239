"""custom_vmap: batched, its gradient is the gradient of the user's batching rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from funcgrad import _jax
from funcgrad.backward import walk
from funcgrad.called import of_jaxpr
from funcgrad.calls.checkpoint import RematProgram
from funcgrad.calls.entering import defcall
from funcgrad.calls.replayed import inputs_kept, replay_of
from funcgrad.masks import either
from funcgrad.partition.split import StagedPullback
from funcgrad.registry import Rules
from funcgrad.tape import FrozenTape, record


@defcall(_jax.custom_vmap_p, function=of_jaxpr())
def custom_vmap_call(
    primitive: Any, params: dict[str, Any], differentiated: tuple[bool, ...], rules: Rules
) -> CustomVmapProgram:
    """A custom_vmap function, and a pullback that is one too."""
    wanted = tuple(i for i, there in enumerate(differentiated) if there)
    replay = replay_of(params, differentiated, rules)
    return CustomVmapProgram(replay, wanted, primitive, params, rules)


@dataclass(frozen=True, eq=False)
class CustomVmapProgram(StagedPullback):
    """The user's call; its pullback is itself a custom_vmap function.

    Attributes:
      program: the pullback of one element.
      wanted: positions of the differentiated operands.
      primitive: the user's call, with its params.
    """

    program: RematProgram
    wanted: tuple[int, ...]
    primitive: Any
    params: dict[str, Any]
    rules: Rules
    programs: dict[Any, Any] = field(default_factory=dict)

    @property
    def present(self) -> _jax.Mask:
        """Which outputs carry a gradient."""
        return self.program.present

    @property
    def inner(self) -> Mapping[str, FrozenTape]:
        """The function's own tape."""
        return self.program.inner

    @property
    def rule(self) -> Any:
        """The user's batching rule."""
        return self.params["rule"]

    @property
    def in_tree(self) -> Any:
        """What the operands are leaves of: closed-over values, and the arguments."""
        return self.params["in_tree"]

    def forward(self, primals: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The outputs of the user's call, and all operands."""
        return list(self.primitive.bind(*primals, **self.params)), list(primals)

    def trace_backward(self, residuals: list[Any], cts: list[Any]) -> list[Any]:
        """The operands' cotangents, by a function that knows how to be batched."""
        backward = jax.custom_batching.custom_vmap(self.backward)
        backward.def_vmap(self.batched_backward)
        return backward(residuals, cts)

    def backward(self, primals: list[Any], cts: list[Any]) -> list[Any]:
        """Cotangents of one element."""
        kept = inputs_kept(self.program, primals)
        results = self.program.trace_backward(kept, cts)
        return self.instantiated(results, primals)

    def instantiated(self, results: Sequence[Any], primals: Sequence[Any]) -> list[Any]:
        """The operands' cotangents, zeros for one that did not arrive."""
        return _jax.instantiated(results, [_jax.typeof(primals[i]) for i in self.wanted])

    def batched_backward(
        self, axis_size: int, in_batched: Any, primals: list[Any], cts: list[Any]
    ) -> tuple[list[Any], list[bool]]:
        """Cotangents of a batch: a walk over the tape of the user's batching rule."""
        batched, cts_batched = in_batched
        if min(self.wanted) < self.in_tree.children()[0].num_leaves:  # a value closed over
            axes = jax.tree.map(lambda there: 0 if there else None, [batched, cts_batched])
            results = jax.vmap(self.backward, axes, axis_size=axis_size)(primals, cts)
            return results, [True] * len(results)

        def stacked(x: Any) -> Any:
            return jnp.broadcast_to(x, (axis_size, *jnp.shape(x)))

        mask = [i in self.wanted for i in range(len(primals))]
        flags = either(batched, mask)
        primals = [
            stacked(x) if wanted and not there else x
            for x, there, wanted in zip(primals, batched, mask, strict=True)
        ]
        outs_batched: list[bool] = []

        def run(*operands: Any) -> list[Any]:
            args, which = self.in_tree.unflatten(operands), self.in_tree.unflatten(flags)
            outs, there = self.rule(axis_size, list(which), *args)
            outs_batched[:] = jax.tree.leaves(there)
            return jax.tree.leaves(outs)

        _, slots, tape = record(run, primals, mask, self.rules, "a batching rule")
        seeds = []
        for slot, ct, there, expected in zip(slots, cts, cts_batched, outs_batched, strict=True):
            if ct is not None and expected and not there:
                ct = stacked(ct)
            elif ct is not None and there and not expected:
                ct = jnp.sum(ct, 0)
            seeds.append((slot, ct))
        results = walk(tape, seeds, range(len(self.wanted)), consume=True)
        return self.instantiated(results, primals), [True] * len(results)
