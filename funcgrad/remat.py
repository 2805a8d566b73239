"""jax.checkpoint: what its policy does not save is computed again for the backward program.

The function is split as a jitted one is. From the residuals that its backward program reads we walk
back to what is there anyway (inputs) or what the policy saves; the operations between are replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax

from funcgrad import _jax, errors
from funcgrad.custom import TangentTrace
from funcgrad.mincut import equations_between
from funcgrad.partition import Call, Split, StagedPullback, split_of
from funcgrad.program import cached
from funcgrad.registry import Rules
from funcgrad.tape import TapeTrace


def remat_call(trace: TapeTrace, primitive: Any, tracers: Any, params: dict[str, Any]) -> Any:
    """Run a checkpointed function and write it down with a backward program that recomputes."""
    primals, slots = trace.split(tracers)
    jaxpr = params["jaxpr"]
    if isinstance(trace, TangentTrace):
        with _jax.set_current_trace(trace):
            return _jax.eval_jaxpr(jaxpr, tracers)
    differentiated = tuple(slot is not None for slot in slots)
    with errors.located_at(_jax.current_where):
        program = program_of_remat(
            jaxpr, differentiated, trace.rules, params["policy"], params["prevent_cse"]
        )
    outs, residuals = program.forward(primals)
    if not any(program.split.present):
        return outs
    return trace.record(primitive, params, slots, outs, program.split.present, program, residuals)


@cached(_jax.weak_cache)
def program_of_remat(
    jaxpr: _jax.Jaxpr, differentiated: tuple[bool, ...], rules: Rules, policy: Any, barrier: Any
) -> RematProgram:
    """Split the function and find what must be kept and what can be computed again."""
    closed = _jax.close(jaxpr if policy is None else _jax.without_inner_jits(jaxpr))
    split = split_of(closed, differentiated, rules)
    forward = split.forward.closed.jaxpr
    leaves = split.residual_variables()
    saved = {v for eqn in forward.eqns if _jax.is_saved_by(policy, eqn) for v in eqn.outvars}
    known = {*saved, *forward.invars}
    replayed = equations_between(forward.eqns, known, _jax.variables(leaves))
    read = _jax.variables([*leaves, *(v for eqn in replayed for v in eqn.invars)])
    closed_over = set(forward.invars[: len(split.forward.consts)])
    kept = dict.fromkeys(v for v in read if v in known and v not in closed_over)
    return RematProgram(split, tuple(kept), tuple(replayed), tuple(leaves), bool(barrier))


@dataclass(frozen=True, eq=False)
class RematProgram(StagedPullback):
    """The forward program, and the backward program that begins by computing again.

    Attributes:
      split: the function, cut in two.
      kept: variables of the forward jaxpr whose values are the residuals.
      replayed: equations of the forward jaxpr that are computed again.
      leaves: variables that the backward program proper reads.
      barrier: keep XLA from finding out that these are the same computations.
    """

    split: Split
    kept: tuple[Any, ...]
    replayed: tuple[Any, ...]
    leaves: tuple[Any, ...]
    barrier: bool
    programs: dict[Any, Callable[..., Any]] = field(default_factory=dict)

    @property
    def closes_over_tracer(self) -> bool:
        """Whether no cache may keep this."""
        return self.split.closes_over_tracer

    def forward(self, primals: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Outputs and residuals."""
        jaxpr = self.split.forward.closed.jaxpr
        inputs = dict(zip(jaxpr.invars, [*self.split.forward.consts, *primals], strict=True))
        computed = [v for v in self.kept if v not in inputs]
        if "forward" not in self.programs:
            outvars = [*jaxpr.outvars[: len(self.split.slots)], *computed]
            forward = _jax.prune_keeping_inputs(jaxpr.replace(outvars=outvars))
            call = Call(forward, self.split.forward.consts, "checkpointed")
            self.programs["forward"] = lambda *primals: call.jitted(*call.consts, *primals)
        results = self.programs["forward"](*primals)
        outs = results[: len(self.split.slots)]
        found = inputs | dict(zip(computed, results[len(outs) :], strict=True))
        return outs, [found[v] for v in self.kept]

    def trace_backward(self, residuals: list[Any], cts: list[Any]) -> list[Any]:
        """The operands' cotangents, after computing again what was not kept."""
        return self.split.apply_backward(self.recompute(residuals), cts, Call.inline)

    def recompute(self, residuals: Sequence[Any]) -> list[Any]:
        """The leaves of the backward program, from the residuals."""
        if self.barrier and residuals:
            residuals = jax.lax.optimization_barrier(list(residuals))
        jaxpr = self.split.forward.closed.jaxpr
        known = dict(zip(jaxpr.invars, self.split.forward.consts, strict=False))
        known |= dict(zip(self.kept, residuals, strict=True))
        return _jax.eval_equations(self.replayed, known, self.leaves)
