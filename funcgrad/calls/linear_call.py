"""linear_call: a linear function whose user gave its transpose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jax.custom_derivatives import linear_call as jax_linear_call

from funcgrad import _jax
from funcgrad.backward import walk
from funcgrad.calls.entering import defcall
from funcgrad.registry import Rules
from funcgrad.rule_program import WithoutTapes
from funcgrad.tape import record


@defcall(_jax.linear_call_p)
def linear_call(
    primitive: Any, params: dict[str, Any], differentiated: tuple[bool, ...], rules: Rules
) -> LinearProgram:
    """A linear function, and the transpose that its user gave."""
    num_consts = params["num_callee_consts"]
    first = num_consts + params["num_res"]
    transpose, consts = params["transpose_thunk"]()
    wanted = tuple(i for i, there in enumerate(differentiated) if there)
    by_residuals = any(i < first for i in wanted)
    num_known = len(differentiated) if by_residuals else first
    out_avals = tuple(_jax.tangent_aval(aval) for aval in params["callee"].out_avals)
    return LinearProgram(
        primitive,
        params,
        transpose,
        tuple(consts),
        num_consts,
        first,
        num_known,
        wanted,
        out_avals,
        rules,
    )


@dataclass(frozen=True, eq=False)
class LinearProgram(WithoutTapes):
    """Calls the transpose of y = f(r, x), linear in x; the cotangent of r is that of f's own tape.

    Attributes:
      params: of the call; its callee is f, with what it closes over, then r, then x.
      transpose: with what it closes over, then r, then the cotangents of y.
      consts: what the transpose closes over.
      num_consts: how many values f closes over.
      first: position of the first linear operand.
      num_known: how many operands are residuals; what the transpose closes over follows them.
    """

    primitive: Any
    params: dict[str, Any]
    transpose: Any
    consts: tuple[Any, ...]
    num_consts: int
    first: int
    num_known: int
    wanted: tuple[int, ...]
    out_avals: tuple[Any, ...]
    rules: Rules
    late: bool = False

    @property
    def present(self) -> list[bool]:
        """Which outputs carry a gradient."""
        return [_jax.is_inexact(aval) for aval in self.out_avals]

    def forward(self, primals: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The outputs; what the transpose, and f if it is differentiated by r, read."""
        outs = self.primitive.bind(*primals, **self.params)
        return list(outs), [*primals[: self.num_known], *self.consts]

    def __call__(self, residuals: Sequence[Any], cts: Sequence[Any], eager: bool) -> list[Any]:
        known, t_consts = residuals[: self.num_known], residuals[self.num_known :]
        given = _jax.instantiated(cts, self.out_avals)
        found: dict[int, Any] = {}
        if self.wanted and self.wanted[-1] >= self.first:
            transposed = self.transposed(known[: self.first], t_consts, given)
            found |= dict(enumerate(transposed, start=self.first))
        if self.num_known > self.first:
            found |= self.residual_cotangents(known, given)
        return [found.get(i) for i in self.wanted]

    def transposed(self, known: Sequence[Any], t_consts: Sequence[Any], cts: Any) -> list[Any]:
        """The linear operands' cotangents, by a linear call whose transpose is f again."""

        def run(known: Any, cts: Any) -> Any:
            _, res, t_consts = known
            return tuple(_jax.eval_closed_jaxpr(self.transpose, [*t_consts, *res, *cts]))

        def back(known: Any, xs: Any) -> Any:
            consts, res, _ = known
            return tuple(_jax.eval_closed_jaxpr(self.params["callee"], [*consts, *res, *xs]))

        residuals = known[: self.num_consts], known[self.num_consts :], t_consts
        return list(jax_linear_call(run, back, residuals, tuple(cts)))

    def residual_cotangents(self, known: Sequence[Any], cts: Sequence[Any]) -> dict[int, Any]:
        """Cotangents of the operands in which f need not be linear."""
        wanted = [i for i in self.wanted if i < self.first]
        mask = [i in wanted for i in range(len(known))]

        def run(*operands: Any) -> list[Any]:
            return _jax.eval_closed_jaxpr(self.params["callee"], operands)

        _, slots, tape = record(run, known, mask, self.rules, "a linear call")
        results = walk(tape, zip(slots, cts, strict=True), range(len(wanted)), consume=True)
        return dict(zip(wanted, results, strict=True))
