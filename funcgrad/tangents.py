"""A tape of tangents that have a type and no value, for programs that are only run backward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jax import lax

from funcgrad import _jax, errors
from funcgrad._jax import Aval, Primitive, Value
from funcgrad.keys import Op
from funcgrad.tape import Node, TapeTrace, TapeTracer


@dataclass(frozen=True)
class Unknown:
    """A tangent in a program that is only ever run backward: a type without a value."""

    aval: Aval

    def to_concrete_value(self) -> None:
        """There is none, so that Python control flow on it fails as under jit."""

    def __bool__(self) -> bool:
        raise errors.InputError(
            "A jax.custom_jvp rule asked whether something computed from its tangents is true. A rule "
            "must be linear in its tangents, and when it is run backward they have no values: decide "
            "by the primals, or with jnp.where."
        )


OPERAND_BY_OPERAND = (lax.device_put_p, lax.optimization_barrier_p)
"""Primitives each of whose outputs is one operand: what is no tangent before them is none after."""


def _at(places: Sequence[int], value: Any, count: int) -> Any:
    """A param for the operands at these places, where it has an element for each of `count`."""
    of_each = isinstance(value, (tuple, list)) and len(value) == count
    return tuple(value[i] for i in places) if of_each else value


class TangentTrace(TapeTrace):
    """Writes down what a custom_jvp rule does to its tangents, without values for them.

    The rule is linear in the tangents, so no rule of ours reads one when that program is walked
    backward. What depends on primals alone runs in the parent trace.
    """

    __slots__ = ()

    def new_tangent(self, aval: Aval) -> TapeTracer:
        return self.new_tracer(Unknown(aval))

    def type_of(self, primal: Value) -> Aval:
        return primal.aval if isinstance(primal, Unknown) else _jax.typeof(primal)

    def evaluate(
        self, primitive: Primitive, primals: Sequence[Value], params: dict[str, Any]
    ) -> Sequence[Value]:
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
        results: list[Any] = []

        def staged(*primals: Value) -> list[Value]:
            outs, residuals = program.forward(primals)
            results[:] = outs, residuals
            return [*outs, *residuals]

        jaxpr, consts = _jax.stage(staged, [self.type_of(x) for x in primals], str(op))
        outs, residuals = results
        needed = [not there for there in program.present] + [True] * len(residuals)
        jaxpr, used = _jax.prune(jaxpr, needed)
        read = [x for x, use in zip([*consts, *primals], used, strict=True) if use]
        self.check_residuals(op, read)
        values = iter(_jax.eval_jaxpr(jaxpr, read))
        known = [
            Unknown(y.aval) if there else next(values)
            for y, there in zip(outs, program.present, strict=True)
        ]
        return known, list(values)

    def append(self, node: Node, outs: Sequence[Value]) -> None:
        """Who observes is shown a tangent's type in the place of its value."""
        super().append(node, [y.aval if isinstance(y, Unknown) else y for y in outs])

    def check_residuals(self, op: Op, residuals: Sequence[Value]) -> None:
        if any(isinstance(x, Unknown) for x in residuals):
            where = _jax.current_where() or _jax.here()
            raise errors.NonLinearJvpError(self.description, op, where)
