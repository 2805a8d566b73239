"""cond and switch, differentiated as a whole: each branch is split, and residuals are united.

The branch that ran gives out its residuals; in the places of those that only other branches have, it
puts zeros. Residuals of one type share a place. An operand of the branches is kept as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax

from funcgrad import _jax, errors
from funcgrad.custom import TangentTrace
from funcgrad.partition import Call, Split, StagedPullback, split_of
from funcgrad.program import cached
from funcgrad.registry import Rules
from funcgrad.tape import TapeTrace


def cond_call(trace: TapeTrace, primitive: Any, tracers: Any, params: dict[str, Any]) -> Any:
    """Run the branch's forward program and write down the switch with its backward programs."""
    (index, *primals), (_, *slots) = trace.split(tracers)
    if isinstance(trace, TangentTrace):
        raise errors.MissingRuleError(primitive, len(tracers), params, _jax.here())
    differentiated = tuple(slot is not None for slot in slots)
    with errors.located_at(_jax.where(_jax.current_source())):
        first, *others = params["branches"]
        program = program_of_branches(first, tuple(others), differentiated, trace.rules)
    outs, residuals = program.forward(index, primals)
    if not any(program.present):
        return outs
    return trace.record(
        primitive, params, slots, outs, program.present, program, [index, *residuals]
    )


@cached(_jax.weak_cache)
def program_of_branches(
    first: _jax.ClosedJaxpr,
    others: tuple[_jax.ClosedJaxpr, ...],
    differentiated: tuple[bool, ...],
    rules: Rules,
) -> BranchProgram:
    """The programs of a switch over jaxprs, differentiating some operands by some rules."""
    splits = [split_of(branch, differentiated, rules) for branch in (first, *others)]
    return BranchProgram(tuple(splits), differentiated)


@dataclass(frozen=True, eq=False)
class BranchProgram(StagedPullback):
    """The forward switch, and the backward switch as the node's pullback."""

    splits: tuple[Split, ...]
    differentiated: tuple[bool, ...]
    programs: dict[Any, Callable[..., Any]] = field(default_factory=dict)

    @property
    def closes_over_tracer(self) -> bool:
        """Whether no cache may keep this."""
        return any(split.closes_over_tracer for split in self.splits)

    @property
    def present(self) -> list[bool]:
        """Which outputs carry a gradient, by some branch."""
        return [any(there) for there in zip(*(s.present for s in self.splits), strict=True)]

    def forward(self, index: Any, primals: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Outputs, and residuals: all operands that a branch reads, then the united ones."""
        if "forward" not in self.programs:
            self.programs["forward"] = jax.jit(self.trace_forward)
        outs, united = self.programs["forward"](index, *primals)
        return outs, [*(primals[i] for i in self.operands_read()), *united]

    def trace_forward(self, index: Any, *primals: Any) -> tuple[list[Any], list[Any]]:
        """The forward switch."""
        pool = self.pool()

        def run(branch: int) -> Callable[..., Any]:
            def forward(*primals: Any) -> tuple[list[Any], list[Any]]:
                outs, residuals = self.splits[branch].inline_forward(primals)
                own = dict(zip(self.places(branch), residuals, strict=True))
                united = [
                    own[("pool", i)] if ("pool", i) in own else _jax.zeros(a) for i, a in pool
                ]
                return outs, united

            return forward

        return jax.lax.switch(index, [run(k) for k in range(len(self.splits))], *primals)

    def places(self, branch: int) -> list[tuple[str, int]]:
        """Where each residual of a branch is found: an operand, a closed-over value, the pool."""
        split = self.splits[branch]
        num_closed = len(split.forward.consts)
        taken: dict[Any, int] = {}
        places: list[tuple[str, int]] = []
        for source, leaf in zip(split.sources, split.leaves, strict=True):
            if source.kind == "input":
                closed = source.index < num_closed
                index = source.index if closed else source.index - num_closed
                places.append(("closed" if closed else "operand", index))
                continue
            aval = _jax.strong(split.leaf_avals[leaf])
            taken[aval] = taken.get(aval, -1) + 1
            places.append(("pool", self.pool_index(aval, taken[aval])))
        return places

    def pool(self) -> list[tuple[int, Any]]:
        """The united residuals: as many of each type as the branch that has most of it."""
        counts: dict[Any, int] = {}
        for split in self.splits:
            own: dict[Any, int] = {}
            for source, leaf in zip(split.sources, split.leaves, strict=True):
                if source.kind != "input":
                    aval = _jax.strong(split.leaf_avals[leaf])
                    own[aval] = own.get(aval, 0) + 1
            for aval, count in own.items():
                counts[aval] = max(count, counts.get(aval, 0))
        return list(enumerate(aval for aval, count in counts.items() for _ in range(count)))

    def pool_index(self, aval: Any, which: int) -> int:
        """The place of the `which`-th united residual of a type."""
        return [i for i, other in self.pool() if other == aval][which]

    def operands_read(self) -> list[int]:
        """The operands that some branch's backward program reads."""
        every = [place for k in range(len(self.splits)) for place in self.places(k)]
        return sorted({i for kind, i in every if kind == "operand"})

    def trace_backward(self, residuals: list[Any], cts: list[Any]) -> list[Any]:
        """The backward switch, on the residuals and the index that the forward one left."""
        index, *values = residuals
        read = self.operands_read()
        operands = dict(zip(read, values, strict=False))
        united = values[len(read) :]

        def run(branch: int) -> Callable[..., Any]:
            split = self.splits[branch]
            closed = split.forward.consts

            def backward(operands: Any, united: Any, cts: Any) -> list[Any]:
                found = {"operand": operands, "pool": united, "closed": closed}
                own = [found[kind][i] for kind, i in self.places(branch)]
                cts = [ct if there else None for ct, there in zip(cts, split.present, strict=True)]
                results: Sequence[Any] = [None] * sum(self.differentiated)
                if any(ct is not None for ct in cts):
                    results = split.apply_backward(own, cts, Call.inline)
                return [
                    _jax.zeros(aval) if ct is None else ct
                    for ct, aval in zip(results, self.ct_avals(), strict=True)
                ]

            return backward

        branches = [run(k) for k in range(len(self.splits))]
        return jax.lax.switch(index, branches, operands, united, cts)

    def ct_avals(self) -> list[Any]:
        """Types of the differentiated operands' cotangents."""
        avals = self.splits[0].input_avals
        return [
            _jax.strong(a) for a, there in zip(avals, self.differentiated, strict=True) if there
        ]
