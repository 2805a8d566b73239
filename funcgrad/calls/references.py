"""Mutable references (``jax.new_ref``): the *content* of a reference is a value like any other.

The reference itself is not traced. Every operation on it runs in the parent trace as the user wrote
it, on primals. Beside that, the trace keeps a table (``TapeTrace.contents``) from each reference to
the slot of its present content. A reference that is not in the table holds nothing differentiated.

Loading or storing the whole content moves a slot and makes no node. Loading or storing a part (`get`,
`swap` and `addupdate` with an index) makes a node: the operation is linear in the old content and the
new value, and its pullback walks its pure form (JAX says *discharged*). Its residuals are the indices.

A call that uses references, such as a loop whose body stores into one, is replaced by its pure form.
The pure form takes the contents and returns the new contents, and is differentiated like any call.
A reference that lives and dies within a jaxpr is replaced by values once the jaxpr's tape is made
(``_jax.stage``). So no residual is a reference, except one that a ``custom_vjp`` keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from funcgrad import _jax, errors
from funcgrad.backward import walk
from funcgrad.keys import FunctionId
from funcgrad.masks import select
from funcgrad.partition.split import StagedPullback
from funcgrad.registry import CallRule, Rules, defrecord
from funcgrad.rule_program import WithoutTapes, cached
from funcgrad.tangents import TangentTrace
from funcgrad.tape import Node, TapeTrace, TapeTracer

# --- what references hold


def set_content(trace: TapeTrace, ref: Any, slot: int | None) -> None:
    """Note the slot of a reference's content from now on; None if it is not differentiated."""
    if slot is None or not _jax.is_differentiable(ref):
        trace.contents.pop(id(ref), None)
    else:
        trace.contents[id(ref)] = (ref, slot)


def at_slot(trace: TapeTrace, primal: Any, slot: int | None) -> Any:
    """The tracer of a value at a slot that it has already; the value itself if it has none."""
    if slot is None:
        return primal
    return TapeTracer(trace, trace.type_of(primal), primal, slot)


def reject_tangents(trace: TapeTrace, op: Any) -> None:
    """Refuse to store tangents: they have no values."""
    if isinstance(trace, TangentTrace):
        problem = f"in the jax.custom_jvp rule of `{trace.description}`, on tangents."
        raise errors.MutableReferenceError(op, problem, _jax.here())


class Contents:
    """What the references among a function's arguments hold, differentiated in their place.

    Attributes:
      places: which arguments are references.
      leaves: the arguments, with contents for references.
    """

    def __init__(self, args: Sequence[Any]):
        self.args = args
        self.places = [i for i, x in enumerate(args) if _jax.is_mutable(x)]
        self.leaves = [_jax.read_all(x) if i in self.places else x for i, x in enumerate(args)]

    def entering(self, leaves: Sequence[Any]) -> list[Any]:
        """The arguments as the function takes them, which is about to be recorded."""
        args, trace = list(leaves), _own_trace()
        for i in self.places:
            (_, (slot,)), args[i] = trace.split([leaves[i]]), self.args[i]
            set_content(trace, args[i], slot)
        return args

    def leaving(self) -> list[Any]:
        """Stand-ins for what the references hold when the function ends: only their slots count."""
        trace = _own_trace()
        refs = [(self.args[i], self.leaves[i]) for i in self.places]
        return [at_slot(trace, x, trace.content_slot(ref)) for ref, x in refs]


def _own_trace() -> Any:
    """The trace that records the function that is running."""
    return _jax.current_trace()


NO_CONTENTS = Contents(())
"""Of arguments among which is no reference."""


# --- operations on references


@defrecord(_jax.new_ref_p)
def new_reference(trace: TapeTrace, primitive: Any, tracers: Any, params: dict[str, Any]) -> Any:
    """new_ref: a reference that holds a differentiated value."""
    reject_tangents(trace, primitive)
    primals, (slot,) = trace.split(tracers)
    ref = trace.bind_in_parent(primitive, primals, params)
    set_content(trace, ref, slot)
    return ref


@defrecord(_jax.get_p, _jax.swap_p, _jax.addupdate_p, _jax.freeze_p, _jax.free_ref_p)
def reference_call(trace: TapeTrace, primitive: Any, tracers: Any, params: dict[str, Any]) -> Any:
    """Any operation with a reference among its operands."""
    reject_tangents(trace, primitive)
    if primitive in ACCESSES:
        return access(trace, primitive, tracers, params)
    if primitive in (_jax.freeze_p, _jax.free_ref_p):
        out = trace.bind_in_parent(primitive, tracers, params)
        slot = trace.content_slot(tracers[0])
        set_content(trace, tracers[0], None)
        return at_slot(trace, out, slot) if primitive is _jax.freeze_p else out
    return call_with_references(trace, primitive, tracers, params)


ACCESSES = (_jax.get_p, _jax.swap_p, _jax.addupdate_p)


def access(trace: TapeTrace, primitive: Any, tracers: Any, params: dict[str, Any]) -> Any:
    """get, swap or addupdate, with or without an index."""
    primals, slots = trace.split(tracers)
    ref, writes = primals[0], primitive is not _jax.get_p
    old = trace.content_slot(ref)
    stored = slots[1] if writes else None
    avals = tuple(map(trace.type_of, primals))
    out = trace.bind_in_parent(primitive, primals, params)
    if not _jax.is_differentiable(ref) or (old is None and stored is None):
        set_content(trace, ref, None)
        return out
    if params == _jax.WHOLE and primitive is not _jax.addupdate_p:
        set_content(trace, ref, stored if writes else old)
        return at_slot(trace, out, old)
    wanted = (old is not None, stored is not None)
    pullback = pullback_of(primitive, avals, tuple(params.items()), wanted, trace.rules)
    operands = tuple(slot for slot in (old, stored) if slot is not None)
    returns = primitive is not _jax.addupdate_p
    loaded = trace.tape.new_slot(trace.type_of(out)) if returns and old is not None else None
    new = trace.tape.new_slot(_jax.content_aval(ref)) if writes else old
    outputs = ((loaded,) if returns else ()) + ((new,) if writes else ())
    source = _jax.current_source()
    residuals = tuple(primals[2:] if writes else primals[1:])
    node = Node(primitive, params, operands, outputs, pullback, residuals, source)
    trace.append(node, [out] if returns else [])
    set_content(trace, ref, new)
    return at_slot(trace, out, loaded) if returns else out


@cached(_jax.cache())
def pullback_of(
    primitive: Any,
    avals: tuple[Any, ...],
    params: tuple[tuple[str, Any], ...],
    wanted: tuple[bool, bool],
    rules: Rules,
) -> AccessPullback:
    """The pullback of an access, by the types of its operands."""
    jaxpr = _jax.one_operation(primitive, avals, dict(params))
    pure = _jax.purify(jaxpr, [i == 0 for i in range(len(avals))])
    return AccessPullback(primitive, pure, wanted, rules)


@dataclass(frozen=True, eq=False)
class AccessPullback(StagedPullback, WithoutTapes):
    """Walks the pure form of an access: (content, new value, indices) -> (loaded, new content).

    Attributes:
      wanted: whether content and new value are differentiated.
    """

    primitive: Any
    pure: _jax.ClosedJaxpr
    wanted: tuple[bool, bool]
    rules: Rules
    programs: dict[Any, Callable[..., Any]] = field(default_factory=dict)

    @property
    def closes_over_tracer(self) -> bool:
        """Whether no cache may keep this."""
        return any(isinstance(const, _jax.Tracer) for const in self.pure.consts)

    def trace_backward(self, residuals: list[Any], cts: list[Any]) -> list[Any]:
        """The cotangents of content and new value: the access is linear in them."""
        num_linear = 1 if self.primitive is _jax.get_p else 2
        trace = TangentTrace(_jax.current_trace(), self.rules, str(self.primitive))
        tape = trace.tape
        linear = [
            trace.new_tangent(aval) if wanted else _jax.zeros(aval)
            for aval, wanted in zip(
                self.pure.in_avals[:num_linear], self.wanted[:num_linear], strict=True
            )
        ]
        try:
            with _jax.set_current_trace(trace):
                outs = _jax.eval_closed_jaxpr(self.pure, [*linear, *residuals])
            _, slots = trace.split(outs)
        finally:
            trace.invalidate()
        seeds = zip(slots[: len(cts)], cts, strict=True)
        return walk(tape, seeds, range(sum(self.wanted)), consume=True)


# --- calls that are given references


@dataclass(frozen=True, eq=False)
class PureCall:
    """A call as a function of the contents of the references that it uses.

    Attributes:
      jaxpr: the call as it is, alone.
      used: which operands are references that the call reads or writes.
      written: which operands are references that the call writes.
      replaced: which operands are references whose content the pure form takes instead.
    """

    jaxpr: _jax.Jaxpr
    used: tuple[bool, ...]
    written: tuple[bool, ...]
    replaced: tuple[bool, ...]
    closes_over_tracer: bool = False

    @property
    def replaces_all(self) -> bool:
        """Whether the pure form takes a content for each reference that the call uses."""
        return all(b or not a for a, b in zip(self.used, self.replaced, strict=True))

    @cached_property
    def loses_derivatives(self) -> bool:
        """Whether the pure form loses the derivative of a function that brings its own."""
        return _jax.gives_references_to_derivatives(self.jaxpr)

    @cached_property
    def pure(self) -> _jax.ClosedJaxpr:
        """The pure form; its last outputs are the new contents."""
        return _jax.purify(self.jaxpr, self.replaced)


@cached(_jax.cache())
def pure_call_of(
    primitive: Any,
    avals: tuple[Any, ...],
    params: tuple[tuple[str, Any], ...],
    known: tuple[bool, ...],
) -> PureCall:
    """What a call does to its references; `known` marks those with a differentiated content."""
    jaxpr = _jax.one_operation(primitive, avals, dict(params))
    used, written = _jax.references_used(jaxpr)
    tracked = [getattr(aval, "kind", None) != "no_grad_no_remat" for aval in avals]
    replaced = tuple((a or b) and follow for a, b, follow in zip(used, known, tracked, strict=True))
    return PureCall(jaxpr, tuple(used), tuple(written), replaced)


def call_with_references(
    trace: TapeTrace, primitive: Any, tracers: Any, params: dict[str, Any]
) -> Any:
    """Run a call with references among its operands: in its pure form, if it uses them.

    A ``custom_vjp`` is given its references as they are, since it has a derivative of its own.
    """
    primals, _ = trace.split(tracers)
    known = tuple(id(x) in trace.contents for x in primals)
    entry = trace.rules.find(primitive)
    if not isinstance(entry, CallRule) or (primitive is _jax.custom_jvp_call_p and any(known)):
        problem = "which has no rule for references."
        raise errors.MutableReferenceError(primitive, problem, _jax.here())
    if primitive in (_jax.custom_jvp_call_p, _jax.custom_vjp_call_p):
        return entry.fn(trace, primitive, tracers, params)
    avals = tuple(map(trace.type_of, primals))
    call = pure_call_of(primitive, avals, tuple(params.items()), known)
    if primitive is _jax.jit_p and any(call.replaced):
        reject_rule(trace, params)
        if call.loses_derivatives or not call.replaces_all or _jax.has_settings(params):
            with _jax.set_current_trace(trace):
                return _jax.eval_closed_jaxpr(params["jaxpr"], tracers)
    reject_twice(primitive, select(primals, call.used))
    changed = any(known) or any(call.written)
    if not any(call.replaced) or (call.loses_derivatives and not changed):
        return entry.fn(trace, primitive, tracers, params)
    if call.loses_derivatives:
        problem = (
            "in which a function with a derivative of its own (custom_vjp, custom_jvp) is given it."
        )
        raise errors.MutableReferenceError(primitive, problem, _jax.here())
    return run_pure(trace, call, tracers, primitive.multiple_results)


def reject_twice(primitive: Any, refs: Sequence[Any]) -> None:
    """Refuse a reference given twice: the pure form would take its content as two values."""
    if len({id(ref) for ref in refs}) < len(refs):
        problem = "which is given it twice: if it is a while_loop, by its condition and its body."
        raise errors.MutableReferenceError(primitive, problem, _jax.here())


def reject_rule(trace: TapeTrace, params: dict[str, Any]) -> None:
    """Refuse a rule for a jitted function that stores: a rule has no cotangents for contents."""
    name = FunctionId(_jax.function_of(params["jaxpr"]))
    if trace.rules.find(name) is not None:
        problem = "which has a rule, and a rule says nothing of references."
        raise errors.MutableReferenceError(name, problem, _jax.here())


def run_pure(trace: TapeTrace, call: PureCall, tracers: Sequence[Any], multiple: bool) -> Any:
    """Run the pure form and store the new contents that it returns."""
    args = [
        load(trace, x) if replaced else x
        for x, replaced in zip(tracers, call.replaced, strict=True)
    ]
    with _jax.set_current_trace(trace):
        results = _jax.eval_closed_jaxpr(call.pure, args, own_lines=False)
    refs = select(tracers, call.replaced)
    first = len(results) - len(refs)
    written = select(call.written, call.replaced)
    for ref, content, there in zip(refs, results[first:], written, strict=True):
        if there:
            store(trace, ref, content)
    return results[:first] if multiple else results[0]


def load(trace: TapeTrace, ref: Any) -> Any:
    """A reference's content, as a tracer if it is differentiated."""
    content = trace.bind_in_parent(_jax.get_p, [ref], _jax.WHOLE)
    return at_slot(trace, content, trace.content_slot(ref))


def store(trace: TapeTrace, ref: Any, content: Any) -> None:
    """Store a new content in a reference."""
    (primal,), (slot,) = trace.split([content])
    trace.bind_in_parent(_jax.swap_p, [ref, primal], _jax.WHOLE)
    set_content(trace, ref, slot)
