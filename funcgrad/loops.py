"""scan, differentiated as a whole: a forward scan that gives out residuals, and a reverse one.

The body is split as a jitted function is. Of its residuals, what is constant over the loop is kept
once, an `xs` or a `ys` is kept as it is, and only the rest is stacked. Cotangents of the constants
accumulate in the backward scan's carry. Which carries are differentiated is a fixpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from funcgrad import _jax, errors
from funcgrad.custom import TangentTrace
from funcgrad.partition import Call, Source, Split, split_of
from funcgrad.program import Uncacheable
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
    with errors.located_at(_jax.where(_jax.current_source())):
        program = program_of_scan(params["jaxpr"], differentiated, trace.rules, settings)
    outs, residuals = program.forward(primals)
    if not any(program.present):
        return outs
    return trace.record(primitive, params, slots, outs, program.present, program, residuals)


def program_of_scan(*arguments: Any) -> ScanProgram:
    """The programs of a scan over a jaxpr, differentiating some operands by some rules."""
    try:
        return _cached_program(*arguments)
    except Uncacheable as uncacheable:
        return uncacheable.program


@_jax.weak_cache
def _cached_program(*arguments: Any) -> ScanProgram:
    program = make_program(*arguments)
    if program.split.closes_over_tracer:
        raise Uncacheable(program)
    return program


def make_program(
    closed: _jax.ClosedJaxpr, differentiated: tuple[bool, ...], rules: Rules, settings: ScanSettings
) -> ScanProgram:
    """Split the body, for the carries that turn out to be differentiated."""
    first, end = settings.num_consts, settings.num_consts + settings.num_carry
    wanted = list(differentiated)
    while True:
        split = split_of(closed, tuple(wanted), rules)
        carries = [a or b for a, b in zip(wanted[first:end], split.present, strict=False)]
        if carries == wanted[first:end]:
            return ScanProgram(split, tuple(wanted), differentiated, settings)
        wanted[first:end] = carries


@dataclass(frozen=True, eq=False)
class ScanProgram:
    """The forward scan, and the backward scan as the node's pullback.

    Attributes:
      split: the body, cut in two.
      wanted: which of the body's inputs are differentiated.
      differentiated: which of the scan's operands are.
    """

    split: Split
    wanted: tuple[bool, ...]
    differentiated: tuple[bool, ...]
    settings: ScanSettings
    programs: dict[Any, Any] = field(default_factory=dict)
    late: bool = False

    @property
    def present(self) -> list[bool]:
        """Which outputs carry a gradient."""
        num_carry = self.settings.num_carry
        _, carries, _ = self.settings.divide(self.wanted)
        return [*carries, *self.split.present[num_carry:]]

    def forward(self, primals: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Outputs, and residuals in the order of the body's."""
        if "forward" not in self.programs:
            self.programs["forward"] = jax.jit(self.trace_forward)
        outs, found = self.programs["forward"](*primals)
        consts, _, xs = self.settings.divide(primals)
        ys = outs[self.settings.num_carry :]
        known = {"const": consts, "x": xs, "y": ys, "closed": self.split.forward.consts}
        return outs, [
            found[place.index] if place.kind == "found" else known[place.kind][place.index]
            for place in self.places()
        ]

    def trace_forward(self, *primals: Any) -> tuple[list[Any], list[Any]]:
        """The forward scan, and those of its residuals that are neither operands nor outputs."""
        consts, init, xs = self.settings.divide(primals)
        kept = [i for i, place in enumerate(self.places()) if place.kind == "found"]

        def body(carry: list[Any], x: list[Any]) -> tuple[list[Any], Any]:
            outs, residuals = self.split.inline_forward([*consts, *carry, *x])
            num_carry = self.settings.num_carry
            return outs[:num_carry], (outs[num_carry:], [residuals[i] for i in kept])

        carry, (ys, stacked) = self.settings.run(body, init, xs)
        return [*carry, *ys], stacked

    def places(self) -> list[Source]:
        """Where the forward scan leaves each residual of the body."""
        num_closed = len(self.split.forward.consts)
        num_consts, num_carry = self.settings.num_consts, self.settings.num_carry
        places, num_found = [], 0
        for source in self.split.sources:
            index = source.index - num_closed
            if source.kind == "input" and index < 0:
                places.append(Source("closed", source.index))
            elif source.kind == "input" and index < num_consts:
                places.append(Source("const", index))
            elif source.kind == "input" and index >= num_consts + num_carry:
                places.append(Source("x", index - num_consts - num_carry))
            elif source.kind == "output" and source.index >= num_carry:
                places.append(Source("y", source.index - num_carry))
            else:
                places.append(Source("found", num_found))
                num_found += 1
        return places

    def __call__(self, residuals: Sequence[Any], cts: Sequence[Any], eager: bool) -> list[Any]:
        arrived = tuple(ct is not None for ct in cts)
        if arrived not in self.programs:
            self.programs[arrived] = jax.jit(lambda *args: self.trace_backward(arrived, *args))
        return self.programs[arrived](list(residuals), [ct for ct in cts if ct is not None])

    def trace_backward(
        self, arrived: Sequence[bool], residuals: list[Any], given: list[Any]
    ) -> list[Any]:
        """The backward scan: from the last step to the first."""
        settings, split = self.settings, self.split
        num_carry = settings.num_carry
        ct_outs = iter(given)
        cts = [next(ct_outs) if there else None for there in arrived]
        want_consts, want_carry, _ = settings.divide(self.wanted)
        avals = split.input_avals
        const_avals, carry_avals, _ = settings.divide(avals)
        ct_carry = [
            (_jax.zeros(aval) if ct is None else ct) if wanted else None
            for ct, aval, wanted in zip(cts, carry_avals, want_carry, strict=False)
        ]
        ct_consts = [
            _jax.zeros(aval) if wanted else None
            for aval, wanted in zip(const_avals, want_consts, strict=True)
        ]
        kinds = [place.kind for place in self.places()]
        fixed = {i: r for i, r in enumerate(residuals) if kinds[i] in ("const", "closed")}
        stacked = {i: r for i, r in enumerate(residuals) if i not in fixed}

        def body(carry: Any, x: Any) -> Any:
            ct_consts, ct_carry = carry
            ct_ys, step = x
            ct_step = [
                ct if there else None
                for ct, there in zip([*ct_carry, *ct_ys], split.present, strict=True)
            ]
            values = [fixed[i] if i in fixed else step[i] for i in range(len(residuals))]
            found = iter(split.apply_backward(values, ct_step, Call.inline))
            results = [next(found) if wanted else None for wanted in self.wanted]
            new_consts, new_carry, ct_xs = settings.divide(results)
            ct_consts = [
                old if new is None else jax.lax.add(old, new)
                for old, new in zip(ct_consts, new_consts, strict=True)
            ]
            new_carry = [
                _jax.zeros(aval) if wanted and ct is None else ct
                for ct, aval, wanted in zip(new_carry, carry_avals, want_carry, strict=True)
            ]
            return (ct_consts, new_carry), ct_xs

        start = jax.tree.map(jnp.asarray, (ct_consts, ct_carry))
        (ct_consts, ct_carry), ct_xs = settings.run(
            body, start, (cts[num_carry:], stacked), backward=True
        )
        everything = [*ct_consts, *ct_carry, *ct_xs]
        return [ct for ct, there in zip(everything, self.differentiated, strict=True) if there]
