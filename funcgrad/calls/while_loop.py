"""while_loop, and fori_loop with bounds known at run time only, in reverse and in bounded memory.

The forward loop goes in *units* of a fixed number of steps. It takes a snapshot of the state at the
start of each unit, in a fixed number of places (`snapshots.py`). It also keeps the values that the
backward loop reads of each step, but for the latest unit alone: the next unit writes over them.

The backward loop goes back unit by unit. An example: 6 steps, units of 2, 2 snapshots.

    forward     run 0 1 | 2 3 | 4 5         snapshots of 0 and 4 are left (4 took the place of 2),
                                            and the kept values of 4 5
    backward    walk back over 5 4
                drop the snapshot of 4      the latest is now that of 0
                run 0 1                     to get to the state before 2
                run 2 3, keep their values  these take the place of those of 4 5
                walk back over 3 2
                restore 0
                run 0 1, keep their values
                walk back over 1 0

A loop that is no longer than a unit repeats nothing. Of units of one step no values are kept: each step
is run again just before the walk back over it. A snapshot holds only the carries from which the
kept values can be computed (`WhileProgram.state`). Where the loop's test bounds its steps
(`step_bounds.py`), there are no more places than the loop can use: one that fits into a unit has no
snapshots, and its kept values alone.
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
from funcgrad._jax import Atom, Cotangent, Equation, Mask, Positions, Value, Var, variables
from funcgrad.calls.entering import defcall
from funcgrad.calls.examples import body_of_all, loop_of_own_values
from funcgrad.calls.jit import JitProgram
from funcgrad.calls.loop_body import Division, LoopProgram, cut_body
from funcgrad.calls.searches import SearchProgram
from funcgrad.calls.snapshots import Snapshots, at_index, with_index
from funcgrad.calls.step_bounds import most_steps
from funcgrad.masks import only, select
from funcgrad.partition.costs import size_in_bytes
from funcgrad.partition.plan import equations_between
from funcgrad.partition.split import split_of
from funcgrad.registry import Rules
from funcgrad.rule_program import cached


@contextlib.contextmanager
def loops(*, checkpoints: int) -> Iterator[None]:
    """Set how many states a ``while_loop`` keeps for its backward pass, within the block.

    A loop of up to n units of steps repeats no step more than r times if n <= binomial(c - 1 + r, r)
    with c checkpoints. A unit has as many steps as the memory of the checkpoints holds what the
    backward pass reads of a step, and at most as many as there are checkpoints. The default, 32,
    repeats nothing up to 32 steps, each step once up to 1,024 steps and three times up to
    191,488 where a step is read no more than it carries on. A loop whose test bounds its steps
    (``(i < 50) & (error > 1e-6)``, where ``i`` starts as 0) repeats nothing and keeps no states if that
    takes no more memory. Differentiated functions that are called in the block are affected; results do
    not depend on it but for rounding.

    Args:
      checkpoints: the number of states, at least 2.

    Returns:
      A context manager, or decorator, for the block.

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


@defcall(lax.while_p, integers=True)
def while_call(
    primitive: Any, params: dict[str, Any], differentiated: tuple[bool, ...], rules: Rules
) -> WhileProgram | JitProgram | SearchProgram:
    """A while loop's forward and backward loops."""
    body, test = params["body_jaxpr"], params["cond_jaxpr"]
    if _jax.searches_for_minimum(body):
        return SearchProgram(primitive, {k: v for k, v in params.items() if k != "integers"})
    start = params["integers"][params["cond_nconsts"] + params["body_nconsts"] :]
    most = most_steps(test, body, start) if any(i is not None for i in start) else None
    checkpoints = _jax.loop_checkpoints.value
    return program_of_while(
        body, test, params["body_nconsts"], differentiated, rules, checkpoints, most
    )


@cached(_jax.weak_cache)
def program_of_while(
    body: _jax.ClosedJaxpr,
    test: _jax.ClosedJaxpr,
    num_body_consts: int,
    differentiated: Mask,
    rules: Rules,
    checkpoints: int,
    most: int | None,
) -> WhileProgram | JitProgram:
    """The programs of a while loop with this body and this test."""
    num_consts = len(differentiated) - len(body.out_avals)
    division = Division(num_consts, len(body.out_avals))
    num_tests = num_consts - num_body_consts
    by_itself = loop_of_own_values(body, test, num_tests)
    if by_itself is not None:
        return JitProgram(split_of(by_itself, differentiated, rules), {})
    closed = body_of_all(body, test, num_tests)
    cut, inside = cut_body(closed, differentiated, rules, division)
    return WhileProgram(
        cut, inside, differentiated, division, {}, test, num_tests, checkpoints, most
    )


class Progress(NamedTuple):
    """Where the forward loop is.

    Attributes:
      going: whether it goes on.
      steps: the steps done so far.
      carry: its values.
      recent: the kept values of the steps of the latest unit.
    """

    going: Value
    steps: Value
    carry: list[Value]
    recent: list[Value]


class Residue(NamedTuple):
    """The residuals of the loop, by their kind: the forward loop leaves them for the backward loop.

    Attributes:
      known: values of variables that are the same in each step.
      steps: the number of steps.
      snapshots: states at the start of units; of a loop that is one unit, none.
      recent: the kept values of the steps of the latest unit.
    """

    known: dict[Var, Value]
    steps: Value
    snapshots: Snapshots | None
    recent: list[Value]


@dataclass(frozen=True, eq=False)
class WhileProgram(LoopProgram):
    """The forward loop with its snapshots, and the backward loop as the node's pullback.

    Attributes:
      test: the loop's condition.
      num_tests: how many operands the condition has before the carry.
      checkpoints: how many snapshots may be kept.
      most: the most steps that the loop can take; None if that is not known.
    """

    test: Any = None
    num_tests: int = 0
    checkpoints: int = 0
    most: int | None = None

    # --- which values are kept

    @cached_property
    def state(self) -> Positions:
        """The carries that a snapshot must have, so that the stacked values can be computed from it."""
        found: Positions = ()
        while True:
            reads = self.inputs_read([*self.state_out(found), *self.storage.stacked])
            more = tuple(i for i, v in enumerate(self.body.carries) if v in reads)
            if more == found:
                return found
            found = more

    def state_out(self, state: Positions) -> list[Atom]:
        """The variables of a state after a step."""
        return [self.body.carries_out[i] for i in state]

    def inputs_read(self, targets: Sequence[Atom]) -> set[Var]:
        """The body's inputs from which the targets are computed."""
        eqns = self.equations_of(targets)
        return {v for eqn in eqns for v in variables(eqn.invars)} | {*variables(targets)}

    def equations_of(self, targets: Sequence[Atom]) -> list[Equation]:
        """The equations that compute the targets, in which loops carry only what the targets need."""
        joint = self.plan.joint
        known = {*self.body.consts, *self.body.carries, *self.storage.once, *joint.constants}
        eqns = equations_between(joint.equations, known, variables(targets))
        return _jax.without_dead_carries(eqns, targets)

    @cached_property
    def again(self) -> tuple[list[Equation], list[Atom]]:
        """The equations of a step that is run again, and its results: a state and the stacked values."""
        targets = [*self.state_out(self.state), *self.storage.stacked]
        return self.equations_of(targets), targets

    @cached_property
    def consts_read(self) -> Positions:
        """The constants that the backward loop reads, to run steps again or to go back."""
        reads = {*self.plan.kept, *variables(self.plan.joint.results)}
        if not self.is_one_unit:
            reads |= self.inputs_read(self.again[1])
        return tuple(i for i, v in enumerate(self.body.consts) if v in reads)

    @cached_property
    def unit_length(self) -> int:
        """The number of steps in a unit: as many as fit into the memory of the snapshots.

        All that the loop can take, where these need no more memory than such a unit and the snapshots.
        """
        snapshots = self.checkpoints * sum(
            size_in_bytes(self.body.carries[i].aval) for i in self.state
        )
        step = sum(size_in_bytes(v.aval) for v in self.storage.stacked)
        length = max(1, min(self.checkpoints, snapshots // max(1, step)))
        if self.most is not None and self.most * step <= snapshots + length * step:
            return max(1, self.most)
        return length

    @property
    def is_one_unit(self) -> bool:
        """Whether the loop cannot take more steps than a unit has."""
        return self.most is not None and self.most <= self.unit_length

    @property
    def by_steps(self) -> bool:
        """Whether the units are single steps, each of which is run again before the walk back over it.

        The forward loop then keeps nothing but snapshots: to run the last step once more costs less
        than to write down, in each step, what the backward loop reads of the latest.
        """
        return self.unit_length == 1 and not self.is_one_unit

    @property
    def left(self) -> tuple[Var, ...]:
        """The variables whose values the forward loop leaves for the latest unit."""
        return () if self.by_steps else self.storage.stacked

    @property
    def num_marks(self) -> int:
        """How many residuals are the number of steps and the snapshots."""
        return 1 if self.is_one_unit else 3 + len(self.state)

    @property
    def places(self) -> int:
        """The number of snapshots that are kept."""
        if self.most is None:
            return self.checkpoints
        return min(self.checkpoints, -(-self.most // self.unit_length))

    # --- forward

    def forward(self, primals: Sequence[Value]) -> tuple[list[Value], list[Value]]:
        """Outputs and residuals; `unpack` takes the residuals apart."""
        outs, residuals = self.jitted_forward(*primals)
        consts = self.division.divide(primals).consts
        return outs, [*(consts[i] for i in self.consts_read), *residuals]

    def trace_forward(self, *primals: Value) -> tuple[list[Value], list[Value]]:
        """The forward loop, unit by unit."""
        operands = self.division.divide(primals)
        known = dict(zip(self.body.consts, operands.consts, strict=True))
        init = operands.carries
        once = self.plan.compute(known, self.storage.once, effects=False)
        length = jnp.int32(self.unit_length)

        def goes_on(carry: list[Value]) -> Value:
            return self.goes_on(operands.consts, carry)

        def step(now: Progress) -> Progress:
            carry, stacked = self.step(known, now.carry)
            place = now.steps if self.is_one_unit else lax.rem(now.steps, length)
            recent = _write(now.recent, stacked, place)
            return Progress(goes_on(carry), now.steps + 1, carry, recent)

        def run_unit(loop: tuple[Progress, Snapshots]) -> tuple[Progress, Snapshots]:
            now, snapshots = loop
            end = now.steps + length
            state = [now.carry[i] for i in self.state]
            snapshots = snapshots.put(lax.div(now.steps, length), state)
            if self.by_steps:
                return step(now), snapshots
            now = lax.while_loop(lambda now: now.going & (now.steps < end), step, now)
            return now, snapshots

        recent = [_jax.blank(v.aval, self.unit_length) for v in self.left]
        start = Progress(goes_on(init), jnp.int32(0), list(init), recent)
        if self.is_one_unit:
            now = lax.while_loop(lambda now: now.going, step, start)
            return now.carry, tree_leaves([once, now.steps, now.recent])
        snapshots = Snapshots.empty(self.places, [init[i] for i in self.state])
        now, snapshots = lax.while_loop(lambda loop: loop[0].going, run_unit, (start, snapshots))
        return now.carry, tree_leaves([once, now.steps, snapshots, now.recent])

    def goes_on(self, consts: Sequence[Value], carry: Sequence[Value]) -> Value:
        """Whether the loop, or the loop of any example of a batch, goes on from this carry."""
        (going,) = _jax.eval_closed_jaxpr(self.test, [*consts[: self.num_tests], *carry])
        return jnp.any(going)

    def step(
        self, known: dict[Var, Value], carry: Sequence[Value]
    ) -> tuple[list[Value], list[Value]]:
        """A step forward, with its effects: the next carry, and what is kept of this step."""
        values = {**known, **dict(zip(self.body.carries, carry, strict=True))}
        results = self.plan.compute(values, [*self.body.carries_out, *self.left])
        return results[: len(carry)], results[len(carry) :]

    # --- backward

    def trace_backward(self, residuals: list[Value], cts: list[Cotangent]) -> list[Cotangent]:
        """The backward loop: from the last unit to the first."""
        known, steps, snapshots, recent = self.unpack(residuals)
        length = jnp.int32(self.unit_length)
        consts, ct_carry = self.start_back(cts)
        ct_avals = only(self.ct_avals.consts, consts)
        ct_consts = _jax.instantiated([None] * len(consts), ct_avals)
        if snapshots is None:
            ct_consts, ct_carry = self.unit_back(known, recent, steps, (ct_consts, ct_carry))
            return select([*ct_consts, *ct_carry], self.differentiated)

        def back(loop: Any) -> Any:
            time, snapshots, recent, *cts = loop
            count = lax.min(steps - time * length, length)
            cts = self.unit_back(known, recent, count, cts)
            time = time - 1
            snapshots, state = self.restore(known, snapshots.drop_from(time + 1), time)
            count = lax.select(time >= 0, length, jnp.int32(0))
            recent = self.run_again(known, state, recent, count)
            return time, snapshots, recent, *cts

        def step_back(loop: Any) -> Any:
            time, snapshots, _, *cts = loop
            snapshots, state = self.restore(known, snapshots, time)
            _, stacked = self.step_again(known, state)
            stacked = [_jax.to_be_read_again(x) for x in stacked]
            cts = self.step_back(known, stacked, cts)
            return time - 1, snapshots.drop_from(time), [], *cts

        last = lax.div(steps + length - 1, length) - 1  # -1 if there was no step
        init = last, snapshots, recent, ct_consts, ct_carry
        *_, ct_consts, ct_carry = lax.while_loop(
            lambda loop: loop[0] >= 0, step_back if self.by_steps else back, init
        )
        return select([*ct_consts, *ct_carry], self.differentiated)

    def unpack(self, residuals: Sequence[Value]) -> Residue:
        """The node's residuals by their kind, in the order in which `forward` gives them."""
        fixed = [*(self.body.consts[i] for i in self.consts_read), *self.storage.once]
        values = iter(residuals)
        known = {v: next(values) for v in fixed}
        steps = next(values)
        if self.is_one_unit:
            return Residue(known, steps, None, list(values))
        times, levels = next(values), next(values)
        states = [next(values) for _ in self.state]
        return Residue(known, steps, Snapshots(times, levels, states), list(values))

    def unit_back(
        self, known: dict[Var, Value], recent: list[Value], count: Value, cts: Sequence[Any]
    ) -> Any:
        """The constants' and the carries' cotangents, back over the first `count` steps of a unit."""

        def step(i: Value, cts: Any) -> Any:
            return self.step_back(known, _read(recent, count - 1 - i), cts)

        return lax.fori_loop(0, count, step, tuple(cts))

    def step_back(self, known: dict[Var, Value], stacked: list[Value], cts: Any) -> Any:
        """The constants' and the carries' cotangents, back over a step with these stacked values."""
        ct_consts, ct_carry = cts
        now = known | dict(zip(self.storage.stacked, stacked, strict=True))
        results = self.cut.pull_back([now[v] for v in self.plan.kept], ct_carry)
        return self.after_step(ct_consts, ct_carry, results)[:2]

    def restore(
        self, known: dict[Var, Value], snapshots: Snapshots, time: Value
    ) -> tuple[Snapshots, list[Value]]:
        """The state at the start of the unit `time`; on the way there, snapshots are taken."""

        def step(_: Any, state: list[Value]) -> list[Value]:
            return self.step_again(known, state)[0]

        def run_unit(loop: Any) -> Any:
            now, state, snapshots = loop
            length = self.unit_length
            state = step(0, state) if length == 1 else lax.fori_loop(0, length, step, state)
            now = now + 1
            put, leave = Snapshots.put, lambda snapshots, *_: snapshots
            return now, state, lax.cond(now < time, put, leave, snapshots, now, state)

        start, state = snapshots.latest()
        loop = lax.while_loop(lambda loop: loop[0] < time, run_unit, (start, state, snapshots))
        _, state, snapshots = loop
        return snapshots, state

    def run_again(
        self, known: dict[Var, Value], state: list[Value], recent: list[Value], count: Value
    ) -> list[Value]:
        """Run `count` steps from this state on, and write their stacked values to `recent`."""

        def step(i: Value, loop: Any) -> Any:
            state, recent = loop
            state, stacked = self.step_again(known, state)
            return state, _write(recent, stacked, i)

        return lax.fori_loop(0, count, step, (state, recent))[1]

    def step_again(
        self, known: dict[Var, Value], state: list[Value]
    ) -> tuple[list[Value], list[Value]]:
        """A step once more, without its effects: the next state, and the stacked values of this step."""
        values = self.plan.joint.constants | known
        values |= {self.body.carries[i]: x for i, x in zip(self.state, state, strict=True)}
        equations, targets = self.again
        results = _jax.eval_equations(equations, values, targets)
        return results[: len(state)], results[len(state) :]


def _write(buffers: Sequence[Value], values: Sequence[Value], index: Value) -> list[Value]:
    pairs = zip(buffers, values, strict=True)
    return [with_index(buffer, _jax.to_be_read_again(x), index) for buffer, x in pairs]


def _read(buffers: Sequence[Value], index: Value) -> list[Value]:
    return [_jax.to_be_read_again(at_index(x, index)) for x in buffers]
