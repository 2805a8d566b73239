"""The backward walk: one loop over the tape from its end.

Look up what arrived at a node, apply its pullback, add the results up, drop what is used up. No
recursion, so a chain of a million nodes is fine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any

import jax
from jax import lax
from jax.tree_util import tree_flatten, tree_unflatten

from funcgrad import _jax, errors
from funcgrad._jax import Aval, Cotangent, Slot, Value
from funcgrad.broadcasting import unbroadcast
from funcgrad.choices import choices
from funcgrad.fusion import held, holds_of
from funcgrad.tape import Node, Tape

_compiled_add = jax.jit(_jax.add_cotangents)


def walk(
    tape: Tape,
    seeds: Iterable[tuple[Slot | None, Cotangent]],
    wanted: Iterable[Slot],
    *,
    consume: bool = False,
) -> list[Cotangent]:
    """Carry cotangents from the slots in `seeds` back to the slots in `wanted`.

    Args:
      tape: the tape.
      seeds: pairs of slot and cotangent; a pair with a None in it is ignored.
      wanted: slots of inputs.
      consume: forget each node once it has been passed, so that its residuals can be freed.

    Returns:
      The cotangents of `wanted`, None where none arrived.
    """
    eager = _jax.is_eager(_jax.current_trace())
    mesh, annotations = _jax.current_mesh(), _jax.current_annotations()
    here = choices()
    pending = Pending(tape.avals, _compiled_add if eager else _jax.add_cotangents, mesh)
    for slot, ct in seeds:
        if slot is not None and ct is not None:
            pending.add(slot, ct)
    nodes: list[Any] = tape.nodes
    observer = tape.observer
    holds = holds_of(() if eager else nodes, tape.avals, here)
    readers = Readers(() if eager else (*nodes,))
    anywhere = nullcontext()
    for index in range(len(nodes) - 1, -1, -1):
        node = nodes[index]
        if consume:
            nodes[index] = None
        pullback, operands = node.pullback, node.operands
        steps, late = 0, False
        if pending.wide:
            steps = pending.steps(node.outputs)
            left = here.late_steps - steps
            late = left > 0 and takes_broadcast(node)
            late = late and (pending.is_quick_to_sum(node) or readers.meet_behind(node, left))
        cts = [pending.take(slot, late) for slot in node.outputs]
        if not [ct for ct in cts if ct is not None]:
            continue
        if index in holds.nodes:
            cts = [*map(held, cts)]
        as_there = node.mesh is mesh and node.annotations is annotations
        try:
            with (
                anywhere
                if eager
                else _jax.pulling_back(
                    node.op, node.source, getattr(pullback, "rule_of_user", None)
                ),
                anywhere if as_there else _as_recorded(node, mesh, annotations),
            ):
                results = pullback(node.residuals, cts, eager)
                if observer is not None:
                    results = observer.pulled(node, cts, pending.summed(operands, results))
                for slot, ct in zip(operands, results, strict=True):
                    if ct is not None:
                        if (index, slot) in holds.sums:
                            pending.hold(slot)
                        pending.add(slot, ct, steps + 1)
        except errors.Unlocated as problem:
            raise problem.at(node.where) from problem.cause
        except _jax.NOT_FINITE as problem:
            with _jax.at_line_of(node.source):  # the cause says where, as JAX's
                raise not_finite(problem, node, cts) from problem.__cause__
        except errors.FuncgradError:
            raise
        except Exception:  # of the user's own code
            with _jax.at_line_of(node.source):
                raise
    return [pending.take(slot) for slot in wanted]


def takes_broadcast(node: Node) -> bool:
    """Whether a node passes on a cotangent that is still broadcast."""
    return len(node.operands) == 1 and node.pullback.late


class Readers:
    """Which values several nodes read: their cotangents meet, and can be summed there at once."""

    def __init__(self, nodes: tuple[Node, ...]):
        self.nodes = nodes

    @cached_property
    def count(self) -> Counter[Slot]:
        return Counter(slot for node in self.nodes for slot in node.operands)

    @cached_property
    def makers(self) -> dict[Slot | None, Node]:
        return {slot: node for node in self.nodes for slot in node.outputs}

    def meet_behind(self, node: Node | None, steps: int) -> bool:
        """Whether what passes this node, and at most so many in all, meets another cotangent then."""
        while node and steps > 0 and takes_broadcast(node):
            if self.count[node.operands[0]] > 1:
                return True
            node, steps = self.makers.get(node.operands[0]), steps - 1
        return False


@contextmanager
def _as_recorded(node: Node, mesh: Any, annotations: Any) -> Iterator[None]:
    """A context with the mesh and the annotations of an op, where they are others than now."""
    anywhere = nullcontext()
    with (
        anywhere if node.mesh is mesh else _jax.within_explicit_mesh(node.mesh),
        anywhere if node.annotations is annotations else _jax.annotated_as(node.annotations),
    ):
        yield


def not_finite(problem: Exception, node: Node, cts: Sequence[Cotangent]) -> Exception:
    """What JAX found under ``jax_debug_nans`` or ``jax_debug_infs``, with its place in the source.

    The pullback is staged and run again operation by operation, as a call or a loop in it may hold
    the line that is at fault.
    """
    if isinstance(problem, errors.NotFiniteError) or not _jax.looks_for_not_finite():
        return problem
    args, tree = tree_flatten((node.residuals, cts))

    def pull_back(*args: Value) -> list[Value]:
        results = node.pullback(*tree_unflatten(tree, args), eager=False)
        return [ct for ct in results if ct is not None]

    try:
        with _jax.at_line_of(node.source):
            jaxpr, consts = _jax.stage(pull_back, [_jax.typeof(x) for x in args], "backward")
        found = _jax.first_not_finite(jaxpr, [*consts, *args])
    except Exception:  # what was found stands, whether or not it can be found again
        found = None
    op, place = found or (node.op, None)
    return found_by_jax(problem, op, place or _jax.where(node.source))


def found_by_jax(found: Exception, op: Any, where: str | None) -> errors.NotFiniteError:
    """The error for a backward pass in which JAX found a NaN or an infinity."""
    kind, setting = ("inf", "infs") if "inf)" in str(found) else ("nan", "nans")
    known = str(found) if "encountered" in str(found) else ""
    jax_says = known or f"invalid value ({kind}) encountered in {op}"
    return errors.NotFiniteError(
        f"A gradient became {kind} in the backward pass of {where or '<unknown line>'}, at `{op}`; "
        f"jax_debug_{setting} looks for that. The derivative is infinite or undefined at the value "
        "there, or a cotangent overflowed. Keep such values out of the operation: with jnp.where "
        f"around its operand, not around its result. (JAX: {jax_says.rstrip('.')}.)"
    )


class Pending:
    """Cotangents on their way, added up by slot.

    A cotangent that is still broadcast (its shape is larger than its slot's) waits apart from
    those that are not, since adding them would count the narrow one once per copy. Two broadcast
    alike are added before they are summed, once.
    """

    __slots__ = ("add_up", "avals", "mesh", "narrow", "wide")

    def __init__(self, avals: Sequence[Aval], add_up: Callable[[Value, Value], Value], mesh: Any):
        self.avals = avals
        self.add_up = add_up
        self.mesh = mesh if _jax.has_explicit_axes(mesh) else None
        self.narrow: dict[Slot, Value] = {}
        self.wide: dict[Slot, dict[Any, tuple[Value, int]]] = {}

    def add(self, slot: Slot, ct: Value, steps: int = 0) -> None:
        """Add `ct`, which has passed `steps` rules, to what waits at `slot`."""
        aval = self.avals[slot]
        if _jax.is_high(aval):
            waiting = self.narrow.get(slot)
            self.narrow[slot] = ct if waiting is None else _jax.add_values(waiting, ct)
            return
        if ct.shape == aval.shape:
            ct = _jax.with_cotangent_type(ct, aval, self.mesh)
            waiting = self.narrow.get(slot)
            self.narrow[slot] = ct if waiting is None else self.add_up(waiting, ct)
            return
        waiting_wide = self.wide.setdefault(slot, {})
        kind = ct.shape, _jax.explicit_sharding(_jax.typeof(ct))
        if kind in waiting_wide:
            other, other_steps = waiting_wide[kind]
            ct, steps = self.add_up(other, ct), max(steps, other_steps)
        waiting_wide[kind] = (ct, steps)

    def hold(self, slot: Slot) -> None:
        """Have XLA write the sum that waits at `slot`, if that is not still broadcast."""
        if slot in self.narrow:
            self.narrow[slot] = held(self.narrow[slot])

    def summed(self, slots: Sequence[Slot], cts: Sequence[Cotangent]) -> list[Cotangent]:
        """Cotangents for these slots, none of them broadcast."""
        pairs = zip(slots, cts, strict=True)
        return [None if ct is None else unbroadcast(ct, self.avals[slot]) for slot, ct in pairs]

    def steps(self, slots: Iterable[Slot | None]) -> int:
        """The most rules that a broadcast cotangent waiting at `slots` has passed."""
        if not self.wide:
            return 0
        waiting = (self.wide.get(slot, {}) for slot in slots if slot is not None)
        return max((steps for group in waiting for _, steps in group.values()), default=0)

    def is_quick_to_sum(self, node: Node) -> bool:
        """Whether arithmetic on the copies of what is still broadcast costs nothing before their sum.

        Along the last axis XLA for CPUs makes one kernel of the arithmetic and the sum. Along others, or
        all, it makes arrays of the numbers in the arithmetic. The rule of a broadcast is the sum.
        """
        if node.op is lax.broadcast_in_dim_p:
            return True
        waiting = ((slot, self.wide.get(slot, {})) for slot in node.outputs if slot is not None)
        return all(
            shape[:-1] == self.avals[slot].shape[:-1]
            for slot, kinds in waiting
            for shape, _ in kinds
        )

    def take(self, slot: Slot | None, late: bool = False) -> Cotangent:
        """Remove and return what waits at `slot`; broadcast only if `late` and it is of one kind."""
        if slot is None:
            return None
        ct = self.narrow.pop(slot, None)
        if not self.wide or slot not in self.wide:
            return ct
        waiting = [wide for wide, _ in self.wide.pop(slot).values()]
        if late and ct is None and len(waiting) == 1:
            return waiting[0]
        for wide in waiting:
            summed = unbroadcast(wide, self.avals[slot])
            ct = summed if ct is None else self.add_up(ct, summed)
        return ct
