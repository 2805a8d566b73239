"""The tape: the ops that a function applied to differentiated values, in order.

While the function runs, each primitive with a differentiated operand runs at once in the parent trace,
and the trace appends a node to the tape. A node keeps the values that its rule reads, the residuals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import numpy as np

from funcgrad import _jax, errors
from funcgrad._jax import Aval, Cotangent, Primitive, Slot, Value
from funcgrad.keys import FunctionId, Op
from funcgrad.registry import CallRule, Observer, Rule, Rules, ZeroRule
from funcgrad.rule_program import WithoutTapes, program_of


class NodePullback(Protocol):
    """Computes the operands' cotangents from a node's residuals and the outputs' cotangents."""

    @property
    def late(self) -> bool:
        """Whether it takes cotangents that are still broadcast."""
        ...

    @property
    def inner(self) -> Mapping[str, FrozenTape]:
        """The tapes inside the node, by name, for tools."""
        ...

    def __call__(
        self, residuals: Sequence[Value], cts: Sequence[Cotangent], eager: bool
    ) -> Sequence[Cotangent]: ...


@dataclass(slots=True)
class Node:
    """One op applied once.

    Attributes:
      op: the primitive or function.
      params: the op's static parameters.
      operands: slots of the differentiated operands, in the order of the pullback's results.
      outputs: slots of the outputs, None for one that carries no gradient.
      pullback: what computes the operands' cotangents.
      residuals: the values that the pullback reads.
      source: where in the user's source, and in which name scope.
      mesh: the mesh in which the op was applied.
      annotations: what the user said of the op besides.

    Example:
      :func:`tape_of` has one.
    """

    op: Op
    params: dict[str, Any]
    operands: tuple[Slot, ...]
    outputs: tuple[Slot | None, ...]
    pullback: NodePullback
    residuals: tuple[Value, ...]
    source: Any
    mesh: Any = field(default_factory=_jax.current_mesh)
    annotations: Any = field(default_factory=_jax.current_annotations)

    @property
    def scope(self) -> str:
        """The name scopes around the op, as far as they were entered in the recorded function."""
        return _jax.scope_of(self.source)

    @property
    def where(self) -> str | None:
        """``file:line (function)`` of the op in the user's source."""
        return _jax.where(self.source)

    @property
    def reasons(self) -> tuple[tuple[str, int], ...]:
        """What each residual is: ``("operand", i)`` or ``("output", i)`` of an op with a rule.

        Those of a call are ``("residual", i)``, since its backward program reads values inside it.
        """
        known = getattr(self.pullback, "reasons", None)
        return known or tuple(("residual", i) for i in range(len(self.residuals)))


class Tape:
    """Nodes in the order in which they ran, and the type of every slot.

    A slot is the place of one differentiated value: an input, or an output of a node.
    """

    __slots__ = ("avals", "nodes", "observer")

    def __init__(
        self,
        nodes: list[Node] | None = None,
        avals: list[Aval] | None = None,
        observer: Observer | None = None,
    ):
        self.nodes = nodes if nodes is not None else []
        self.avals = avals if avals is not None else []
        self.observer = observer

    def new_slot(self, aval: Aval) -> Slot:
        """A slot for a value whose cotangent has type `aval`."""
        self.avals.append(aval)
        return len(self.avals) - 1


@dataclass(frozen=True)
class LeafIndex:
    """Stands for a residual in a frozen tape: its leaf's index, and what broadcasts the leaf, if any."""

    index: int
    widen: Callable[[Value], Value] | None = None


@dataclass(frozen=True, eq=False)
class FrozenTape:
    """A tape with a :class:`LeafIndex` for each array: static data for a jaxpr or a pytree.

    Attributes:
      nodes: in the order in which they ran.
      avals: the types of the leaves, which are a list of arrays beside it.
      observer: the tool that is told of the nodes; None for none.

    Example:
      :func:`tape_of` has one.
    """

    nodes: tuple[Node, ...]
    avals: tuple[Aval, ...]
    observer: Observer | None = None

    def thaw(self, leaves: Sequence[Value]) -> Tape:
        """The tape with `leaves` as its residuals."""

        def value(residual: Value | LeafIndex) -> Value:
            is_leaf = isinstance(residual, LeafIndex)
            leaf = leaves[residual.index] if is_leaf else residual
            return residual.widen(leaf) if is_leaf and residual.widen else leaf

        nodes = [_with_residuals(node, tuple(map(value, node.residuals))) for node in self.nodes]
        return Tape(nodes, list(self.avals), self.observer)


def freeze(tape: Tape) -> tuple[FrozenTape, list[Value]]:
    """Separate a tape from its arrays. An array that several nodes read is one leaf."""
    leaves: list[Value] = []
    indices: dict[int, LeafIndex] = {}

    def without_array(value: Value) -> Value | LeafIndex:
        if not (isinstance(value, (jax.Array, np.ndarray)) or _jax.is_value(value)):
            return value
        if id(value) not in indices:
            indices[id(value)] = LeafIndex(len(leaves))
            leaves.append(value)
        return indices[id(value)]

    nodes = [_with_residuals(n, tuple(map(without_array, n.residuals))) for n in tape.nodes]
    return FrozenTape(tuple(nodes), tuple(tape.avals), tape.observer), leaves


def _with_residuals(node: Node, residuals: tuple[Value, ...]) -> Node:
    where = node.source, node.mesh, node.annotations
    by = node.op, node.params, node.operands, node.outputs, node.pullback
    return Node(*by, residuals, *where)


@dataclass(frozen=True)
class MissingRule(WithoutTapes):
    """The pullback of an op without a rule: an error, once a cotangent arrives at it."""

    op: Op
    operands: int
    params: tuple[str, ...]
    target: str = ""
    late: bool = False

    def __call__(self, residuals: Any, cts: Any, eager: bool) -> Sequence[Cotangent]:
        raise errors.missing_rule(self.op, self.operands, self.params, self.target)


class TapeTracer(_jax.OwnTracer):
    """A differentiated value: its primal in the parent trace, and its slot on the tape."""

    __slots__ = ("primal", "slot")

    def __init__(self, trace: TapeTrace, aval: Aval, primal: Value, slot: Slot):
        super().__init__(trace, aval)
        self.primal = primal
        self.slot = slot

    def to_concrete_value(self) -> Any:
        known = getattr(self.primal, "to_concrete_value", None)
        return self.primal if known is None else known()

    @property
    def _debug_info(self) -> Any:
        return _jax.traced_for_gradient(self._trace.description)

    def __repr__(self) -> str:
        return self._shown(repr)

    def __str__(self) -> str:
        return self._shown(str)

    def _shown(self, show: Callable[[Any], str]) -> str:
        """The value, or its type under jit, with a note that it is traced."""
        value = self.to_concrete_value()
        shown = self.aval.str_short() if value is None else show(value)
        return f"{shown} (traced for a gradient)"

    def _contents(self) -> Any:
        return _jax.DIFFERENTIATED


class TapeTrace(_jax.Trace):
    """Runs every operation in the parent trace and records those on differentiated values."""

    __slots__ = ("contents", "description", "parent_trace", "rules", "tape")

    def __init__(self, parent: _jax.Trace, rules: Rules, description: str):
        super().__init__()
        self.requires_low = False  # operations that could expand themselves come as they are
        self.contents: dict[int, tuple[Value, Slot]] = {}
        self.parent_trace = parent
        self.rules = rules
        self.tape = Tape(observer=rules.observer)
        self.description = description

    # --- values

    def new_tracer(self, primal: Value) -> TapeTracer:
        """A tracer for `primal`, with a new slot: for an input, or for an output of a node."""
        aval = self.type_of(primal)
        return TapeTracer(self, aval, primal, self.tape.new_slot(aval))

    def type_of(self, primal: Value) -> Aval:
        return _jax.typeof(primal)

    def split(self, values: Sequence[Value]) -> tuple[list[Value], list[Slot | None]]:
        """The primals and slots of values; None is the slot of a value that is not our tracer."""
        primals, slots = [], []
        for value in values:
            ours = isinstance(value, TapeTracer) and value._trace is self
            primals.append(value.primal if ours else value)
            slots.append(value.slot if ours else None)
        return primals, slots

    def stage_value(self, val: Value) -> Value:
        if isinstance(val, TapeTracer) and val._trace is self:
            return val
        return self.parent_trace.stage_value(val)

    def cur_qdd(self, x: Value) -> Any:
        """What a mutable value of a type of its own now holds."""
        (primal,), _ = self.split([x])
        with _jax.set_current_trace(self.parent_trace):
            return _jax.current_qdd(primal)

    def is_valid(self) -> bool:
        if self._invalidated:
            raise errors.LeakedTracerError(self.description)
        return True

    def invalidate(self) -> None:
        """End the recording. A cached jaxpr that keeps this trace keeps no value that was recorded."""
        super().invalidate()
        self.tape, self.contents = Tape(), {}

    # --- operations

    def rules_inside(self) -> Rules:
        """The rules for a call's body, which is traced outside the current name scope."""
        observed = self.rules.observer is not None
        return self.rules.within(_jax.current_scope()) if observed else self.rules

    def reads_content(self, primals: Sequence[Value]) -> bool:
        """Whether one is a reference with a differentiated content; see ``calls.references``."""
        return bool(self.contents) and any(id(x) in self.contents for x in primals)

    def content_slot(self, ref: Value) -> Slot | None:
        """The slot of a reference's content; None if the content is not differentiated."""
        return self.contents[id(ref)][1] if id(ref) in self.contents else None

    def bind_in_parent(
        self, primitive: Primitive, primals: Sequence[Value], params: dict[str, Any]
    ) -> Any:
        """Run an operation in the parent trace, as `Primitive.bind` does: with no trace current."""
        avals = [_jax.typeof(x) for x in primals]
        with _jax.take_current_trace():
            return primitive.bind_with_trace(self.parent_trace, primals, avals, params)

    def evaluate(
        self, primitive: Primitive, primals: Sequence[Value], params: dict[str, Any], by: Any = None
    ) -> Sequence[Value]:
        """Run an operation on primals, or `by` in its place, and return the list of its outputs."""
        outs = by(*primals, **params) if by else self.bind_in_parent(primitive, primals, params)
        return outs if primitive.multiple_results else [outs]

    def carries_gradient(self, outs: Sequence[Value]) -> list[bool]:
        """Which outputs of an operation on differentiated values have a derivative."""
        return [_jax.is_inexact(self.type_of(y)) for y in outs]

    def forward_of(self, rule: Any) -> Callable[..., Any] | None:
        """The rule's own way to compute its op; None inside another tape, which must see the op."""
        return None if isinstance(self.parent_trace, TapeTrace) else rule.forward

    def run_forward(
        self, program: Any, primals: Sequence[Value], op: Op
    ) -> tuple[Sequence[Value], Sequence[Value]]:
        """Run a call's program; return outputs and residuals."""
        return program.forward(primals)

    def process_primitive(
        self, primitive: Primitive, tracers: Sequence[Any], params: Any, /
    ) -> Any:
        if primitive is _jax.jit_p and params["jaxpr"].consts:
            tracers, params = _jax.give_references(tracers, params)
        primals, slots = self.split(tracers)
        with _jax.set_current_trace(self.parent_trace):
            unmoved = slots.count(None) == len(slots)
            if unmoved and not self.reads_content(primals):
                return self.bind_in_parent(primitive, primals, params)
            by_reference = _jax.holds_mutable(primals)
            entry = self.rules.find(_jax.get_p if by_reference else primitive)
            if isinstance(entry, CallRule):
                return entry.fn(self, primitive, tracers, params)
            if "subfuns" in params:
                raise errors.UnknownCallError(primitive, _jax.here())
            rule = entry if isinstance(entry, Rule) else None
            forward = None if rule is None else self.forward_of(rule)
            outs = self.evaluate(primitive, primals, params, forward)
            saved = rule.saved(params) if rule and forward else 0
            multiple = primitive.multiple_results
            if not isinstance(entry, ZeroRule):
                outs = self.record_rule(
                    primitive, params, primals, slots, outs, entry, multiple, saved
                )
        return outs[: len(outs) - saved] if multiple else outs[0]

    def process_call(
        self, primitive: Primitive, fun: Any, tracers: Sequence[Any], params: Any, /
    ) -> Any:
        """Run the function of a call that means nothing besides, under this trace (JAX up to 0.10)."""
        if primitive not in _jax.PLAIN_CALLS:
            return self.process_primitive(primitive, tracers, {"subfuns": (fun,), **params})
        with _jax.set_current_trace(self):
            return fun.call_wrapped(*tracers)

    def process_custom_jvp_call(
        self, primitive: Primitive, fun: Any, jvp: Any, tracers: Any, /, **params: Any
    ) -> Any:
        return self.process_primitive(primitive, tracers, {"subfuns": (fun, jvp), **params})

    def process_custom_vjp_call(
        self, primitive: Primitive, fun: Any, fwd: Any, bwd: Any, tracers: Any, /, **params: Any
    ) -> Any:
        return self.process_primitive(primitive, tracers, {"subfuns": (fun, fwd, bwd), **params})

    def process_shard_map(
        self, primitive: Primitive, fun: Any, tracers: Any, /, **params: Any
    ) -> Any:
        """Enter every shard_map: its function may close over tracers that are no operands."""
        entry = self.rules.find(primitive)
        params = {"subfuns": (fun,), **params}
        if not isinstance(entry, CallRule):
            return self.process_primitive(primitive, tracers, params)
        with _jax.set_current_trace(self.parent_trace):
            return entry.fn(self, primitive, tracers, params)

    # --- recording

    def record_function(
        self,
        op: FunctionId,
        rule: Any,
        primitive: Primitive,
        primals: Sequence[Value],
        slots: Sequence[Slot | None],
        params: dict[str, Any],
        by: Callable[..., Any] | None = None,
    ) -> Sequence[Value]:
        """Run a call of a function that has a rule, or `by` in its place, and record it as one node."""
        outs = self.evaluate(primitive, primals, params, by)
        if isinstance(rule, ZeroRule):
            return outs
        return self.record_rule(op, {}, primals, slots, outs, rule, len(outs) > 1)

    def record_rule(
        self,
        op: Op,
        params: dict[str, Any],
        primals: Sequence[Value],
        slots: Sequence[Slot | None],
        outs: Sequence[Value],
        rule: Rule | None,
        multiple: bool,
        saved: int = 0,
    ) -> Sequence[Value]:
        """Record an op whose pullback is a rule, for which alone the last `saved` outputs are."""
        out_avals = [self.type_of(y) for y in outs]
        operand_avals = [self.type_of(x) for x in primals]
        own = len(outs) - saved
        present = (*self.carries_gradient(outs[:own]), *(False,) * saved)
        if rule is None and any(map(_jax.is_reference, (*operand_avals, *out_avals))):
            problem = "which has no rule for references."
            raise errors.MutableReferenceError(op, problem, _jax.here())
        if rule is None and not outs:
            raise errors.MutableValueError(op, _jax.here())
        if not any(present):
            return outs
        wanted = tuple(i for i, slot in enumerate(slots) if slot is not None)
        if rule is None:
            target = str(params.get("target_name", ""))
            missing = MissingRule(op, len(primals), tuple(params), target)
            return self.record(op, params, slots, outs, present, missing, ())
        try:
            program = program_of(rule, op, params, operand_avals, out_avals, wanted, multiple)
        except errors.Unlocated as problem:
            raise problem.at(_jax.current_where()) from problem.cause
        values = (*primals, *outs)
        pullback, residuals = self.usable(op, program, [values[i] for i in program.reads])
        return self.record(op, params, slots, outs, present, pullback, residuals)

    def record(
        self,
        op: Op,
        params: dict[str, Any],
        slots: Sequence[Slot | None],
        outs: Sequence[Value],
        present: Sequence[bool],
        pullback: NodePullback,
        residuals: Sequence[Value],
    ) -> list[Value]:
        """Append a node; return the outputs, as tracers where `present`."""
        results = [
            self.new_tracer(y) if there else y for y, there in zip(outs, present, strict=True)
        ]
        operands = tuple([slot for slot in slots if slot is not None])
        source = _jax.current_source()
        outputs: list[Slot | None] = []
        for result, there in zip(results, present, strict=True):
            outputs.append(result.slot if there else None)
            if there:
                result._line_info = source
        node = Node(op, params, operands, tuple(outputs), pullback, tuple(residuals), source)
        self.append(node, outs)
        return results

    def append(self, node: Node, outs: Sequence[Value]) -> None:
        """Put a node on the tape, and tell the observer."""
        self.tape.nodes.append(node)
        if self.tape.observer is not None:
            self.tape.observer.recorded(node, outs)

    def usable(
        self, op: Op, pullback: Any, residuals: Sequence[Value]
    ) -> tuple[Any, Sequence[Value]]:
        """A node's pullback and residuals: others in ``tangents.TangentTrace``, if one has no value."""
        return pullback, residuals


def record(
    fun: Callable[..., Sequence[Value]],
    primals: Sequence[Value],
    differentiated: Sequence[bool],
    rules: Rules,
    description: str,
) -> tuple[list[Value], list[Slot | None], Tape]:
    """Run `fun` on flat values; return its outputs, their slots, and the tape.

    Differentiated inputs have the first slots, in order. An error leaves JAX's trace state restored.
    """
    with _jax.take_current_trace() as parent:
        trace = TapeTrace(parent, rules, description)
        tape = trace.tape
        pairs = zip(primals, differentiated, strict=True)
        args = [trace.new_tracer(x) if wanted else x for x, wanted in pairs]
        try:
            with _jax.set_current_trace(trace):
                outs = fun(*args)
            primal_outs, slots = trace.split(outs)
        finally:
            trace.invalidate()
        del args, outs
        if _jax.is_leaked(trace):
            raise errors.LeakedTracerError(description, "kept")
    return primal_outs, slots, tape
