"""scan, differentiated as a whole: a forward scan that gives out residuals, and a reverse one.

The body is split as a jitted function is; `loop_body.py` says which values the backward scan needs and
where they lie. An example, of which y and the last h are used:

    def step(h, x):                 w is a constant, h a carry, x of an `xs`, y of a `ys`
        h = tanh(h @ w + x)
        return h, h**2

    forward   step t    h_t, y_t, stack h_t
    backward  step t    reads      w (a constant), h_t (a stack), h_{t-1} (the same stack, one before)
                        is given   ct_h, carried, and ct_y_t
                        computes   ct_h += 2 h_t ct_y_t;  ct_z = (1 - h_t**2) ct_h
                        gives      ct_h = ct_z @ w^T, carried on;  ct_x_t = ct_z
                        adds up    ct_w += h_{t-1}^T @ ct_z, or that is left for after the scan:
    after               ct_w = sum_t h_{t-1}^T @ ct_z_t, one product of stacks (`late_sums.py`)

Which carries are differentiated, and which cotangents flow, is iterated until nothing is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
from jax import lax

from funcgrad import _jax
from funcgrad._jax import Atom, Cotangent, Mask, Value, Var, variables
from funcgrad.calls.entering import defcall
from funcgrad.calls.late_sums import Available, Deferral, bytes_without_cut, deferral_of
from funcgrad.calls.loop_body import Division, LoopProgram, Shift, cut_body
from funcgrad.masks import filled, mask_of, select
from funcgrad.partition.costs import size_in_bytes
from funcgrad.partition.work import length_of
from funcgrad.registry import Rules
from funcgrad.rule_program import cached


@dataclass(frozen=True)
class ScanSettings(Division):
    """A scan's parameters: how its operands divide, and how it runs."""

    length: int
    reverse: bool
    unroll: Any
    in_order: ClassVar[bool] = True

    @property
    def steps(self) -> int:
        return length_of(self.length)

    def run(self, body: Any, init: Any, xs: Any, backward: bool = False) -> Any:
        reverse = self.reverse != backward
        if isinstance(self.length, int):
            step = body if self.unroll == 1 else with_stacks_on_mesh(body)
            return jax.lax.scan(step, init, xs, self.length, reverse, self.unroll)

        def counted(carry: Any, x: Any) -> Any:
            return body(carry, x[0])

        # A symbolic length, in a program to be exported: JAX takes it from the operands alone.
        xs = (xs, jax.numpy.arange(self.length))
        return jax.lax.scan(counted, init, xs, reverse=reverse, unroll=self.unroll)


def with_stacks_on_mesh(body: Any) -> Any:
    """The body of a scan, where no value that is stacked is on no mesh."""

    def step(carry: Any, x: Any) -> Any:
        carry, ys = body(carry, x)
        return carry, jax.tree.map(_jax.onto_current_mesh, ys)

    return step


@defcall(lax.scan_p)
def scan_call(
    primitive: Any, params: dict[str, Any], differentiated: tuple[bool, ...], rules: Rules
) -> ScanProgram:
    """A scan's forward and backward scans."""
    settings = ScanSettings(*_jax.scan_settings(params))
    return program_of_scan(params["jaxpr"], differentiated, rules, settings)


@cached(_jax.weak_cache)
def program_of_scan(
    closed: _jax.ClosedJaxpr, differentiated: Mask, rules: Rules, settings: ScanSettings
) -> ScanProgram:
    """The programs of a scan over this body."""
    cut, inside = cut_body(closed, differentiated, rules, settings)
    return ScanProgram(cut, inside, differentiated, settings)


@dataclass(frozen=True, eq=False)
class ScanProgram(LoopProgram):
    """The forward scan, and the backward scan as the node's pullback."""

    division: ScanSettings

    # --- forward

    def forward(self, primals: Sequence[Value]) -> tuple[list[Value], list[Value]]:
        """Outputs, and residuals: the values of the plan's kept variables, and ends.

        For a shifted carry the value is its neighbour's stack. Its end is the carry before or after the
        loop.
        """
        outs, once, stacked = self.jitted_forward(*primals)
        body, storage, operands = self.body, self.storage, self.division.divide(primals)
        of_steps = _by_variable(body.ys, outs[self.division.num_carry :])
        of_steps |= _by_variable(storage.stacked, stacked)
        found = {
            **of_steps,
            **_by_variable(storage.once, once),
            **_by_variable(body.xs, operands.xs),
            **_by_variable(body.consts, operands.consts),
            **{v: of_steps[shift.neighbour] for v, shift in storage.shifted.items()},
        }
        ends = [
            (outs if shift.ahead else operands.carries)[shift.carry]
            for shift in storage.shifted.values()
        ]
        return outs, [*(found[v] for v in self.plan.kept), *ends]

    def trace_forward(self, *primals: Value) -> tuple[list[Value], list[Value], list[Value]]:
        """The forward scan: outputs, values that are kept once, and stacks."""
        body, storage, operands = self.body, self.storage, self.division.divide(primals)
        known = _by_variable(body.consts, operands.consts)
        once = self.plan.compute(known, storage.once, effects=False)
        targets = [*body.carries_out, *body.ys, *storage.stacked]
        num_carry, num_outs = len(body.carries), len(body.carries) + len(body.ys)

        def step(carry: list[Value], x: list[Value]) -> tuple[list[Value], Any]:
            now = {**known, **_by_variable(body.carries, carry), **_by_variable(body.xs, x)}
            values = self.plan.compute(now, targets)
            return values[:num_carry], (values[num_carry:num_outs], values[num_outs:])

        carry, (ys, stacked) = self.division.run(step, operands.carries, operands.xs)
        return [*carry, *ys], once, stacked

    # --- backward

    def trace_backward(self, residuals: list[Value], cts: list[Cotangent]) -> list[Cotangent]:
        """The backward scan, from the last step to the first, and then the sums that were put off."""
        num_kept = len(self.plan.kept)
        kept = dict(zip(self.plan.kept, residuals[:num_kept], strict=True))
        ends = dict(zip(self.storage.shifted, residuals[num_kept:], strict=True))
        ct_ys = cts[self.division.num_carry :]
        _, ct_carry = self.start_back(cts)
        arrived = mask_of(self.cut.taken([*ct_carry, *ct_ys]))
        sums = self.deferral(arrived)
        added, stacks = BackwardScan(self, sums, kept, ends).run(ct_carry, ct_ys)
        stacks |= {v: ct_ys[i] for v, i in self.ct_variables(arrived).items()}
        known = {**sums.plan.joint.constants, **kept}
        results = sums.end(select(added, self.inside), stacks, known)
        return select(results, select(self.differentiated, self.inside))

    def ct_variables(self, arrived: Mask) -> dict[Var, int]:
        """The variables of the cotangents of `ys`, and which `ys` each is of."""
        plan = self.cut.plan_for(arrived)
        first = self.division.num_carry
        outs = select(range(len(arrived)), arrived)
        pairs = zip(plan.joint.cts, outs, strict=True)
        return {v: i - first for v, i in pairs if i >= first}

    def deferral(self, arrived: Mask) -> Deferral:
        """The sums that are left for after the backward scan, for a pattern of cotangents."""
        plan = self.cut.plan_for(arrived)
        is_const = [i < len(self.body.consts) for i, inside in enumerate(self.inside) if inside]
        stacks = frozenset(
            {*self.storage.per_step, *self.storage.shifted, *self.ct_variables(arrived)}
        )
        known = frozenset({*self.plan.kept, *plan.joint.constants} - stacks)
        at_hand = {*self.cut.fixed, *self.body.xs, *variables(self.body.ys)}
        room = bytes_without_cut(self.cut.split, at_hand)
        room -= sum(size_in_bytes(v.aval) for v in self.storage.stacked)
        available = Available(stacks, known, self.division.length, room)
        return deferral_of(plan, is_const, available)


@dataclass(frozen=True, eq=False)
class BackwardScan:
    """The loop of a backward scan, for one pattern of cotangents.

    Attributes:
      program: the scan's programs.
      sums: the plan of a step, and the sums that are left for the end.
      kept: the values of the plan's kept variables: of all steps, or the same in each step.
      ends: of a shifted carry, its value in the step that has no neighbour.
    """

    program: ScanProgram
    sums: Deferral
    kept: dict[Var, Value]
    ends: dict[Var, Value]

    def run(
        self, ct_carry: Sequence[Cotangent], ct_ys: Sequence[Cotangent]
    ) -> tuple[list[Cotangent], dict[Var, Value]]:
        """The cotangents of the body's inputs, late sums left out, and all stacks."""
        program = self.program
        ct_consts = program.of_inputs(self.sums.start()).consts
        stacks = {v: stack for v, stack in self.kept.items() if v in program.storage.per_step}
        shifted = {v: s for v, s in program.storage.shifted.items() if v in self.sums.kept}

        def body(carry: Any, x: Any) -> Any:
            count, ct_consts, ct_carry = carry
            ct_ys, step = x
            now = {**self.kept, **dict(zip(stacks, step, strict=True))}
            now |= {v: self.in_step(v, shift, count) for v, shift in shifted.items()}
            cts, results = self.step(now, ct_consts, ct_carry, ct_ys)
            return (count + 1 if shifted else None, *cts), results

        init = jax.numpy.asarray(0) if shifted else None, ct_consts, ct_carry
        (_, ct_consts, ct_carry), (ct_xs, more) = program.division.run(
            body, init, (ct_ys, [*stacks.values()]), backward=True
        )
        shifted = {v: s for v, s in program.storage.shifted.items() if v in self.sums.read_late}
        stacks |= {v: self.in_all_steps(v, shift) for v, shift in shifted.items()}
        stacks |= dict(zip(self.sums.stacked, more, strict=True))
        return [*ct_consts, *ct_carry, *ct_xs], stacks

    def step(
        self, now: dict[Var, Value], ct_consts: Any, ct_carry: Any, ct_ys: Sequence[Cotangent]
    ) -> Any:
        """One step back: the carry, the cotangents of elements of `xs`, and the values to be stacked."""
        given = filled(self.program.cut.taken([*ct_carry, *ct_ys]))
        results, more = self.sums.pull_back([now[v] for v in self.sums.kept], given)
        cts = self.program.after_step(ct_consts, ct_carry, results)
        return (cts.consts, cts.carries), (cts.xs, more)

    def reads_next(self, shift: Shift) -> bool:
        """Whether a shifted carry's neighbour is the next element of the stack."""
        return shift.ahead != self.program.division.reverse

    def in_step(self, v: Var, shift: Shift, count: Value) -> Value:
        """A shifted carry's value when `count` steps are done: an element of its neighbour's stack.

        In the step that has no neighbour it is the end, and the index, out of range, is not minded.
        """
        stack, end, length = self.kept[v], self.ends[v], self.program.division.length
        if not length:
            return end
        index = count if self.program.division.reverse else length - 1 - count
        near = index + 1 if self.reads_next(shift) else index - 1
        value = jax.lax.dynamic_index_in_dim(
            stack, near, 0, keepdims=False, allow_negative_indices=False
        )
        return jax.lax.select(count == (0 if shift.ahead else length - 1), end, value)

    def in_all_steps(self, v: Var, shift: Shift) -> Value:
        """A shifted carry's values in all steps: its neighbour's stack, moved by one step."""
        stack, end = self.kept[v], self.ends[v]
        if not self.program.division.length:
            return stack
        parts = [stack[1:], end[None]] if self.reads_next(shift) else [end[None], stack[:-1]]
        return jax.lax.concatenate(parts, 0)


def _by_variable(atoms: Sequence[Atom], values: Sequence[Value]) -> dict[Var, Value]:
    pairs = zip(atoms, values, strict=True)
    return {v: value for v, value in pairs if not _jax.is_literal(v)}
