"""custom_linear_solve: implicit differentiation of a linear system, whoever solves it.

A x = b gives dx = A^-1 (db - dA x), so ct_b = A^-T ct_x, which is a solve again, and the cotangents of
what A is made of are those of -A x at ct_b.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jax import lax

from funcgrad import _jax, errors
from funcgrad.backward import walk
from funcgrad.registry import Rules
from funcgrad.tape import TapeTrace, record


def linear_solve_call(
    trace: TapeTrace, primitive: Any, tracers: Any, params: dict[str, Any]
) -> Any:
    """Solve, and write it down with the solve of the transposed system."""
    primals, slots = trace.split(tracers)
    lengths = params["const_lengths"]
    num_consts = sum(lengths)
    outs = list(trace.evaluate(primitive, primals, params))
    wanted = tuple(i for i, slot in enumerate(slots) if slot is not None)
    by_matrix = any(i < num_consts for i in wanted)
    solution = outs[: len(primals) - num_consts] if by_matrix else []
    out_avals = tuple(_jax.tangent_aval(trace.type_of(y)) for y in outs)
    pullback = SolvePullback(params["jaxprs"], lengths, wanted, out_avals, trace.rules)
    residuals = [*primals[:num_consts], *solution]
    trace.check_residuals(primitive, residuals)
    num_solved = len(primals) - num_consts
    present = [i < num_solved and _jax.is_inexact(aval) for i, aval in enumerate(out_avals)]
    return trace.record(primitive, params, slots, outs, present, pullback, residuals)


@dataclass(frozen=True, eq=False)
class SolvePullback:
    """Solves the transposed system; see the module."""

    jaxprs: Any
    lengths: Any
    wanted: tuple[int, ...]
    out_avals: tuple[Any, ...]
    rules: Rules
    late: bool = False

    def __call__(self, residuals: Sequence[Any], cts: Sequence[Any], eager: bool) -> list[Any]:
        if self.jaxprs.transpose_solve is None:
            raise errors.Unlocated(errors.TransposeSolveError)
        num_consts = sum(self.lengths)
        consts, solution = residuals[:num_consts], residuals[num_consts:]
        num_solved = len(self.jaxprs.matvec.out_avals)
        given = [
            _jax.zeros(aval) if ct is None else ct
            for ct, aval in zip(cts, self.out_avals, strict=True)
        ][:num_solved]
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
