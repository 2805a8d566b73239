"""A tape of tangents that have a type and no value, for programs that are only run backward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jax import lax

from funcgrad import _jax, errors
from funcgrad._jax import Aval, Primitive, Value
from funcgrad.keys import Op
from funcgrad.rule_program import WithoutTapes
from funcgrad.tape import Node, TapeTrace, TapeTracer


@dataclass(frozen=True)
class Unknown:
    """A tangent in a program that is only ever run backward: a type without a value."""

    aval: Aval

    def to_concrete_value(self) -> None:
        """There is none, so that Python control flow on it fails as under jit."""


OPERAND_BY_OPERAND = (lax.device_put_p, lax.optimization_barrier_p)
"""Primitives each of whose outputs is one operand: what is no tangent before them is none after."""


NOT_LINEAR = (lax.sign_p, lax.rem_p, lax.nextafter_p)
"""Primitives that are not linear, though their rules read no operand."""


def _is_unknown(x: Any) -> bool:
    return isinstance(x, Unknown)


def _is_no_tangent(x: Any) -> bool:
    """Whether this was computed from tangents and is no linear function of them."""
    return isinstance(x, TangentTracer) and not _jax.is_inexact(x.aval)


def _at(places: Sequence[int], value: Any, count: int) -> Any:
    """A param for the operands at these places, where it has an element for each of `count`."""
    of_each = isinstance(value, (tuple, list)) and len(value) == count
    return tuple(value[i] for i in places) if of_each else value


@dataclass(frozen=True)
class NonLinear(WithoutTapes):
    """The pullback of an op that is not linear in tangents: an error, once a cotangent arrives at it."""

    rule: str
    op: Op
    where: str
    late: bool = False

    def __call__(self, residuals: Any, cts: Any, eager: bool) -> Sequence[Value]:
        raise errors.NonLinearJvpError(self.rule, self.op, self.where)


class TangentTracer(TapeTracer):
    """What a custom_jvp rule computes from its tangents."""

    __slots__ = ()

    def __bool__(self) -> bool:
        raise errors.InputError(
            "A jax.custom_jvp rule asked whether something computed from its tangents is true. A rule "
            "must be linear in its tangents, and when it is run backward they have no values: decide "
            "by the primals, or with jnp.where."
        )


class TangentTrace(TapeTrace):
    """Writes down what a custom_jvp rule does to its tangents, without values for them.

    The rule is linear in the tangents, so no rule of ours reads one when that program is walked
    backward. What depends on primals alone runs in the parent trace.
    """

    __slots__ = ()

    def new_tangent(self, aval: Aval) -> TapeTracer:
        return self.new_tracer(Unknown(aval))

    def new_tracer(self, primal: Value) -> TapeTracer:
        aval = self.type_of(primal)
        return TangentTracer(self, aval, primal, self.tape.new_slot(aval))

    def process_primitive(
        self, primitive: Primitive, tracers: Sequence[Any], params: Any, /
    ) -> Any:
        opened = primitive is _jax.jit_p or "subfuns" in params
        if primitive in NOT_LINEAR or (not opened and any(map(_is_no_tangent, tracers))):
            primals, _ = self.split(tracers)
            if any(map(_is_unknown, primals)):
                return self.non_linear(primitive, self.evaluate(primitive, primals, params))
        out = super().process_primitive(primitive, tracers, params)
        outs = out if primitive.multiple_results else [out]
        return self.non_linear(primitive, outs) if any(map(_is_unknown, outs)) else out

    def non_linear(self, primitive: Primitive, outs: Sequence[Any]) -> Any:
        """Outputs that are no linear function of the tangents (comparisons, integers)."""
        unknown = [_is_unknown(y) for y in outs]
        where = _jax.current_where() or _jax.here()
        pullback = NonLinear(self.description, primitive, where)
        results = self.record(primitive, {}, [], outs, unknown, pullback, ())
        return results if primitive.multiple_results else results[0]

    def type_of(self, primal: Value) -> Aval:
        return primal.aval if isinstance(primal, Unknown) else _jax.typeof(primal)

    def evaluate(
        self, primitive: Primitive, primals: Sequence[Value], params: dict[str, Any], by: Any = None
    ) -> Sequence[Value]:
        assert by is None  # see forward_of
        out = _jax.abstract_eval(primitive, [self.type_of(x) for x in primals], params)
        outs: list[Any] = [Unknown(a) for a in (out if primitive.multiple_results else [out])]
        if primitive in OPERAND_BY_OPERAND:
            known = [i for i, x in enumerate(primals) if not isinstance(x, Unknown)]
            own = {name: _at(known, value, len(primals)) for name, value in params.items()}
            values = super().evaluate(primitive, [primals[i] for i in known], own) if known else []
            for i, y in zip(known, values, strict=True):
                outs[i] = y
        return outs

    def carries_gradient(self, outs: Sequence[Value]) -> list[bool]:
        tangents = [isinstance(y, Unknown) for y in outs]
        return [a and b for a, b in zip(super().carries_gradient(outs), tangents, strict=True)]

    def forward_of(self, rule: Any) -> None:
        """Tangents have no values to compute with."""

    def run_forward(
        self, program: Any, primals: Sequence[Value], op: Op
    ) -> tuple[Sequence[Value], Sequence[Value]]:
        """What does not depend on tangents is computed; of the rest there are only types."""
        types: list[Any] = []

        def staged(*primals: Value) -> list[Value]:
            outs, residuals = program.forward(primals)
            types[:] = (list(map(_jax.typeof, values)) for values in (outs, residuals))
            return [*outs, *residuals]

        jaxpr, consts = _jax.stage(staged, [self.type_of(x) for x in primals], str(op))
        outs, residuals = types
        needed = [not there for there in program.present] + [True] * len(residuals)
        jaxpr, used = _jax.prune_loops(jaxpr, needed)
        read = [x for x, use in zip([*consts, *primals], used, strict=True) if use]
        if any(map(_is_unknown, read)):
            return [Unknown(y) for y in outs], [Unknown(x) for x in residuals]
        values = iter(_jax.eval_jaxpr(jaxpr, read))
        known = [
            Unknown(y) if there else next(values)
            for y, there in zip(outs, program.present, strict=True)
        ]
        return known, list(values)

    def append(self, node: Node, outs: Sequence[Value]) -> None:
        """Who observes is shown a tangent's type in the place of its value."""
        super().append(node, [y.aval if isinstance(y, Unknown) else y for y in outs])

    def usable(
        self, op: Op, pullback: Any, residuals: Sequence[Value]
    ) -> tuple[Any, Sequence[Value]]:
        """What reads a tangent is not linear in the tangents: an error, unless nothing depends on it."""
        if not any(map(_is_unknown, residuals)):
            return pullback, residuals
        where = _jax.current_where() or _jax.here()
        return NonLinear(self.description, op, where), ()
