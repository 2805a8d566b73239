"""cond and switch, differentiated as a whole: each branch is cut in two, and residuals are united.

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
from jax import lax

from funcgrad import _jax
from funcgrad.calls.entering import defcall
from funcgrad.partition.cut import cut_of
from funcgrad.partition.plan import Cut
from funcgrad.partition.split import Split, StagedPullback, split_of
from funcgrad.registry import Rules
from funcgrad.rule_program import cached
from funcgrad.tape import FrozenTape


@defcall(lax.cond_p)
def cond_call(
    primitive: Any, params: dict[str, Any], differentiated: tuple[bool, ...], rules: Rules
) -> BranchProgram:
    """A cond's or a switch's forward and backward switches; its first operand is the index."""
    first, *others = params["branches"]
    return program_of_branches(first, tuple(others), differentiated[1:], rules)


@cached(_jax.weak_cache)
def program_of_branches(
    first: _jax.ClosedJaxpr,
    others: tuple[_jax.ClosedJaxpr, ...],
    differentiated: tuple[bool, ...],
    rules: Rules,
) -> BranchProgram:
    """The programs of a switch over jaxprs, differentiating some operands by some rules."""
    splits = [split_of(branch, differentiated, rules) for branch in (first, *others)]
    return BranchProgram(tuple(map(branch_of, splits)), differentiated)


def branch_of(split: Split) -> Branch:
    """One branch, with its minimum cut: operands are kept anyway."""
    return Branch(cut_of(split, split.inputs), split.inputs)


@dataclass(frozen=True, eq=False)
class Branch:
    """One branch, cut in two.

    Attributes:
      cut: what is kept of it.
      inputs: its variables for the operands.
    """

    cut: Cut
    inputs: list[Any]

    @property
    def computed(self) -> list[Any]:
        """Kept variables that are not operands."""
        return [v for v in self.cut.plan.kept if v not in self.inputs]

    @property
    def types(self) -> list[Any]:
        """The types of what is computed and kept."""
        return [_jax.strong(v.aval) for v in self.computed]

    def forward(self, primals: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The outputs, and what is computed and kept."""
        split = self.cut.split
        outvars = split.forward.closed.jaxpr.outvars[: len(split.slots)]
        known = dict(zip(self.inputs, primals, strict=True))
        results = self.cut.plan.run_forward(known, [*outvars, *self.computed])
        return results[: len(outvars)], results[len(outvars) :]

    def backward(
        self, operands: dict[int, Any], computed: Sequence[Any], cts: Sequence[Any]
    ) -> list[Any]:
        """The differentiated operands' cotangents, from the operands read and what was computed."""
        found = {self.inputs[i]: x for i, x in operands.items()}
        found |= dict(zip(self.computed, computed, strict=True))
        given = [ct if there else None for ct, there in zip(cts, self.present, strict=True)]
        return self.cut.pull_back([found[v] for v in self.cut.plan.kept], given)

    @property
    def present(self) -> list[bool]:
        """Which outputs carry a gradient."""
        return self.cut.split.present

    def present_inputs(self, cts: Sequence[Any]) -> tuple[bool, ...]:
        """Which differentiated operands get a cotangent, by the cotangents that arrive."""
        pairs = zip(cts, self.present, strict=True)
        return self.cut.present_inputs([ct is not None and there for ct, there in pairs])


@dataclass(frozen=True, eq=False)
class BranchProgram(StagedPullback):
    """The forward switch, and the backward switch as the node's pullback."""

    branches: tuple[Branch, ...]
    differentiated: tuple[bool, ...]
    programs: dict[Any, Callable[..., Any]] = field(default_factory=dict)

    @property
    def closes_over_tracer(self) -> bool:
        """Whether no cache may keep this."""
        return any(branch.cut.split.closes_over_tracer for branch in self.branches)

    @property
    def present(self) -> list[bool]:
        """Which outputs carry a gradient, by some branch."""
        return [any(there) for there in zip(*(b.present for b in self.branches), strict=True)]

    @property
    def inner(self) -> dict[str, FrozenTape]:
        """The branches' tapes."""
        return {f"branch {i}": b.cut.split.tape for i, b in enumerate(self.branches)}

    def forward(self, primals: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Outputs, and residuals: index, all operands that a branch reads, the united ones."""
        index, *operands = primals
        outs, united = self.jitted_forward(index, *operands)
        return outs, [index, *(operands[i] for i in self.operands_read), *united]

    def trace_forward(self, index: Any, *primals: Any) -> tuple[list[Any], list[Any]]:
        """The forward switch."""

        def run(branch: Branch) -> Callable[..., Any]:
            def forward(*primals: Any) -> tuple[list[Any], list[Any]]:
                outs, computed = branch.forward(primals)
                own = dict(zip(self.places_of(branch), computed, strict=True))
                return outs, [own.get(i, _jax.blank(a)) for i, a in enumerate(self.pool)]

            return forward

        return jax.lax.switch(index, [run(branch) for branch in self.branches], *primals)

    @cached_property
    def pool(self) -> list[Any]:
        """Types of the united residuals: of each, as many as the branch has that has most of it."""
        most: Counter[Any] = Counter()
        for branch in self.branches:
            most |= Counter(branch.types)
        return list(most.elements())

    def places_of(self, branch: Branch) -> list[int]:
        """Where in the pool a branch finds what it has computed and kept."""
        vacant = {aval: [i for i, a in enumerate(self.pool) if a == aval] for aval in self.pool}
        return [vacant[aval].pop(0) for aval in branch.types]

    @cached_property
    def operands_read(self) -> list[int]:
        """The operands that some branch's backward program reads."""
        count = len(self.branches[0].inputs)
        return [
            i for i in range(count) if any(b.inputs[i] in b.cut.plan.kept for b in self.branches)
        ]

    def trace_backward(self, residuals: list[Any], cts: list[Any]) -> list[Any]:
        """The backward switch, on the residuals and the index that the forward one left."""
        index, *values = residuals
        operands = values[: len(self.operands_read)]
        united = values[len(operands) :]
        patterns = [branch.present_inputs(cts) for branch in self.branches]
        there = [any(flows) for flows in zip(*patterns, strict=True)]

        def run(branch: Branch) -> Callable[..., Any]:
            def backward(operands: Any, united: Any, cts: Any) -> list[Any]:
                computed = [united[i] for i in self.places_of(branch)]
                read = dict(zip(self.operands_read, operands, strict=True))
                results = zip(
                    branch.backward(read, computed, cts), self.ct_avals(), there, strict=True
                )
                return [
                    _jax.zeros(aval) if ct is None else ct for ct, aval, flows in results if flows
                ]

            return backward

        branches = [run(branch) for branch in self.branches]
        results = iter(jax.lax.switch(index, branches, operands, united, cts))
        return [next(results) if flows else None for flows in there]

    def ct_avals(self) -> list[Any]:
        """Types of the differentiated operands' cotangents."""
        avals = self.branches[0].cut.split.input_avals
        return [
            _jax.strong(a) for a, there in zip(avals, self.differentiated, strict=True) if there
        ]
