"""Primitives that carry a jaxpr: differentiated as a whole, as a forward and a backward program.

The jaxpr is traced once with our tape; what its rules read becomes extra outputs of the forward
program (unless it is an input or an output already) and the backward program is the walk over that
tape. Both are cached per (jaxpr, which inputs, rules), so a function called 24 times is traced once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax

from funcgrad import _jax
from funcgrad.backward import walk
from funcgrad.registry import Rules
from funcgrad.rule_program import cached
from funcgrad.tape import FrozenTape, freeze, record


@dataclass(frozen=True)
class Source:
    """Where a residual comes from: an ``input``, an ``output`` or an ``extra`` output."""

    kind: str
    index: int


class Call:
    """A jaxpr to be called as a jitted function, with its constants."""

    def __init__(self, jaxpr: _jax.Jaxpr, consts: Sequence[Any], name: str):
        self.closed = _jax.close(jaxpr)
        self.consts = tuple(consts)
        self.jitted = _jax.jitted(self.closed, name)

    @property
    def closes_over_tracer(self) -> bool:
        return any(isinstance(const, _jax.Tracer) for const in self.consts)

    def __call__(self, args: Sequence[Any], params: dict[str, Any], shared: bool) -> list[Any]:
        """Run it with the settings of the user's jitted call."""
        args = [*self.consts, *args]
        if _jax.has_settings(params):
            return _jax.bind_jit(self.closed, args, params, shared)
        return self.jitted(*args)

    def inline(self, args: Sequence[Any]) -> list[Any]:
        """Run its operations where we are, inside another program."""
        return _jax.eval_closed_jaxpr(self.closed, [*self.consts, *args])


@dataclass(frozen=True, eq=False)
class Split:
    """A jaxpr cut in two.

    Attributes:
      forward: inputs -> (outputs, extra residuals).
      tape: the tape that the backward program walks.
      slots: of the outputs on that tape.
      sources: where each residual that the backward program reads is found.
      leaves: which leaf of the tape each residual is.
      leaf_avals: the types of all leaves.
      backwards: backward programs by which cotangents arrive.
    """

    forward: Call
    tape: FrozenTape
    slots: tuple[int | None, ...]
    num_inputs: int
    sources: tuple[Source, ...]
    leaves: tuple[int, ...]
    leaf_avals: tuple[Any, ...]
    input_avals: tuple[Any, ...]
    backwards: dict[tuple[bool, ...], Backward] = field(default_factory=dict)

    @property
    def closes_over_tracer(self) -> bool:
        """Whether no cache may keep this."""
        return self.forward.closes_over_tracer or (any(self.present) and not self.backwards)

    @property
    def present(self) -> list[bool]:
        return [slot is not None for slot in self.slots]

    @property
    def inputs(self) -> list[Any]:
        """The forward jaxpr's variables for the inputs, without the constants that it closes over."""
        return self.forward.closed.jaxpr.invars[len(self.forward.consts) :]

    def run_forward(
        self, primals: Sequence[Any], params: dict[str, Any]
    ) -> tuple[list[Any], list[Any]]:
        """The outputs and the residuals."""
        return self.find_residuals(primals, self.forward(primals, params, shared=True))

    def residual_variables(self) -> list[Any]:
        """The forward jaxpr's variables whose values are the residuals."""
        jaxpr = self.forward.closed.jaxpr
        extra = jaxpr.outvars[len(self.slots) :]
        found = {"input": jaxpr.invars, "output": jaxpr.outvars, "extra": extra}
        return [found[s.kind][s.index] for s in self.sources]

    def inline_forward(self, primals: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The same, computed where we are, inside another program."""
        return self.find_residuals(primals, self.forward.inline(primals))

    def find_residuals(
        self, primals: Sequence[Any], results: Sequence[Any]
    ) -> tuple[list[Any], list[Any]]:
        """Outputs and residuals, from the forward program's inputs and results."""
        outs, extra = list(results[: len(self.slots)]), results[len(self.slots) :]
        found = {"input": [*self.forward.consts, *primals], "output": outs, "extra": extra}
        return outs, [found[s.kind][s.index] for s in self.sources]

    def backward(self, arrived: tuple[bool, ...]) -> Backward | None:
        """The backward program for a pattern of cotangents; None if it reads what was not kept."""
        if arrived in self.backwards:
            return self.backwards[arrived]
        program = stage_backward(self, arrived)
        if not set(program.leaves) <= set(self.leaves):
            return None
        if not program.call.closes_over_tracer:
            self.backwards[arrived] = program
        return program

    def apply_backward(
        self,
        residuals: Sequence[Any],
        cts: Sequence[Any],
        run: Callable[[Call, Sequence[Any]], list[Any]],
    ) -> list[Any]:
        """Cotangents of the differentiated inputs, in order, by `run`-ning the backward program."""
        program = self.backward(tuple(ct is not None for ct in cts))
        if program is None:
            cts = self.instantiated(cts)
            program = self.backward(tuple(ct is not None for ct in cts))
            assert program is not None
        by_leaf = dict(zip(self.leaves, residuals, strict=True))
        kept = [by_leaf[leaf] for leaf in program.leaves]
        results = iter(run(program.call, [*kept, *(ct for ct in cts if ct is not None)]))
        return [next(results) if there else None for there in program.present]

    def instantiated(self, cts: Sequence[Any]) -> list[Any]:
        """Zeros for what did not arrive: for a program that then reads more than it does otherwise."""
        return [
            _jax.zeros(self.tape.avals[slot]) if ct is None and slot is not None else ct
            for ct, slot in zip(cts, self.slots, strict=True)
        ]


@dataclass(frozen=True)
class Backward:
    """(residuals, cotangents that arrived) -> input cotangents that are not None."""

    call: Call
    leaves: tuple[int, ...]
    present: tuple[bool, ...]


class StagedPullback:
    """A node's pullback that is traced once for each pattern of cotangents, and jitted."""

    programs: dict[Any, Callable[..., Any]]
    late = False

    def __call__(self, residuals: Sequence[Any], cts: Sequence[Any], eager: bool) -> list[Any]:
        arrived = tuple(ct is not None for ct in cts)
        if arrived not in self.programs:

            def backward(residuals: list[Any], given: list[Any]) -> list[Any]:
                ct_outs = iter(given)
                cts = [next(ct_outs) if there else None for there in arrived]
                return self.trace_backward(residuals, cts)

            self.programs[arrived] = jax.jit(backward)
        return self.programs[arrived](list(residuals), [ct for ct in cts if ct is not None])

    def jitted_forward(self, *primals: Any) -> Any:
        """What `trace_forward` gives, of a pullback that has one: traced once, and jitted."""
        if "forward" not in self.programs:
            self.programs["forward"] = jax.jit(self.trace_forward)
        return self.programs["forward"](*primals)

    def trace_forward(self, *primals: Any) -> Any:
        """The outputs, and what the backward program needs of the forward one."""
        raise NotImplementedError

    def trace_backward(self, residuals: list[Any], cts: list[Any]) -> list[Any]:
        """The operands' cotangents, from the residuals and the outputs' cotangents."""
        raise NotImplementedError


@cached(_jax.weak_cache)
def split_of(closed: _jax.ClosedJaxpr, wanted: tuple[bool, ...], rules: Rules) -> Split:
    """Trace forward and backward programs of a jaxpr."""
    description = _jax.function_of(closed)
    traced: dict[str, Any] = {}

    def forward(*primals: Any) -> list[Any]:
        def run(*args: Any) -> list[Any]:
            return _jax.eval_closed_jaxpr(closed, args)

        outs, slots, tape = record(run, primals, wanted, rules, description)
        frozen, leaves = freeze(tape)
        traced.update(slots=tuple(slots), tape=frozen)
        return [*outs, *leaves]

    name = description.split(" at ")[0]
    jaxpr, consts = _jax.stage(forward, closed.in_avals, f"{name}:forward")
    num_outs = len(closed.out_avals)
    leaf_vars = jaxpr.outvars[num_outs:]
    whole = Split(
        Call(jaxpr, consts, name),
        traced["tape"],
        traced["slots"],
        sum(wanted),
        (),
        tuple(range(len(leaf_vars))),
        tuple(v.aval for v in leaf_vars),
        tuple(closed.in_avals),
    )
    if not any(whole.present):
        return whole
    program = stage_backward(whole, tuple(whole.present))
    return keep_residuals(whole, jaxpr, program, name)


def keep_residuals(whole: Split, jaxpr: _jax.Jaxpr, program: Backward, name: str) -> Split:
    """Keep the residuals that the backward program reads; give each value out once."""
    num_outs = len(whole.slots)
    known = {id(v): Source("input", i) for i, v in enumerate(jaxpr.invars)}
    for i, v in enumerate(jaxpr.outvars[:num_outs]):
        known.setdefault(id(v), Source("output", i))
    extra: list[Any] = []
    sources = []
    for leaf in program.leaves:
        v = jaxpr.outvars[num_outs + leaf]
        if id(v) not in known:
            known[id(v)] = Source("extra", len(extra))
            extra.append(v)
        sources.append(known[id(v)])
    outvars = [*jaxpr.outvars[:num_outs], *extra]
    forward = _jax.prune_keeping_inputs(jaxpr.replace(outvars=outvars))
    return Split(
        Call(forward, whole.forward.consts, name),
        whole.tape,
        whole.slots,
        whole.num_inputs,
        tuple(sources),
        program.leaves,
        whole.leaf_avals,
        whole.input_avals,
        {} if program.call.closes_over_tracer else {tuple(whole.present): program},
    )


def stage_backward(split: Split, arrived: tuple[bool, ...]) -> Backward:
    """Trace the walk over the tape for the cotangents that arrive."""
    num_leaves = len(split.leaf_avals)
    slots = [s for s, there in zip(split.slots, arrived, strict=True) if there and s is not None]
    present: list[bool] = []

    def backward(*flat: Any) -> list[Any]:
        seeds = zip(slots, flat[num_leaves:], strict=True)
        cts = walk(split.tape.thaw(flat[:num_leaves]), seeds, range(split.num_inputs), consume=True)
        present.extend(ct is not None for ct in cts)
        return [ct for ct in cts if ct is not None]

    ct_avals = [_jax.strong(_jax.cotangent_aval(split.tape.avals[slot])) for slot in slots]
    jaxpr, consts = _jax.stage(backward, [*split.leaf_avals, *ct_avals], "backward")
    num_consts = len(consts)
    keep_cts = [False] * (num_consts + num_leaves) + [True] * len(ct_avals)
    jaxpr, used = _jax.prune(jaxpr, [True] * len(jaxpr.outvars), keep_cts)
    used_consts = [c for c, keep in zip(consts, used[:num_consts], strict=True) if keep]
    return Backward(
        Call(jaxpr, used_consts, "backward"),
        tuple(i for i, keep in enumerate(used[num_consts : num_consts + num_leaves]) if keep),
        tuple(present),
    )
