"""custom_linear_solve: implicit differentiation of a linear system, whoever solves it.

A x = b gives dx = A^-1 (db - dA x), so ct_b = A^-T ct_x, which is a solve again, and the cotangents of
what A is made of are those of -A x at ct_b.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jax import lax

from funcgrad import _jax, errors
from funcgrad.backward import walk
from funcgrad.calls.entering import defcall
from funcgrad.fusion import WRITTEN, Fusion
from funcgrad.registry import Rules
from funcgrad.rule_program import WithoutTapes
from funcgrad.tape import record


@defcall(lax.linear_solve_p)
def linear_solve_call(
    primitive: Any, params: dict[str, Any], differentiated: tuple[bool, ...], rules: Rules
) -> SolveProgram:
    """A solve, and the solve of the transposed system."""
    wanted = tuple(i for i, there in enumerate(differentiated) if there)
    num_operands = len(differentiated)
    return SolveProgram(params["jaxprs"], params["const_lengths"], wanted, num_operands, rules)


@dataclass(frozen=True, eq=False)
class SolveProgram(WithoutTapes):
    """Solves the transposed system; see the module."""

    fusion: ClassVar[Fusion] = WRITTEN

    jaxprs: Any
    lengths: Any
    wanted: tuple[int, ...]
    num_operands: int
    rules: Rules
    late: bool = False

    @property
    def num_consts(self) -> int:
        """How many operands the four functions close over."""
        return sum(self.lengths)

    @property
    def out_avals(self) -> list[Any]:
        """The types of the outputs' cotangents."""
        return [_jax.tangent_aval(aval) for aval in self.jaxprs.solve.out_avals]

    @property
    def present(self) -> list[bool]:
        """Which outputs carry a gradient."""
        num_solved = self.num_operands - self.num_consts
        return [i < num_solved and _jax.is_inexact(a) for i, a in enumerate(self.out_avals)]

    def forward(self, primals: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The solution and auxiliary outputs; what the matrix is made of, and the solution if read."""
        outs = lax.linear_solve_p.bind(*primals, const_lengths=self.lengths, jaxprs=self.jaxprs)
        by_matrix = any(i < self.num_consts for i in self.wanted)
        solution = outs[: self.num_operands - self.num_consts] if by_matrix else []
        return list(outs), [*primals[: self.num_consts], *solution]

    def __call__(self, residuals: Sequence[Any], cts: Sequence[Any], eager: bool) -> list[Any]:
        if self.jaxprs.transpose_solve is None:
            raise errors.Unlocated(errors.TransposeSolveError)
        num_consts = self.num_consts
        consts, solution = residuals[:num_consts], residuals[num_consts:]
        num_solved = len(self.jaxprs.matvec.out_avals)
        given = _jax.instantiated(cts, self.out_avals)[:num_solved]
        ct_b = lax.linear_solve_p.bind(
            *self.transposed(consts),
            *given,
            const_lengths=self.lengths.transpose(),
            jaxprs=self.jaxprs.transpose(),
        )[:num_solved]
        found = dict(enumerate(ct_b, start=num_consts))
        found |= self.matrix_cotangents(consts[: self.lengths.matvec], solution, ct_b)
        return [found.get(i) for i in self.wanted]

    def transposed(self, consts: Sequence[Any]) -> list[Any]:
        """The constants of the four functions in the order of the transposed system."""
        groups, start = [], 0
        for length in self.lengths:
            groups.append(consts[start : start + length])
            start += length
        matvec, vecmat, solve, transpose_solve = groups
        return [*vecmat, *matvec, *transpose_solve, *solve]

    def matrix_cotangents(
        self, consts: Sequence[Any], solution: Sequence[Any], ct_b: Sequence[Any]
    ) -> dict[int, Any]:
        """Cotangents of what the matrix is made of: those of -A x at ct_b."""
        wanted = [i for i in self.wanted if i < len(consts)]
        if not wanted:
            return {}

        def negative_product(*consts: Any) -> list[Any]:
            product = _jax.eval_closed_jaxpr(self.jaxprs.matvec, [*consts, *solution])
            return [lax.neg(y) for y in product]

        mask = [i in wanted for i in range(len(consts))]
        _, slots, tape = record(negative_product, consts, mask, self.rules, "matvec")
        seeds = zip(slots, ct_b, strict=True)
        return dict(zip(wanted, walk(tape, seeds, range(len(wanted)), consume=True), strict=True))
