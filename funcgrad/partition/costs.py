"""The costs of keeping a value, and of computing it again: the one table.

| prices        | computed again for nothing | at a price in bytes     | kept       |
|---------------|----------------------------|-------------------------|------------|
| CHEAP_ONLY    | CHEAP                      | nothing                 | the rest   |
| quick()       | CHEAP, but for short axes  | `Choices.swift`         | the rest   |
| worthwhile()  | CHEAP                      | REPEATABLE              | the rest   |
| Prices.at(p)  | nothing                    | all without an effect   | effects    |
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from jax import lax

from funcgrad import _jax
from funcgrad._jax import Aval, Equation, Jaxpr, Primitive, Var
from funcgrad.choices import choices
from funcgrad.partition import work
from funcgrad.partition.work import Work, elements

CHEAP = frozenset(
    {
        *(lax.add_p, lax.sub_p, lax.mul_p, lax.neg_p, lax.max_p, lax.min_p, lax.abs_p, lax.sign_p),
        *(lax.square_p, lax.integer_pow_p, lax.clamp_p, lax.select_n_p, lax.copy_p, lax.iota_p),
        *(lax.eq_p, lax.ne_p, lax.lt_p, lax.le_p, lax.gt_p, lax.ge_p, lax.is_finite_p),
        *(lax.and_p, lax.or_p, lax.not_p, lax.xor_p, lax.convert_element_type_p),
        *(lax.reshape_p, lax.broadcast_in_dim_p, lax.squeeze_p, lax.transpose_p, lax.rev_p),
        *(lax.slice_p, lax.split_p, lax.concatenate_p, lax.pad_p, lax.stop_gradient_p),
        _jax.tap_p,
        *(_jax.random_clone_p, _jax.random_wrap_p, _jax.random_unwrap_p),
    }
)
"""Operations that may always be computed again: arithmetic, comparisons, selection, and moving elements
about. Results of matrix products, convolutions, reductions, transcendental functions, sorts and random
bits are kept."""

ARITHMETIC = frozenset({lax.add_p, lax.sub_p, lax.mul_p, lax.max_p, lax.min_p})
"""Operations of two operands, element by element, of which an axis of size 1 is broadcast."""

DEAR = frozenset(
    {
        *(lax.exp_p, lax.exp2_p, lax.log_p, lax.log1p_p, lax.expm1_p, lax.logistic_p, lax.tanh_p),
        *(lax.sin_p, lax.cos_p, lax.tan_p, lax.pow_p, lax.erf_p, lax.rsqrt_p, lax.sqrt_p),
        lax.div_p,
    }
)
"""Elementary functions and divisions; in `operations`, ten additions each, or by `Choices.slow`."""

REPEATABLE = DEAR | {lax.reduce_sum_p, lax.reduce_max_p, lax.reduce_min_p}
"""Operations that may be computed again at a price, where the bytes saved are worth the operations."""


@dataclass(frozen=True)
class Prices:
    """The prices, in bytes, of computing equations again.

    Attributes:
      free: operations that cost nothing.
      priced: operations that cost something, by their size; None for all.
      bytes_per_operation: the price of one floating-point operation.
      short: the results of arithmetic are kept, free or not, where it broadcasts its operands into an
        array whose last axis has at most so many elements.
    """

    free: frozenset[Primitive] = CHEAP
    priced: frozenset[Primitive] | None = REPEATABLE
    bytes_per_operation: float = 0.0
    short: int = 0

    @classmethod
    def at(cls, bytes_per_operation: float) -> Prices:
        """Any equation without an effect may be computed again, at this price an operation."""
        return cls(frozenset(), None, bytes_per_operation)

    def of(self, eqn: Equation) -> float | None:
        """The price of each of an equation's results; None if none may be computed again."""
        if eqn.effects:
            return None
        if eqn.primitive in self.free:
            return None if self.fills_short_axis(eqn) else 0.0
        if self.priced is None or eqn.primitive in self.priced:
            return self.bytes_per_operation * operations([eqn]) / len(eqn.outvars)
        if eqn.primitive is _jax.jit_p:
            return self._of_body(eqn.params["jaxpr"].jaxpr)
        return None

    def fills_short_axis(self, eqn: Equation) -> bool:
        """Whether arithmetic broadcasts all operands, into an array whose last axis is short."""
        if not self.short or eqn.primitive not in ARITHMETIC:
            return False
        out = _jax.type_of(eqn.outvars[0])
        is_short = len(out.shape) > 1 and 1 < out.shape[-1] <= self.short
        return is_short and all(elements(v.aval) < elements(out) for v in eqn.invars)

    def _of_body(self, jaxpr: Jaxpr) -> float | None:
        """The price of a jitted call: the sum over its body."""
        total = 0.0
        for eqn in jaxpr.eqns:
            price = self.of(eqn)
            if price is None:
                return None
            total += price
        return total if reads_all_for_each(jaxpr) else None


CHEAP_ONLY = Prices(priced=frozenset())
"""For a program whose inputs alone are kept anyway: nothing dear is computed again."""


def quick() -> Prices:
    """For a program that runs many times or one of several, where time matters more than memory."""
    now = choices()
    return Prices(
        short=now.short_axis, priced=now.swift, bytes_per_operation=now.bytes_per_operation
    )


def worthwhile() -> Prices:
    """The same where memory matters."""
    return Prices(bytes_per_operation=choices().bytes_per_operation)


def size_in_bytes(aval: Aval) -> int:
    """The bytes that a value of this type takes, and one more, so that nothing is free."""
    return work.bytes_of(aval) + 1


def reads_all_for_each(jaxpr: Jaxpr) -> bool:
    """Whether each result depends on each input: no result asks for an input in vain."""
    depends = {v: {v} for v in jaxpr.invars}
    for eqn in jaxpr.eqns:
        inputs: set[Var] = set().union(*(depends.get(v, set()) for v in _jax.variables(eqn.invars)))
        depends.update((v, inputs) for v in eqn.outvars)
    results = _jax.variables(jaxpr.outvars)
    return all(depends.get(v) == set(jaxpr.invars) for v in results)


def operations(eqns: Iterable[Equation]) -> float:
    """About how many floating-point operations equations take, or move elements for."""
    return sum(map(_operations, eqns))


def _operations(eqn: Equation) -> float:
    called = work.parts_of(eqn)
    if called is not None:
        counts = [operations(part.jaxpr.eqns) * (part.steps or 1) for part in called]
        return max(counts, default=0.0)
    elementwise = sum(elements(v.aval) for v in eqn.outvars)
    found = work.work_of(eqn) or Work()
    dear = elementwise if eqn.primitive is lax.div_p else found.transcendentals
    moved = max(elementwise, *(elements(v.aval) for v in eqn.invars), 1)
    each = choices().slow.get(eqn.primitive, 10) if dear else 0
    return float(max(found.flops, each * dear, moved))
