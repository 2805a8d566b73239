"""scan, differentiated as a whole: a forward scan that gives out residuals, and a reverse one.

The body is split as a jitted function is. Of its residuals, what is constant over the loop is kept
once, an `xs` or a `ys` is kept as it is, and only the rest is stacked. Cotangents of the constants
accumulate in the backward scan's carry. Which carries are differentiated is a fixpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax

from funcgrad import _jax, errors
from funcgrad.bodies import Division, LoopProgram, cut_body
from funcgrad.program import cached
from funcgrad.registry import Rules
from funcgrad.tape import TapeTrace


@dataclass(frozen=True)
class ScanSettings(Division):
    """A scan's parameters: how its operands divide, and how it runs."""

    length: int
    reverse: bool
    unroll: Any

    def run(self, body: Any, init: Any, xs: Any, backward: bool = False) -> Any:
        reverse = self.reverse != backward
        return jax.lax.scan(body, init, xs, length=self.length, reverse=reverse, unroll=self.unroll)


def scan_call(trace: TapeTrace, primitive: Any, tracers: Any, params: dict[str, Any]) -> Any:
    """Run a scan's forward program and write it down with its backward program."""
    primals, slots = trace.split(tracers)
    settings = ScanSettings(*_jax.scan_settings(params))
    differentiated = tuple(slot is not None for slot in slots)
    with errors.located_at(_jax.current_where):
        program = program_of_scan(params["jaxpr"], differentiated, trace.rules, settings)
    outs, residuals = trace.run_forward(program.forward, primals, program.present, primitive)
    if not any(program.present):
        return outs
    return trace.record(primitive, params, slots, outs, program.present, program, residuals)


@cached(_jax.weak_cache)
def program_of_scan(
    closed: _jax.ClosedJaxpr, differentiated: tuple[bool, ...], rules: Rules, settings: ScanSettings
) -> ScanProgram:
    """The programs of a scan over this body."""
    cut, wanted = cut_body(closed, differentiated, rules, settings)
    return ScanProgram(cut, wanted, differentiated, settings)


@dataclass(frozen=True, eq=False)
class ScanProgram(LoopProgram):
    """The forward scan, and the backward scan as the node's pullback."""

    division: ScanSettings

    @property
    def present(self) -> list[bool]:
        """Which outputs carry a gradient."""
        return [*self.carried, *self.cut.split.present[self.division.num_carry :]]

    def forward(self, primals: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Outputs, the values of the plan's kept variables (once, for each step, or for a carry that
        is the `ys` of the step before that `ys`), and the first values of such carries.
        """
        outs, once, stacked = self.jitted_forward(*primals)
        consts, carries, xs, _, ys = self.variables
        const_values, init, x_values = self.division.divide(primals)
        y_values = _by_variable(ys, outs[self.division.num_carry :])
        found = {
            **y_values,
            **dict(zip(self.stacked, stacked, strict=True)),
            **dict(zip(self.kept_once, once, strict=True)),
            **dict(zip(xs, x_values, strict=True)),
            **dict(zip(consts, const_values, strict=True)),
            **{v: y_values[y] for v, y in self.shifted.items()},
        }
        first = dict(zip(carries, init, strict=True))
        return outs, [*(found[v] for v in self.plan.kept), *(first[v] for v in self.shifted)]

    def trace_forward(self, *primals: Any) -> tuple[list[Any], list[Any], list[Any]]:
        """The forward scan: outputs, what is kept once, and what is stacked."""
        const_vars, carry_vars, x_vars, carry_outs, ys = self.variables
        consts, init, xs = self.division.divide(primals)
        known = dict(zip(const_vars, consts, strict=True))
        stacked_vars, num_carry = self.stacked, self.division.num_carry
        once = self.plan.run_forward(known, self.kept_once, effects=False)

        def body(carry: list[Any], x: list[Any]) -> tuple[list[Any], Any]:
            step = {**known, **dict(zip(carry_vars, carry, strict=True))}
            step |= dict(zip(x_vars, x, strict=True))
            values = self.plan.run_forward(step, [*carry_outs, *ys, *stacked_vars])
            num_outs = num_carry + len(ys)
            return values[:num_carry], (values[num_carry:num_outs], values[num_outs:])

        carry, (y_values, stacked) = self.division.run(body, init, xs)
        return [*carry, *y_values], once, stacked

    def carry_into(self, index: Any, init: Any, ys: Any) -> Any:
        """The carry into a step, of which the step before made a `ys`."""
        length, reverse = self.division.length, self.division.reverse
        if not length:
            return init
        start, before = (length - 1, index + 1) if reverse else (0, index - 1)
        last = jax.lax.dynamic_index_in_dim(ys, before, 0, keepdims=False)
        return jax.lax.select(index == start, init, last)

    def trace_backward(self, residuals: list[Any], cts: list[Any]) -> list[Any]:
        """The backward scan: from the last step to the first."""
        num_carry = self.division.num_carry
        consts, _, xs, _, ys = self.variables
        per_step = {*xs, *self.stacked, *_jax.variables(ys)} - {*consts, *self.kept_once}
        kept = dict(zip(self.plan.kept, residuals, strict=False))
        first = dict(zip(self.shifted, residuals[len(kept) :], strict=True))
        stacked = {v: r for v, r in kept.items() if v in per_step}

        def body(carry: Any, x: Any) -> Any:
            ct_ys, step, index = x
            now = {**kept, **dict(zip(stacked, step, strict=True))}
            now |= {v: self.carry_into(index, init, kept[v]) for v, init in first.items()}
            ct_consts, ct_carry, ct_xs = self.step_back(list(now.values()), carry, ct_ys)
            return (ct_consts, ct_carry), ct_xs

        indices = jax.numpy.arange(self.division.length) if first else None
        init = self.start_back(cts)
        (ct_consts, ct_carry), ct_xs = self.division.run(
            body, init, (cts[num_carry:], [*stacked.values()], indices), backward=True
        )
        everything = [*ct_consts, *ct_carry, *ct_xs]
        return [ct for ct, there in zip(everything, self.differentiated, strict=True) if there]


def _by_variable(atoms: Sequence[Any], values: Sequence[Any]) -> dict[Any, Any]:
    pairs = zip(atoms, values, strict=True)
    return {v: value for v, value in pairs if not isinstance(v, _jax.Literal)}
