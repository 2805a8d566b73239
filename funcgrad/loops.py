"""scan, differentiated as a whole: a forward scan that gives out residuals, and a reverse one.

The body is split as a jitted function is. Of its residuals, what is constant over the loop is kept
once, an `xs` or a `ys` is kept as it is, and only the rest is stacked. Cotangents of the constants
accumulate in the backward scan's carry. Which carries are differentiated is a fixpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax

from funcgrad import _jax, errors
from funcgrad.custom import TangentTrace
from funcgrad.mincut import Plan, nothing_kept, plan_of
from funcgrad.partition import Split, StagedPullback, split_of
from funcgrad.program import cached
from funcgrad.registry import Rules
from funcgrad.tape import TapeTrace


@dataclass(frozen=True)
class ScanSettings:
    """A scan's parameters: how its operands divide, and how it runs."""

    num_consts: int
    num_carry: int
    length: int
    reverse: bool
    unroll: Any

    def divide(self, operands: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
        """Constants, initial carry, and what is scanned over."""
        first_x = self.num_consts + self.num_carry
        return (
            list(operands[: self.num_consts]),
            list(operands[self.num_consts : first_x]),
            list(operands[first_x:]),
        )

    def run(self, body: Any, init: Any, xs: Any, backward: bool = False) -> Any:
        reverse = self.reverse != backward
        return jax.lax.scan(body, init, xs, length=self.length, reverse=reverse, unroll=self.unroll)


def scan_call(trace: TapeTrace, primitive: Any, tracers: Any, params: dict[str, Any]) -> Any:
    """Run a scan's forward program and write it down with its backward program."""
    primals, slots = trace.split(tracers)
    if isinstance(trace, TangentTrace):
        raise errors.MissingRuleError(primitive, len(primals), params, _jax.here())
    settings = ScanSettings(*_jax.scan_settings(params))
    differentiated = tuple(slot is not None for slot in slots)
    with errors.located_at(_jax.current_where):
        program = program_of_scan(params["jaxpr"], differentiated, trace.rules, settings)
    outs, residuals = program.forward(primals)
    if not any(program.present):
        return outs
    return trace.record(primitive, params, slots, outs, program.present, program, residuals)


@cached(_jax.weak_cache)
def program_of_scan(
    closed: _jax.ClosedJaxpr, differentiated: tuple[bool, ...], rules: Rules, settings: ScanSettings
) -> ScanProgram:
    """Split the body, for the carries that turn out to be differentiated, and plan what to keep."""
    first, end = settings.num_consts, settings.num_consts + settings.num_carry
    wanted = list(differentiated)
    while True:
        split = split_of(closed, tuple(wanted), rules)
        carries = [a or b for a, b in zip(wanted[first:end], split.present, strict=False)]
        if carries == wanted[first:end]:
            break
        wanted[first:end] = carries
    jaxpr = split.forward.closed.jaxpr
    consts, _, xs = settings.divide(jaxpr.invars[len(split.forward.consts) :])
    ys = jaxpr.outvars[settings.num_carry : len(split.slots)]
    free = _jax.variables([*consts, *xs, *ys])
    plan = plan_of(split, free, consts) if any(split.present) else nothing_kept(split)
    return ScanProgram(split, plan, tuple(wanted), differentiated, settings)


@dataclass(frozen=True, eq=False)
class ScanProgram(StagedPullback):
    """The forward scan, and the backward scan as the node's pullback.

    Attributes:
      split: the body, cut in two.
      plan: which of its values are kept.
      wanted: which of the body's inputs are differentiated.
      differentiated: which of the scan's operands are.
    """

    split: Split
    plan: Plan
    wanted: tuple[bool, ...]
    differentiated: tuple[bool, ...]
    settings: ScanSettings
    programs: dict[Any, Any] = field(default_factory=dict)

    @property
    def closes_over_tracer(self) -> bool:
        """Whether no cache may keep this."""
        return self.split.closes_over_tracer

    @property
    def present(self) -> list[bool]:
        """Which outputs carry a gradient."""
        num_carry = self.settings.num_carry
        _, carries, _ = self.settings.divide(self.wanted)
        return [*carries, *self.split.present[num_carry:]]

    @cached_property
    def variables(self) -> tuple[list[Any], list[Any], list[Any], list[Any], list[Any]]:
        """The body's variables: constants, carries in, xs, carries out, ys."""
        jaxpr = self.split.forward.closed.jaxpr
        inputs = jaxpr.invars[len(self.split.forward.consts) :]
        outs = jaxpr.outvars[: len(self.split.slots)]
        num_carry = self.settings.num_carry
        return *self.settings.divide(inputs), outs[:num_carry], outs[num_carry:]

    @cached_property
    def kept_once(self) -> list[Any]:
        """Kept variables that are computed from the constants, before the loop."""
        consts, *_ = self.variables
        return [v for v in self.plan.kept if v in self.plan.once and v not in consts]

    @cached_property
    def stacked(self) -> list[Any]:
        """Kept variables that only stacking keeps."""
        consts, _, xs, _, ys = self.variables
        known = {*consts, *xs, *self.kept_once, *_jax.variables(ys)}
        return [v for v in self.plan.kept if v not in known]

    def forward(self, primals: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Outputs, and the values of the plan's kept variables: once, or for each step."""
        if "forward" not in self.programs:
            self.programs["forward"] = jax.jit(self.trace_forward)
        outs, once, stacked = self.programs["forward"](*primals)
        consts, _, xs, _, ys = self.variables
        const_values, _, x_values = self.settings.divide(primals)
        found = {
            **_by_variable(ys, outs[self.settings.num_carry :]),
            **dict(zip(self.stacked, stacked, strict=True)),
            **dict(zip(self.kept_once, once, strict=True)),
            **dict(zip(xs, x_values, strict=True)),
            **dict(zip(consts, const_values, strict=True)),
        }
        return outs, [found[v] for v in self.plan.kept]

    def trace_forward(self, *primals: Any) -> tuple[list[Any], list[Any], list[Any]]:
        """The forward scan: outputs, what is kept once, and what is stacked."""
        const_vars, carry_vars, x_vars, carry_outs, ys = self.variables
        consts, init, xs = self.settings.divide(primals)
        known = dict(zip(const_vars, consts, strict=True))
        stacked_vars, num_carry = self.stacked, self.settings.num_carry
        once = self.plan.run_forward(known, self.kept_once, effects=False)

        def body(carry: list[Any], x: list[Any]) -> tuple[list[Any], Any]:
            step = {**known, **dict(zip(carry_vars, carry, strict=True))}
            step |= dict(zip(x_vars, x, strict=True))
            values = self.plan.run_forward(step, [*carry_outs, *ys, *stacked_vars])
            num_outs = num_carry + len(ys)
            return values[:num_carry], (values[num_carry:num_outs], values[num_outs:])

        carry, (y_values, stacked) = self.settings.run(body, init, xs)
        return [*carry, *y_values], once, stacked

    def trace_backward(self, residuals: list[Any], cts: list[Any]) -> list[Any]:
        """The backward scan: from the last step to the first."""
        settings, split, plan = self.settings, self.split, self.plan
        num_carry = settings.num_carry
        want_consts, want_carry, _ = settings.divide(self.wanted)
        const_avals, carry_avals, _ = settings.divide(split.input_avals)
        ct_carry = [
            zeros_if_none(ct, aval) if wanted else None
            for ct, aval, wanted in zip(cts, carry_avals, want_carry, strict=False)
        ]
        ct_consts = [
            _jax.zeros(_jax.strong(aval)) if wanted else None
            for aval, wanted in zip(const_avals, want_consts, strict=True)
        ]
        _, _, xs, _, ys = self.variables
        per_step = {*xs, *self.stacked, *_jax.variables(ys)}
        stacked = [r if v in per_step else None for v, r in zip(plan.kept, residuals, strict=True)]
        there = split.backwards[tuple(split.present)].present

        def body(carry: Any, x: Any) -> Any:
            ct_consts, ct_carry = carry
            ct_ys, step = x
            ct_step = [
                zeros_if_none(ct, split.tape.avals[slot])
                for ct, slot in zip([*ct_carry, *ct_ys], split.slots, strict=True)
                if slot is not None
            ]
            kept = [r if s is None else s for r, s in zip(residuals, step, strict=True)]
            found = iter(plan.run_backward(kept, ct_step))
            in_order = iter([next(found) if present else None for present in there])
            results = [next(in_order) if wanted else None for wanted in self.wanted]
            new_consts, new_carry, ct_xs = settings.divide(results)
            ct_consts = [
                old if new is None else jax.lax.add(old, new)
                for old, new in zip(ct_consts, new_consts, strict=True)
            ]
            new_carry = [
                zeros_if_none(ct, aval) if wanted else None
                for ct, aval, wanted in zip(new_carry, carry_avals, want_carry, strict=True)
            ]
            return (ct_consts, new_carry), ct_xs

        (ct_consts, ct_carry), ct_xs = settings.run(
            body, (ct_consts, ct_carry), (cts[num_carry:], stacked), backward=True
        )
        everything = [*ct_consts, *ct_carry, *ct_xs]
        return [ct for ct, there in zip(everything, self.differentiated, strict=True) if there]


def zeros_if_none(ct: Any, aval: Any) -> Any:
    """A cotangent that did not arrive, made zeros of its type."""
    return _jax.zeros(_jax.strong(aval)) if ct is None else ct


def _by_variable(atoms: Sequence[Any], values: Sequence[Any]) -> dict[Any, Any]:
    pairs = zip(atoms, values, strict=True)
    return {v: value for v, value in pairs if not isinstance(v, _jax.Literal)}
