"""while_loop, and fori_loop with bounds known at run time only, in reverse and in bounded memory.

The forward loop goes in units of a fixed number of steps. At the start of each unit the state goes to
one of a fixed number of checkpoints (`slots.py`); what the backward program reads of the steps is kept
for the latest unit alone. The backward loop goes back unit by unit: it restores the latest checkpoint,
runs on from there to the unit, keeping checkpoints in the slots that have become free, runs through the
unit to keep what is read of it, and walks back over the unit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.tree_util import tree_leaves

from funcgrad import _jax, errors
from funcgrad.calls.entering import defcall
from funcgrad.calls.loop_body import Division, LoopProgram, cut_body
from funcgrad.calls.snapshots import Slots
from funcgrad.partition.costs import size_in_bytes
from funcgrad.partition.plan import equations_between
from funcgrad.registry import Rules
from funcgrad.rule_program import cached


@contextlib.contextmanager
def loops(*, checkpoints: int) -> Iterator[None]:
    """Set how many states a ``while_loop`` keeps for its backward pass, within the block.

    A loop of up to n units of steps repeats no step more than r times if n <= binomial(c - 1 + r, r)
    with c checkpoints. A unit has as many steps as the memory of the checkpoints holds what the
    backward pass reads of a step, and at most as many as there are checkpoints. The default, 32,
    repeats nothing up to 32 steps, each step once up to 1,024 steps and three times up to
    191,488 where a step is read no more than it carries on. Differentiated functions that are called
    in the block are affected; results do not depend on it but for rounding.

    Args:
      checkpoints: the number of states, at least 2.

    Raises:
      errors.InputError: `checkpoints` is not an integer of at least 2.

    Example:
      >>> import jax, funcgrad
      >>> def root(a):  # Newton's method
      ...     return jax.lax.while_loop(lambda x: abs(x * x - a) > 1e-6, lambda x: (x + a / x) / 2, a)
      >>> with funcgrad.loops(checkpoints=4):
      ...     print(round(float(funcgrad.grad(root)(9.0)), 4))
      0.1667
    """
    if not isinstance(checkpoints, int) or checkpoints < 2:
        raise errors.InputError(
            f"funcgrad.loops was asked for checkpoints={checkpoints!r}. A loop needs an integer number "
            "of at least 2 checkpoints to be run backward: its first state and its latest."
        )
    with _jax.loop_checkpoints(checkpoints):
        yield


@defcall(lax.while_p)
def while_call(
    primitive: Any, params: dict[str, Any], differentiated: tuple[bool, ...], rules: Rules
) -> WhileProgram:
    """A while loop's forward and backward loops."""
    return program_of_while(
        params["body_jaxpr"],
        params["cond_jaxpr"],
        params["body_nconsts"],
        differentiated,
        rules,
        _jax.loop_checkpoints.value,
    )


@cached(_jax.weak_cache)
def program_of_while(
    body: _jax.ClosedJaxpr,
    test: _jax.ClosedJaxpr,
    num_body_consts: int,
    differentiated: tuple[bool, ...],
    rules: Rules,
    checkpoints: int,
) -> WhileProgram:
    """The programs of a while loop with this body and this test."""
    num_consts = len(differentiated) - len(body.out_avals)
    division = Division(num_consts, len(body.out_avals))
    num_tests = num_consts - num_body_consts
    closed = body_of_all(body, test, num_tests)
    cut, wanted = cut_body(closed, differentiated, rules, division)
    return WhileProgram(cut, wanted, differentiated, division, {}, test, num_tests, checkpoints)


def body_of_all(body: _jax.ClosedJaxpr, test: _jax.ClosedJaxpr, num_tests: int) -> _jax.ClosedJaxpr:
    """The body as a function of all of the loop's operands, those of its test included.

    In a batched loop each example has a test of its own: one that has ended keeps its values.
    """
    num_carry = len(body.out_avals)

    def run(*operands: Any) -> list[Any]:
        old = operands[len(operands) - num_carry :]
        new = _jax.eval_closed_jaxpr(body, operands[num_tests:])
        if not test.out_avals[0].shape:
            return new
        (going,) = _jax.eval_closed_jaxpr(test, [*operands[:num_tests], *old])
        return [select_examples(going, y, x) for x, y in zip(old, new, strict=True)]

    if not num_tests and not test.out_avals[0].shape:
        return body
    num_body_consts = len(body.in_avals) - num_carry
    avals = [*test.in_avals[:num_tests], *body.in_avals[:num_body_consts], *body.out_avals]
    return _jax.stage_closed(run, avals, _jax.function_of(body))


def select_examples(which: Any, on_true: Any, on_false: Any) -> Any:
    """By leading axes, which are the batch's."""
    which = lax.broadcast_in_dim(which, on_true.shape, tuple(range(which.ndim)))
    return lax.select(which, on_true, on_false)


class Progress(NamedTuple):
    """Where the forward loop is: whether it goes on, its steps so far, and its values."""

    going: Any
    steps: Any
    carry: list[Any]
    kept: list[Any]


@dataclass(frozen=True, eq=False)
class WhileProgram(LoopProgram):
    """The forward loop with its checkpoints, and the backward loop as the node's pullback.

    Attributes:
      test: the loop's condition, and how many operands it has before the carry.
      checkpoints: how many states are kept.
    """

    test: Any = None
    num_tests: int = 0
    checkpoints: int = 0

    @property
    def present(self) -> list[bool]:
        """Which outputs carry a gradient."""
        return self.carried

    @cached_property
    def state(self) -> list[int]:
        """The carries that a checkpoint must have, for the kept values to be computed from it."""
        _, carries, _, carry_outs, _ = self.variables
        found: list[int] = []
        while True:
            targets = [*self.stacked, *(carry_outs[i] for i in found)]
            reads = self.inputs_of(targets)
            more = [i for i, v in enumerate(carries) if v in reads]
            if more == found:
                return found
            found = more

    def inputs_of(self, targets: Sequence[Any]) -> set[Any]:
        """The body's inputs from which the targets are computed."""
        consts, carries, *_ = self.variables
        known = {*consts, *carries, *self.kept_once, *self.plan.joint.constants}
        wanted = _jax.variables(targets)
        eqns = equations_between(self.plan.joint.equations, known, wanted)
        return {v for eqn in eqns for v in _jax.variables(eqn.invars)} | set(wanted)

    @cached_property
    def consts_read(self) -> list[int]:
        """The constants that the backward program reads."""
        consts, _, _, carry_outs, _ = self.variables
        reads = self.inputs_of([*self.stacked, *(carry_outs[i] for i in self.state)])
        reads |= set(self.plan.kept) | set(_jax.variables(self.plan.joint.results))
        return [i for i, v in enumerate(consts) if v in reads]

    @cached_property
    def unit(self) -> int:
        """Steps in a unit: as many as fit into the memory of the checkpoints."""
        _, carries, *_ = self.variables
        checkpoint = sum(size_in_bytes(carries[i].aval) for i in self.state)
        step = sum(size_in_bytes(v.aval) for v in self.stacked)
        return max(1, min(self.checkpoints, self.checkpoints * checkpoint // max(1, step)))

    # --- forward

    def forward(self, primals: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Outputs, and all that the backward loop starts from."""
        outs, residuals = self.jitted_forward(*primals)
        consts, *_ = self.division.divide(primals)
        return outs, [*(consts[i] for i in self.consts_read), *residuals]

    def trace_forward(self, *primals: Any) -> tuple[list[Any], list[Any]]:
        """The forward loop."""
        consts, init, _ = self.division.divide(primals)
        const_vars, carry_vars, _, carry_outs, _ = self.variables
        known = dict(zip(const_vars, consts, strict=True))
        once = self.plan.run_forward(known, self.kept_once, effects=False)

        def goes_on(carry: list[Any]) -> Any:
            (going,) = _jax.eval_closed_jaxpr(self.test, [*consts[: self.num_tests], *carry])
            return jnp.any(going)

        def step(now: Progress) -> Progress:
            values = {**known, **dict(zip(carry_vars, now.carry, strict=True))}
            results = self.plan.run_forward(values, [*carry_outs, *self.stacked])
            carry, stacked = results[: len(carry_outs)], results[len(carry_outs) :]
            kept = _write(now.kept, stacked, now.steps % self.unit)
            return Progress(goes_on(carry), now.steps + 1, carry, kept)

        def run_unit(loop: tuple[Progress, Slots]) -> tuple[Progress, Slots]:
            now, slots = loop
            end = now.steps + self.unit
            slots = slots.put(now.steps // self.unit, [now.carry[i] for i in self.state])
            now = lax.while_loop(lambda now: now.going & (now.steps < end), step, now)
            return now, slots

        kept = [_jax.blank(v.aval, self.unit) for v in self.stacked]
        start = Progress(goes_on(init), jnp.int32(0), list(init), kept)
        slots = Slots.empty(self.checkpoints, [init[i] for i in self.state])
        now, slots = lax.while_loop(lambda loop: loop[0].going, run_unit, (start, slots))
        return now.carry, tree_leaves([once, now.steps, slots, now.kept])

    # --- backward

    def trace_backward(self, residuals: list[Any], cts: list[Any]) -> list[Any]:
        """The backward loop: from the last unit to the first."""
        known, steps, slots, kept = self.unpack(residuals)

        def back(loop: Any) -> Any:
            time, slots, kept, *cts = loop
            count = jnp.minimum(steps - time * self.unit, self.unit)
            cts = self.unit_back(known, kept, count, cts)
            time = time - 1
            slots, state = self.restore(known, slots.drop_from(time + 1), time)
            kept = self.run_again(known, state, kept, jnp.where(time >= 0, self.unit, 0))
            return time, slots, kept, *cts

        last = (steps - 1) // self.unit
        flows, ct_carry = self.start_back(cts)
        const_avals, *_ = self.division.divide(self.cut.split.input_avals)
        zipped = zip(const_avals, flows, strict=True)
        ct_consts = [_jax.strong_zeros(aval) if there else None for aval, there in zipped]
        init = last, slots, kept, ct_consts, ct_carry
        *_, ct_consts, ct_carry = lax.while_loop(lambda loop: loop[0] >= 0, back, init)
        everything = [*ct_consts, *ct_carry]
        return [ct for ct, there in zip(everything, self.differentiated, strict=True) if there]

    def unpack(self, residuals: Sequence[Any]) -> tuple[dict[Any, Any], Any, Slots, list[Any]]:
        """Values that are the same in each step, the number of steps, checkpoints, kept values."""
        consts, *_ = self.variables
        fixed = [*(consts[i] for i in self.consts_read), *self.kept_once]
        values = iter(residuals)
        known = {v: next(values) for v in fixed}
        steps, times, levels = (next(values) for _ in range(3))
        states = [next(values) for _ in self.state]
        return known, steps, Slots(times, levels, states), list(values)

    def unit_back(
        self, known: dict[Any, Any], kept: list[Any], count: Any, cts: Sequence[Any]
    ) -> Sequence[Any]:
        """Cotangents of constants and carries, from after `count` kept steps to before them."""

        def step(i: Any, cts: Any) -> Any:
            now = known | dict(zip(self.stacked, _read(kept, count - 1 - i), strict=True))
            ct_outs = self.cts_in_step(cts[1], [])
            results = self.cut.pull_back([now[v] for v in self.plan.kept], ct_outs)
            return self.after_step(cts, results)[:2]

        return lax.fori_loop(0, count, step, tuple(cts))

    def restore(self, known: dict[Any, Any], slots: Slots, time: Any) -> tuple[Slots, list[Any]]:
        """The state at the start of the unit `time`; on the way there, checkpoints are taken."""

        def run_unit(loop: Any) -> Any:
            now, state, slots = loop
            state = lax.fori_loop(0, self.unit, lambda _, state: self.run(known, state)[0], state)
            now = now + 1
            return (
                now,
                state,
                lax.cond(now < time, Slots.put, lambda slots, *_: slots, slots, now, state),
            )

        start, state = slots.latest()
        _, state, slots = lax.while_loop(
            lambda loop: loop[0] < time, run_unit, (start, state, slots)
        )
        return slots, state

    def run_again(
        self, known: dict[Any, Any], state: list[Any], kept: list[Any], count: Any
    ) -> list[Any]:
        """What is kept of `count` steps from this state on."""

        def step(i: Any, loop: Any) -> Any:
            state, stacked = self.run(known, loop[0])
            return state, _write(loop[1], stacked, i)

        return lax.fori_loop(0, count, step, (state, kept))[1]

    def run(self, known: dict[Any, Any], state: list[Any]) -> tuple[list[Any], list[Any]]:
        """One step again: the next state, and what is kept of this one."""
        _, carry_vars, _, carry_outs, _ = self.variables
        values = known | {carry_vars[i]: x for i, x in zip(self.state, state, strict=True)}
        wanted = [*(carry_outs[i] for i in self.state), *self.stacked]
        results = self.plan.run_forward(values, wanted, effects=False)
        return results[: len(state)], results[len(state) :]


def _write(buffers: Sequence[Any], values: Sequence[Any], index: Any) -> list[Any]:
    return [
        lax.dynamic_update_index_in_dim(buffer, x, index, 0)
        for buffer, x in zip(buffers, values, strict=True)
    ]


def _read(buffers: Sequence[Any], index: Any) -> list[Any]:
    return [lax.dynamic_index_in_dim(x, index, 0, keepdims=False) for x in buffers]
