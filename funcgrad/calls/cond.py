"""cond and switch, differentiated as a whole: each branch is cut in two, and all share one pool.

A branch gives out the residuals that it computes in a pool, which has as many places of each type as
the branch that needs most. It fills the other places with zeros. Operands are kept as they are.

    branch 0 keeps  f32[4] a, f32[4] b          pool:  f32[4]  f32[4]  i32[]
    branch 1 keeps  f32[4] c, i32[] d           0 puts    a       b      0
                                                1 puts    c       0      d
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from jax import lax

from funcgrad import _jax
from funcgrad._jax import Aval, Cotangent, Mask, Positions, Value
from funcgrad.calls.entering import defcall
from funcgrad.fusion import WRITTEN, Fusion
from funcgrad.masks import mask_of, select, spread
from funcgrad.partition.cut import Cut, cut_of
from funcgrad.partition.split import StagedPullback, split_of
from funcgrad.registry import Rules
from funcgrad.rule_program import cached
from funcgrad.tape import FrozenTape


@defcall(lax.cond_p)
def cond_call(
    primitive: Any, params: dict[str, Any], differentiated: tuple[bool, ...], rules: Rules
) -> BranchProgram:
    """A cond's or a switch's forward and backward switches; its first operand is the index."""
    first, *others = params["branches"]
    platforms = params.get("branches_platforms")
    return program_of_branches(first, tuple(others), differentiated[1:], rules, platforms)


@cached(_jax.weak_cache)
def program_of_branches(
    first: _jax.ClosedJaxpr,
    others: tuple[_jax.ClosedJaxpr, ...],
    differentiated: Mask,
    rules: Rules,
    platforms: Any,
) -> BranchProgram:
    """The forward and the backward program of a switch over jaxprs."""
    splits = [split_of(branch, differentiated, rules) for branch in (first, *others)]
    cuts = tuple(cut_of(split, free=split.inputs, runs=1) for split in splits)
    return BranchProgram(cuts, differentiated, platforms)


@dataclass(frozen=True, eq=False)
class BranchProgram(StagedPullback):
    """The forward switch, and the backward switch as the node's pullback.

    Attributes:
      branches: each branch, cut in two.
      differentiated: which operands are differentiated.
      platforms: of ``jax.lax.platform_dependent``, for which platforms each branch is.
    """

    fusion: ClassVar[Fusion] = WRITTEN

    branches: tuple[Cut, ...]
    differentiated: Mask
    platforms: Any = None
    programs: dict[Any, Callable[..., Any]] = field(default_factory=dict)

    @property
    def closes_over_tracer(self) -> bool:
        """Whether no cache may keep this."""
        return any(branch.split.closes_over_tracer for branch in self.branches)

    @property
    def present(self) -> Mask:
        """Which outputs carry a gradient, by some branch."""
        return tuple(
            map(any, zip(*(branch.split.present for branch in self.branches), strict=True))
        )

    @property
    def inner(self) -> dict[str, FrozenTape]:
        """The branches' tapes."""
        return {f"branch {i}": branch.split.tape for i, branch in enumerate(self.branches)}

    # --- which values are kept

    @cached_property
    def pool(self) -> list[Aval]:
        """Types of the residuals that a branch computes: of each, the most that any branch has."""
        most: Counter[Aval] = Counter()
        for branch in self.branches:
            most |= Counter(_types_computed(branch))
        return list(most.elements())

    def pool_positions(self, branch: Cut) -> list[int]:
        """Where in the pool a branch puts the residuals that it computes."""
        vacant = {aval: [i for i, a in enumerate(self.pool) if a == aval] for aval in self.pool}
        return [vacant[aval].pop(0) for aval in _types_computed(branch)]

    @cached_property
    def operands_read(self) -> Positions:
        """The operands that some branch's backward program reads."""
        inputs = zip(*(branch.split.inputs for branch in self.branches), strict=True)
        kept = [{*branch.plan.kept} for branch in self.branches]
        return tuple(
            i
            for i, of_branches in enumerate(inputs)
            if any(v in there for v, there in zip(of_branches, kept, strict=True))
        )

    # --- forward

    def forward(self, primals: Sequence[Value]) -> tuple[list[Value], list[Value]]:
        """Outputs, and residuals: the index, the operands that a branch reads, and the pool."""
        index, *operands = primals
        outs, pool = self.jitted_forward(index, *operands)
        return outs, [index, *(operands[i] for i in self.operands_read), *pool]

    def trace_forward(self, index: Value, *primals: Value) -> tuple[list[Value], list[Value]]:
        """The forward switch: the outputs, and the pool with zeros where the branch has nothing."""

        def run(branch: Cut) -> Callable[..., Any]:
            def forward(*primals: Value) -> tuple[list[Value], list[Value]]:
                outs, computed = branch.run_forward(primals)
                own = dict(zip(self.pool_positions(branch), computed, strict=True))
                return outs, [own.get(i, _jax.blank(a)) for i, a in enumerate(self.pool)]

            return forward

        branches = [run(branch) for branch in self.branches]
        return _jax.switch(index, branches, primals, self.platforms)

    # --- backward

    def trace_backward(self, residuals: list[Value], cts: list[Cotangent]) -> list[Cotangent]:
        """The backward switch, on the index and the residuals that the forward switch left."""
        index, *values = residuals
        operands, pool = values[: len(self.operands_read)], values[len(self.operands_read) :]
        patterns = [branch.present_inputs(mask_of(cts)) for branch in self.branches]
        present = tuple(map(any, zip(*patterns, strict=True)))
        avals = select(self.ct_avals, present)

        def run(branch: Cut) -> Callable[..., Any]:
            def backward(operands: Any, pool: Any, cts: Any) -> list[Value]:
                inputs = [branch.split.inputs[i] for i in self.operands_read]
                computed = [pool[i] for i in self.pool_positions(branch)]
                kept = branch.residuals(dict(zip(inputs, operands, strict=True)), computed)
                results = select(branch.pull_back(kept, cts), present)
                return _jax.instantiated(results, avals)

            return backward

        branches = [run(branch) for branch in self.branches]
        results = _jax.switch(index, branches, (operands, pool, cts), self.platforms)
        return spread(results, present)

    @property
    def ct_avals(self) -> list[Aval]:
        """Types of the differentiated operands' cotangents."""
        avals = self.branches[0].split.input_avals
        return [_jax.strong(aval) for aval in select(avals, self.differentiated)]


def _types_computed(branch: Cut) -> list[Aval]:
    """The types of the residuals that a branch computes: operands are kept as they are."""
    return [_jax.strong(v.aval) for v in branch.computed]
