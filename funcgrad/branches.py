"""cond and switch, differentiated as a whole: each branch is split, and residuals are united.

The branch that ran gives out its residuals; in the places of those that only other branches have, it
puts zeros. Residuals of one type share a place. An operand of the branches is kept as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax

from funcgrad import _jax, errors
from funcgrad.partition import Call, Split, StagedPullback, split_of
from funcgrad.program import cached
from funcgrad.registry import Rules
from funcgrad.tape import TapeTrace


def cond_call(trace: TapeTrace, primitive: Any, tracers: Any, params: dict[str, Any]) -> Any:
    """Run the branch's forward program and write down the switch with its backward programs."""
    primals, (_, *slots) = trace.split(tracers)
    differentiated = tuple(slot is not None for slot in slots)
    with errors.located_at(_jax.current_where):
        first, *others = params["branches"]
        program = program_of_branches(first, tuple(others), differentiated, trace.rules)
    outs, residuals = trace.run_forward(program.forward, primals, program.present, primitive)
    if not any(program.present):
        return outs
    return trace.record(primitive, params, slots, outs, program.present, program, residuals)


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

    def forward(self, primals: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Outputs, and residuals: index, all operands that a branch reads, the united ones."""
        index, *operands = primals
        if "forward" not in self.programs:
            self.programs["forward"] = jax.jit(self.trace_forward)
        outs, united = self.programs["forward"](index, *operands)
        return outs, [index, *(operands[i] for i in self.operands_read), *united]

    def trace_forward(self, index: Any, *primals: Any) -> tuple[list[Any], list[Any]]:
        """The forward switch."""

        def run(branch: int) -> Callable[..., Any]:
            def forward(*primals: Any) -> tuple[list[Any], list[Any]]:
                outs, residuals = self.splits[branch].inline_forward(primals)
                own = dict(zip(self.places[branch], residuals, strict=True))
                united = [
                    own[("pool", i)] if ("pool", i) in own else _jax.zeros(aval)
                    for i, aval in enumerate(self.pool)
                ]
                return outs, united

            return forward

        return jax.lax.switch(index, [run(k) for k in range(len(self.splits))], *primals)

    @cached_property
    def pool(self) -> list[Any]:
        """Types of the united residuals: of each, as many as the branch has that has most of it."""
        most: Counter[Any] = Counter()
        for split in self.splits:
            most |= Counter(aval for _, aval in computed_residuals(split))
        return list(most.elements())

    @cached_property
    def places(self) -> list[list[tuple[str, int]]]:
        """Where each residual of each branch is found: an operand, a closed-over value, the pool."""
        return [self.places_of(split) for split in self.splits]

    def places_of(self, split: Split) -> list[tuple[str, int]]:
        """Where each residual of one branch is found."""
        num_closed = len(split.forward.consts)
        vacant = {aval: [i for i, a in enumerate(self.pool) if a == aval] for aval in self.pool}
        pooled = {leaf: vacant[aval].pop(0) for leaf, aval in computed_residuals(split)}
        places = []
        for source, leaf in zip(split.sources, split.leaves, strict=True):
            if leaf in pooled:
                places.append(("pool", pooled[leaf]))
            elif source.index < num_closed:
                places.append(("closed", source.index))
            else:
                places.append(("operand", source.index - num_closed))
        return places

    @cached_property
    def operands_read(self) -> list[int]:
        """The operands that some branch's backward program reads."""
        every = [place for places in self.places for place in places]
        return sorted({i for kind, i in every if kind == "operand"})

    def trace_backward(self, residuals: list[Any], cts: list[Any]) -> list[Any]:
        """The backward switch, on the residuals and the index that the forward one left."""
        index, *values = residuals
        read = self.operands_read
        operands = dict(zip(read, values, strict=False))
        united = values[len(read) :]

        def run(branch: int) -> Callable[..., Any]:
            split = self.splits[branch]
            closed = split.forward.consts

            def backward(operands: Any, united: Any, cts: Any) -> list[Any]:
                found = {"operand": operands, "pool": united, "closed": closed}
                own = [found[kind][i] for kind, i in self.places[branch]]
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


def computed_residuals(split: Split) -> list[tuple[int, Any]]:
    """Leaf and type of those residuals of a branch that are not inputs."""
    return [
        (leaf, _jax.strong(split.leaf_avals[leaf]))
        for source, leaf in zip(split.sources, split.leaves, strict=True)
        if source.kind != "input"
    ]
