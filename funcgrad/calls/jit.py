"""jit: a jitted function has a forward and a backward program, both jitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from funcgrad import _jax
from funcgrad.called import of_jaxpr
from funcgrad.calls.entering import defcall
from funcgrad.fusion import Fusion
from funcgrad.partition.split import Call, Split, split_of
from funcgrad.registry import Rules
from funcgrad.tape import FrozenTape


def inlined_when_staged(params: dict[str, Any], staged: bool) -> bool:
    """A jitted function marked ``inline`` is inlined when staging, as JAX does."""
    return staged and _jax.is_inlined(params)


@defcall(_jax.jit_p, function=of_jaxpr(own_lines=False), inlined=inlined_when_staged)
def jit_call(
    primitive: Any, params: dict[str, Any], differentiated: tuple[bool, ...], rules: Rules
) -> JitProgram:
    """A jitted function's forward program and its backward program."""
    return JitProgram(split_of(params["jaxpr"], differentiated, rules), params)


@dataclass(frozen=True, eq=False)
class SplitProgram:
    """What calls have in common whose function is cut in two by what the rules read."""

    split: Split

    @property
    def closes_over_tracer(self) -> bool:
        """Whether no cache may keep this."""
        return self.split.closes_over_tracer

    @property
    def present(self) -> _jax.Mask:
        """Which outputs carry a gradient."""
        return self.split.present

    @property
    def inner(self) -> Mapping[str, FrozenTape]:
        """The function's own tape."""
        return {"body": self.split.tape}

    @property
    def fusion(self) -> Fusion | None:
        """What XLA can fuse of the backward program."""
        return self.split.fusion

    @property
    def late(self) -> bool:
        """The backward program takes cotangents of the outputs' own shapes."""
        return False


@dataclass(frozen=True, eq=False)
class JitProgram(SplitProgram):
    """Calls the forward and the backward program of a jitted function, both jitted."""

    params: dict[str, Any]

    def forward(self, primals: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The outputs, and what the backward program reads."""
        return self.split.run_forward(primals, self.params)

    def __call__(self, residuals: Sequence[Any], cts: Sequence[Any], eager: bool) -> Sequence[Any]:
        def run(call: Call, args: Sequence[Any]) -> list[Any]:
            return call(args, self.params, shared=False)

        return self.split.apply_backward(residuals, cts, run)
