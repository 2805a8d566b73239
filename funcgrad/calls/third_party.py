"""Primitives defined by other packages. They registered their derivative with JAX only: we ask JAX.

No other gradient comes from JAX's own differentiation. A primitive of JAX itself that has no rule here
is an error, and with ``grad(..., strict=True)`` so is one of another package.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.tree_util import tree_flatten, tree_unflatten

from funcgrad import _jax
from funcgrad.registry import CallRule
from funcgrad.rule_program import WithoutTapes
from funcgrad.tangents import TangentTrace
from funcgrad.tape import TapeTrace


def foreign_call(trace: TapeTrace, primitive: Any, tracers: Any, params: dict[str, Any]) -> Any:
    """Run a primitive and record it with the pullback that JAX makes of it."""
    primals, slots = trace.split(tracers)
    wanted = tuple(i for i, slot in enumerate(slots) if slot is not None)

    def run(*differentiated: Any) -> list[Any]:
        operands = list(primals)
        for i, x in zip(wanted, differentiated, strict=True):
            operands[i] = x
        outs = primitive.bind(*operands, **params)
        return list(outs) if primitive.multiple_results else [outs]

    if isinstance(trace, TangentTrace):
        outs = trace.evaluate(primitive, primals, params)
        present = [_jax.is_inexact(trace.type_of(y)) for y in outs]
        known = [x for i, x in enumerate(primals) if i not in wanted]
        transpose = ForeignTranspose(
            primitive,
            params,
            wanted,
            tuple(trace.type_of(primals[i]) for i in wanted),
            tuple(map(trace.type_of, outs)),
        )
        results = trace.record(primitive, params, slots, outs, present, transpose, known)
    else:
        outs, jax_pullback = jax.vjp(run, *(primals[i] for i in wanted))
        present = [_jax.is_inexact(_jax.typeof(y)) for y in outs]
        residuals, tree = tree_flatten(jax_pullback)
        pullback = ForeignPullback(tree, tuple(map(_jax.typeof, outs)))
        results = trace.record(primitive, params, slots, outs, present, pullback, residuals)
    return results if primitive.multiple_results else results[0]


FOREIGN = CallRule(foreign_call, ())


@dataclass(frozen=True, eq=False)
class ForeignPullback(WithoutTapes):
    """JAX's pullback of a primitive, whose residuals are its leaves."""

    tree: Any
    out_avals: tuple[Any, ...]
    late: bool = False

    def __call__(self, residuals: Sequence[Any], cts: Sequence[Any], eager: bool) -> list[Any]:
        pullback: Any = tree_unflatten(self.tree, residuals)
        pairs = zip(cts, self.out_avals, strict=True)
        given = [_jax.zero_cotangent(a) if ct is None else _jax.weak_as(ct, a) for ct, a in pairs]
        if not hasattr(pullback, "with_logs"):  # from JAX 0.11
            return list(pullback(given))
        results, log = pullback.with_logs(given)
        return _jax.logged(results, log)


@dataclass(frozen=True, eq=False)
class ForeignTranspose(WithoutTapes):
    """JAX's transpose of a primitive. The primitive was applied to tangents and is linear in them."""

    primitive: Any
    params: dict[str, Any]
    wanted: tuple[int, ...]
    in_avals: tuple[Any, ...]
    out_avals: tuple[Any, ...]
    late: bool = False

    def __call__(self, residuals: Sequence[Any], cts: Sequence[Any], eager: bool) -> list[Any]:
        where = [i for i, aval in enumerate(self.out_avals) if _jax.is_inexact(aval)]

        def run(*tangents: Any) -> list[Any]:
            known, given = iter(residuals), iter(tangents)
            count = len(residuals) + len(tangents)
            operands = [next(given if i in self.wanted else known) for i in range(count)]
            outs = self.primitive.bind(*operands, **self.params)
            return [outs[i] for i in where] if self.primitive.multiple_results else [outs]

        given = _jax.instantiated([cts[i] for i in where], [self.out_avals[i] for i in where])
        return list(jax.linear_transpose(run, *self.in_avals)(given))
