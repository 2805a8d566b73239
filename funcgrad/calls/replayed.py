"""Calls that run as they are: a backward program computes again what it reads.

The forward is the user's own, untouched, so that what recognises it still does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from funcgrad import _jax
from funcgrad.called import of_jaxpr
from funcgrad.calls.checkpoint import RematProgram, program_of_remat
from funcgrad.calls.entering import defcall
from funcgrad.registry import Rules
from funcgrad.tape import FrozenTape


@defcall(
    _jax.composite_p,
    _jax.custom_partitioning_p,
    function=of_jaxpr(),
)
def replayed_call(
    primitive: Any, params: dict[str, Any], differentiated: tuple[bool, ...], rules: Rules
) -> ReplayedProgram:
    """composite and custom_partitioning."""
    return ReplayedProgram(replay_of(params, differentiated, rules), primitive, params)


def replay_of(
    params: dict[str, Any], differentiated: tuple[bool, ...], rules: Rules
) -> RematProgram:
    """The backward program that starts from a call's operands."""
    closed = _jax.close(params[_jax.jaxpr_param(params)])
    return program_of_remat(closed.jaxpr, differentiated, rules, None, False)


@dataclass(frozen=True, eq=False)
class ReplayedProgram:
    """The user's call, and a backward program that computes its function again."""

    replay: RematProgram
    primitive: Any
    params: dict[str, Any]
    late: bool = False

    @property
    def present(self) -> _jax.Mask:
        """Which outputs carry a gradient."""
        return self.replay.present

    @property
    def inner(self) -> Mapping[str, FrozenTape]:
        """The function's own tape."""
        return self.replay.inner

    def forward(self, primals: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The outputs of the user's call, and the operands that the backward program reads."""
        outs = self.primitive.bind(*primals, **self.params)
        outs = outs if self.primitive.multiple_results else [outs]
        return list(outs), inputs_kept(self.replay, primals)

    def __call__(self, residuals: Sequence[Any], cts: Sequence[Any], eager: bool) -> Sequence[Any]:
        return self.replay(residuals, cts, eager)


def inputs_kept(program: RematProgram, primals: Sequence[Any]) -> list[Any]:
    """The operands that a program reads which computes the rest again."""
    inputs = dict(zip(program.inputs, primals, strict=True))
    return [inputs[v] for v in program.plan.kept]
