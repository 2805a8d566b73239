"""Calls that say something to the compiler besides: their programs are calls of the same primitive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from funcgrad import _jax
from funcgrad.called import of_jaxpr
from funcgrad.calls.entering import ProgramOf, defcall
from funcgrad.calls.jit import SplitProgram
from funcgrad.masks import select
from funcgrad.partition.split import Call, split_of
from funcgrad.registry import Rules

Settings = Callable[[dict[str, Any], Call, bool], dict[str, Any]]
"""Params of the forward program's call (if true) or of the backward program's, from the user's."""


@dataclass(frozen=True, eq=False)
class WrappedProgram(SplitProgram):
    """Calls a primitive with the forward and the backward program of its function.

    Attributes:
      split: the function, cut in two.
      primitive: what is called; None for a call that says nothing besides, which is jitted.
      params: of the user's call.
      settings: what the programs' calls have in the place of some of these.
    """

    primitive: Any
    params: dict[str, Any]
    settings: Settings

    def forward(self, primals: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The outputs, and what the backward program reads."""
        results = self.run(self.split.forward, primals, True)
        return self.split.find_residuals(primals, results)

    def run(self, call: Call, args: Sequence[Any], forward: bool) -> list[Any]:
        """Call one of the two programs."""
        if self.primitive is None and _jax.compiles(call.closed.jaxpr):
            return call.jitted(*call.consts, *args)
        if self.primitive is None:
            return _jax.eval_closed_jaxpr(call.closed, [*call.consts, *args])
        own = {
            _jax.jaxpr_param(self.params): call.closed,
            **self.settings(self.params, call, forward),
        }
        return self.primitive.bind(*call.consts, *args, **{**self.params, **own})

    def __call__(self, residuals: Sequence[Any], cts: Sequence[Any], eager: bool) -> list[Any]:
        return self.split.apply_backward(
            residuals, cts, lambda call, args: self.run(call, args, False)
        )


def wrapped(settings: Settings | None) -> ProgramOf:
    """A call whose forward and backward programs are run by the same primitive.

    Args:
      settings: a function from the call's params, the program that is called, and whether that is the
        forward one, to params in which this call differs; None for a call that says nothing
        besides, whose programs are jitted.

    Returns:
      A function for ``defcall``.

    Example:
      :func:`defcall` has one.
    """

    def program_of(
        primitive: Any, params: dict[str, Any], differentiated: tuple[bool, ...], rules: Rules
    ) -> WrappedProgram:
        closed = _jax.close(params[_jax.jaxpr_param(params)])
        split = split_of(closed, differentiated, rules)
        return WrappedProgram(
            split, primitive if settings else None, params, settings or with_the_same
        )

    return program_of


def with_the_same(params: dict[str, Any], call: Call, forward: bool) -> dict[str, Any]:
    """What the user's call has: the backward program of a scheduling group is of the group too."""
    return {}


def with_memory_spaces(params: dict[str, Any], call: Call, forward: bool) -> dict[str, Any]:
    """compute_on: what the user did not name stays in the memory where it is."""
    named = params["out_memory_spaces"] if forward else ()
    others = [aval.memory_space for aval in call.closed.out_avals[len(named) :]]
    return {"out_memory_spaces": (*named, *others)}


def with_metadata(params: dict[str, Any], call: Call, forward: bool) -> dict[str, Any]:
    """xla_metadata_call: the user may have other metadata for what is derived."""
    derived = params["ad_metadata"]
    if forward or derived == "same":
        return {}
    return {"xla_metadata": derived, "ad_metadata": "same"}


def with_excluded(params: dict[str, Any], call: Call, forward: bool) -> dict[str, Any]:
    """program_order: inputs that need not wait; of the backward program's, all wait."""
    mask = params["exclude_mask"] if forward else ()
    num_inputs = len(call.closed.in_avals)
    return {"exclude_mask": (*(False,) * (num_inputs - len(mask)), *mask)}


def with_output_spaces(params: dict[str, Any], call: Call, forward: bool) -> dict[str, Any]:
    """fused_call: what the user did not name lies in the memory of the device."""
    named = params["out_spaces"] if forward else ()
    others = len(call.closed.out_avals) - len(named)
    return {"out_spaces": (*named, *[_jax.DEVICE] * others)}


@dataclass(frozen=True, eq=False)
class FusedProgram(WrappedProgram):
    """fused_call: each cotangent lies in the memory of its operand.

    Attributes:
      spaces: the memories of the differentiated operands, once the forward program has run.
    """

    differentiated: tuple[bool, ...] = ()
    spaces: list[Any] = field(default_factory=list)

    def forward(self, primals: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The outputs, and what the backward program reads."""
        self.spaces[:] = map(_jax.memory_space, select(primals, self.differentiated))
        return super().forward(primals)

    def __call__(self, residuals: Sequence[Any], cts: Sequence[Any], eager: bool) -> list[Any]:
        results = zip(super().__call__(residuals, cts, eager), self.spaces, strict=True)
        return [None if ct is None else _jax.in_memory(ct, space) for ct, space in results]


@defcall(_jax.fused_p, function=of_jaxpr())
def fused_call(
    primitive: Any, params: dict[str, Any], differentiated: tuple[bool, ...], rules: Rules
) -> FusedProgram:
    """A fused function's forward program and its backward program, both fused."""
    split = split_of(params["jaxpr"], differentiated, rules)
    return FusedProgram(split, primitive, params, with_output_spaces, differentiated)


plain_call = defcall(
    _jax.eval_jaxpr_p,
    _jax.remat_opt_p,
    function=of_jaxpr(),
)(wrapped(None))
compute_on_call = defcall(_jax.compute_on_p, function=of_jaxpr())(wrapped(with_memory_spaces))
scheduling_group_call = defcall(_jax.scheduling_group_call_p, function=of_jaxpr())(
    wrapped(with_the_same)
)
xla_metadata_call = defcall(_jax.xla_metadata_call_p, function=of_jaxpr())(wrapped(with_metadata))
program_order_call = defcall(_jax.program_order_p, function=of_jaxpr())(wrapped(with_excluded))
