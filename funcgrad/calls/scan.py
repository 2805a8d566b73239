"""scan, differentiated as a whole: a forward scan that gives out residuals, and a reverse one.

The body is split as a jitted function is. Of its residuals, what is constant over the loop is kept
once, an `xs` or a `ys` is kept as it is, and only the rest is stacked. Cotangents of the constants
accumulate in the backward scan's carry. Which carries are differentiated is a fixpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
from jax import lax

from funcgrad import _jax
from funcgrad.calls.entering import defcall
from funcgrad.calls.late_sums import Deferral, bytes_without_cut, deferral_of
from funcgrad.calls.loop_body import Division, LoopProgram, Shift, cut_body
from funcgrad.partition.costs import size_in_bytes
from funcgrad.registry import Rules
from funcgrad.rule_program import cached


@dataclass(frozen=True)
class ScanSettings(Division):
    """A scan's parameters: how its operands divide, and how it runs."""

    length: int
    reverse: bool
    unroll: Any
    in_order = True

    def run(self, body: Any, init: Any, xs: Any, backward: bool = False) -> Any:
        reverse = self.reverse != backward
        return jax.lax.scan(body, init, xs, length=self.length, reverse=reverse, unroll=self.unroll)


@defcall(lax.scan_p)
def scan_call(
    primitive: Any, params: dict[str, Any], differentiated: tuple[bool, ...], rules: Rules
) -> ScanProgram:
    """A scan's forward and backward scans."""
    settings = ScanSettings(*_jax.scan_settings(params))
    return program_of_scan(params["jaxpr"], differentiated, rules, settings)


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
        a step near has at hand what that has), and such carries' values before or after the loop.
        """
        outs, once, stacked = self.jitted_forward(*primals)
        consts, _, xs, _, ys = self.variables
        const_values, init, x_values = self.division.divide(primals)
        of_steps = _by_variable(ys, outs[self.division.num_carry :])
        of_steps |= dict(zip(self.stacked, stacked, strict=True))
        found = {
            **of_steps,
            **dict(zip(self.kept_once, once, strict=True)),
            **dict(zip(xs, x_values, strict=True)),
            **dict(zip(consts, const_values, strict=True)),
            **{v: of_steps[shift.source] for v, shift in self.shifted.items()},
        }
        ends = [(outs if shift.ahead else init)[shift.carry] for shift in self.shifted.values()]
        return outs, [*(found[v] for v in self.plan.kept), *ends]

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

    def shifted_in_step(self, shift: Shift, index: Any, end: Any, stack: Any) -> Any:
        """A shifted variable's value in a step, from its source's of all steps."""
        length, reads_next = self.division.length, shift.ahead != self.division.reverse
        if not length:
            return end
        last, near = (length - 1, index + 1) if reads_next else (0, index - 1)
        value = jax.lax.dynamic_index_in_dim(stack, near, 0, keepdims=False)
        return jax.lax.select(index == last, end, value)

    def shifted_in_all(self, shift: Shift, end: Any, stack: Any) -> Any:
        """The same for all steps."""
        if not self.division.length:
            return stack
        reads_next = shift.ahead != self.division.reverse
        parts = [stack[1:], end[None]] if reads_next else [end[None], stack[:-1]]
        return jax.lax.concatenate(parts, 0)

    def trace_backward(self, residuals: list[Any], cts: list[Any]) -> list[Any]:
        """The backward scan, from the last step to the first, and then the sums that were put off."""
        kept = dict(zip(self.plan.kept, residuals, strict=False))
        ends = dict(zip(self.shifted, residuals[len(kept) :], strict=True))
        ct_ys = cts[self.division.num_carry :]
        _, ct_carry = self.start_back(cts)
        arrived = tuple(ct is not None for ct in self.cts_in_step(ct_carry, ct_ys))
        sums = self.deferral(arrived)
        ct_consts, _, _ = self.of_inputs(sums.start())

        stacks = {v: stack for v, stack in kept.items() if v in self.per_step}

        def body(carry: Any, x: Any) -> Any:
            ct_ys, step, index = x
            now = {**kept, **dict(zip(stacks, step, strict=True))}
            for v, shift in shifted.items():
                now[v] = self.shifted_in_step(shift, index, ends[v], kept[v])
            _, given = self.cut.resolved(self.cts_in_step(carry[1], ct_ys))
            results, more = sums.pull_back([now[v] for v in sums.kept], given)
            ct_consts, ct_carry, ct_xs = self.after_step(carry, results)
            return (ct_consts, ct_carry), (ct_xs, more)

        shifted = {v: shift for v, shift in self.shifted.items() if v in sums.kept}
        indices = jax.numpy.arange(self.division.length) if shifted else None
        (ct_consts, ct_carry), (ct_xs, more) = self.division.run(
            body, (ct_consts, ct_carry), (ct_ys, [*stacks.values()], indices), backward=True
        )
        carries = {
            v: self.shifted_in_all(shift, ends[v], kept[v]) for v, shift in self.shifted.items()
        }
        cts_there = {v: ct_ys[i] for v, i in self.ct_variables(arrived).items()}
        stacks = {**stacks, **carries, **cts_there, **dict(zip(sums.stacked, more, strict=True))}
        known = {**sums.variant.plan.joint.constants, **kept}
        results = sums.end(self.of_wanted([*ct_consts, *ct_carry, *ct_xs]), stacks, known)
        return [
            ct
            for ct, there in zip(results, self.of_wanted(self.differentiated), strict=True)
            if there
        ]

    @cached_property
    def per_step(self) -> set[Any]:
        """Kept variables that are stacked, or are an `xs` or a `ys`."""
        consts, _, xs, _, ys = self.variables
        return {*xs, *self.stacked, *_jax.variables(ys)} - {*consts, *self.kept_once}

    def ct_variables(self, arrived: tuple[bool, ...]) -> dict[Any, int]:
        """The variables of the cotangents of `ys`, and which `ys` each is of."""
        variant = self.cut.variant(arrived)
        if variant is None:
            return {}
        outs = [i for i, there in enumerate(arrived) if there]
        pairs = zip(variant.plan.joint.cts, outs, strict=True)
        return {v: i - self.division.num_carry for v, i in pairs if i >= self.division.num_carry}

    def deferral(self, arrived: tuple[bool, ...]) -> Deferral:
        """What is summed after the backward loop, for a pattern of cotangents."""
        variant = self.cut.variant(arrived) or self.cut.variant(tuple(self.cut.split.present))
        assert variant is not None
        consts, _, xs, _, ys = self.variables
        is_const = [i < len(consts) for i, wanted in enumerate(self.wanted) if wanted]
        stacks = {*self.per_step, *self.shifted, *self.ct_variables(arrived)}
        known = {v for v in (*self.plan.kept, *variant.plan.joint.constants) if v not in stacks}
        room = bytes_without_cut(self.cut.split, {*self.plan.once, *xs, *_jax.variables(ys)})
        room -= sum(size_in_bytes(v.aval) for v in self.stacked)
        return deferral_of(variant, is_const, stacks, known, self.division.length, room)


def _by_variable(atoms: Sequence[Any], values: Sequence[Any]) -> dict[Any, Any]:
    pairs = zip(atoms, values, strict=True)
    return {v: value for v, value in pairs if not _jax.is_literal(v)}
