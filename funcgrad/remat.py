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
from funcgrad.partition import Call, Split, make_split
from funcgrad.program import Uncacheable
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
    with errors.located_at(_jax.where(_jax.current_source())):
        program = program_of_remat(
            jaxpr, differentiated, trace.rules, params["policy"], params["prevent_cse"]
        )
    outs, residuals = program.forward(primals)
    if not any(program.split.present):
        return outs
    return trace.record(primitive, params, slots, outs, program.split.present, program, residuals)


def program_of_remat(*arguments: Any) -> RematProgram:
    """The programs of a checkpointed jaxpr, differentiating some inputs by some rules."""
    try:
        return _cached_program(*arguments)
    except Uncacheable as uncacheable:
        return uncacheable.program


@_jax.weak_cache
def _cached_program(*arguments: Any) -> RematProgram:
    program = make_program(*arguments)
    if program.split.closes_over_tracer:
        raise Uncacheable(program)
    return program


def make_program(
    jaxpr: _jax.Jaxpr, differentiated: tuple[bool, ...], rules: Rules, policy: Any, barrier: Any
) -> RematProgram:
    """Split the function and find what must be kept and what can be computed again."""
    closed = _jax.close(jaxpr if policy is None else _jax.without_inner_jits(jaxpr))
    split = make_split(closed, differentiated, rules)
    forward = split.forward.closed.jaxpr
    num_closed = len(split.forward.consts)
    leaves = split.residual_variables()
    producer = {v: eqn for eqn in forward.eqns for v in eqn.outvars}
    saved = {v for eqn in forward.eqns if _jax.is_saved_by(policy, eqn) for v in eqn.outvars}
    kept: dict[Any, None] = {}
    replayed: set[int] = set()
    waiting = [v for v in leaves if not isinstance(v, _jax.Literal)]
    while waiting:
        v = waiting.pop()
        if v in saved or v not in producer:
            kept[v] = None
        elif id(producer[v]) not in replayed:
            replayed.add(id(producer[v]))
            waiting += [w for w in producer[v].invars if not isinstance(w, _jax.Literal)]
    closed_over = set(forward.invars[:num_closed])
    return RematProgram(
        split,
        tuple(v for v in kept if v not in closed_over),
        tuple(eqn for eqn in forward.eqns if id(eqn) in replayed),
        tuple(leaves),
        bool(barrier),
    )


@dataclass(frozen=True, eq=False)
class RematProgram:
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
    late: bool = False

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

    def __call__(self, residuals: Sequence[Any], cts: Sequence[Any], eager: bool) -> list[Any]:
        arrived = tuple(ct is not None for ct in cts)
        present: list[bool] = []

        def backward(residuals: list[Any], given: list[Any]) -> list[Any]:
            ct_outs = iter(given)
            cts = [next(ct_outs) if there else None for there in arrived]
            results = self.split.apply_backward(self.recompute(residuals), cts, Call.inline)
            present.extend(ct is not None for ct in results)
            return [ct for ct in results if ct is not None]

        if arrived not in self.programs:
            program = jax.jit(backward)
            num_results = program.eval_shape(list(residuals), [ct for ct in cts if ct is not None])
            assert len(num_results) == sum(present)
            there = tuple(present)
            self.programs[arrived] = lambda *args: _spread(program(*args), there)
        return self.programs[arrived](list(residuals), [ct for ct in cts if ct is not None])

    def recompute(self, residuals: Sequence[Any]) -> list[Any]:
        """The leaves of the backward program, from the residuals."""
        if self.barrier and residuals:
            residuals = jax.lax.optimization_barrier(list(residuals))
        jaxpr = self.split.forward.closed.jaxpr
        known = dict(zip(jaxpr.invars, self.split.forward.consts, strict=False))
        known |= dict(zip(self.kept, residuals, strict=True))
        return _jax.eval_equations(self.replayed, known, self.leaves)


def _spread(results: Sequence[Any], there: Sequence[bool]) -> list[Any]:
    remaining = iter(results)
    return [next(remaining) if present else None for present in there]
