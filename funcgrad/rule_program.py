"""One application of a rule as a program: what it reads, and what it computes.

A rule is traced once per (params, types) to a jaxpr. Removing dead code from that jaxpr tells which
operands and outputs the rule reads, which are the node's residuals; what computes a cotangent that
nobody needs goes the same way.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax

from funcgrad import _jax, errors
from funcgrad.broadcasting import broadcasts_to, unbroadcast, varying_like
from funcgrad.registry import Op, Rule


class Uncacheable(Exception):
    """Carries a program whose rule closes over a tracer, so that no cache may keep it."""

    def __init__(self, program: Any):
        super().__init__()
        self.program = program


def cached(cache: Callable[..., Any]) -> Callable[..., Any]:
    """Keep what a function makes in a `cache`, but nothing that closes over a tracer."""

    def decorate(make: Callable[..., Any]) -> Callable[..., Any]:
        def make_cacheable(*args: Any) -> Any:
            program = make(*args)
            if program.closes_over_tracer:
                raise Uncacheable(program)
            return program

        look_up = cache(make_cacheable)

        @functools.wraps(make)
        def cached_make(*args: Any) -> Any:
            try:
                return look_up(*args)
            except Uncacheable as uncacheable:
                return uncacheable.program

        return cached_make

    return decorate


@dataclass(frozen=True)
class Signature:
    """Everything about a node that its rule can depend on, besides values."""

    rule: Rule
    op: Op
    params: tuple[tuple[str, Any], ...]
    operands: tuple[Any, ...]
    outputs: tuple[Any, ...]
    wanted: tuple[int, ...]
    multiple: bool

    def apply(
        self, cts: Sequence[Any], operands: Sequence[Any], outputs: Sequence[Any]
    ) -> list[Any]:
        """Run the rule and return the cotangents of the wanted operands, checked."""
        if self.multiple:
            ct, out = tuple(cts), tuple(outputs)
        else:
            (ct,), (out,) = cts, outputs
        result = self.rule(ct, *operands, out=out, **dict(self.params))
        if not isinstance(result, (tuple, list)):
            result = (result,)
        if len(result) != len(operands):
            raise errors.Unlocated(
                errors.RuleResultError,
                self.rule,
                self.op,
                errors.wrong_count(len(result), len(operands)),
            )
        return [self.checked(i, result[i]) for i in self.wanted]

    def checked(self, operand: int, ct: Any) -> Any:
        """A rule's result must have its operand's dtype and shape, up to the op's broadcasting."""
        if ct is None:
            return None
        expected = _jax.tangent_aval(self.operands[operand])
        if not _jax.is_array_type(ct):
            raise errors.Unlocated(
                errors.RuleResultError,
                self.rule,
                self.op,
                f"returned for operand {operand} {ct!r} of type {type(ct).__name__}, which is no array. "
                f"Return an array of type {expected.str_short()}, or None.",
            )
        found = _jax.typeof(_jax.canonicalize(ct))
        broadcast = self.rule.broadcasts and broadcasts_to(expected.shape, found.shape)
        if found.dtype == expected.dtype and (found.shape == expected.shape or broadcast):
            return varying_like(ct, expected)
        raise errors.Unlocated(
            errors.RuleResultError,
            self.rule,
            self.op,
            f"returned for operand {operand} a cotangent of type {found.str_short()}; the operand, and "
            f"so its cotangent, is {expected.str_short()}. Return that shape and dtype.",
        )


@dataclass(frozen=True)
class Variant:
    """The rule's program for one pattern of cotangents.

    Attributes:
      jaxpr: (consts, cotangents read, values read) -> cotangents of operands that are not None.
      cts: positions of the cotangents read.
      reads: positions, among operands and then outputs, of the values read.
      present: which wanted operands get a cotangent.
      compiled: the same as one compiled call, in which broadcasting is undone; None if there is
        nothing to compute.
    """

    jaxpr: _jax.Jaxpr
    consts: tuple[Any, ...]
    cts: tuple[int, ...]
    reads: tuple[int, ...]
    present: tuple[bool, ...]
    compiled: Callable[..., Any] | None

    @property
    def closes_over_tracer(self) -> bool:
        """Whether no cache may keep this."""
        return any(isinstance(const, _jax.Tracer) for const in self.consts)

    def __call__(self, cts: Sequence[Any], values: Mapping[int, Any], eager: bool) -> list[Any]:
        args = [*self.consts, *[cts[i] for i in self.cts], *[values[i] for i in self.reads]]
        if eager and self.compiled is not None:
            results = self.compiled(*args)
        else:
            results = _jax.eval_jaxpr(self.jaxpr, args, own_lines=False)
        if len(results) == len(self.present):
            return results
        remaining = iter(results)
        return [next(remaining) if there else None for there in self.present]


@dataclass(frozen=True, eq=False)
class Program:
    """A rule at given types: call it with the node's residuals and the output cotangents.

    Attributes:
      reads: positions, among operands and then outputs, of the values that the rule reads.
      late: whether it takes cotangents that are still broadcast.
    """

    signature: Signature
    reads: tuple[int, ...]
    variants: dict[Any, Variant] = field(default_factory=dict)

    @property
    def late(self) -> bool:
        return self.signature.rule.late

    @property
    def closes_over_tracer(self) -> bool:
        """Whether no cache may keep this."""
        return any(variant.closes_over_tracer for variant in self.variants.values())

    def __call__(self, residuals: Sequence[Any], cts: Sequence[Any], eager: bool) -> list[Any]:
        key = tuple([None if ct is None else _jax.typeof(ct) for ct in cts])
        variant = self.variants.get(key)
        if variant is None:
            variant = stage(self.signature, key)
            if not set(variant.reads) <= set(self.reads):
                return self(residuals, self.instantiated(cts), eager)
            if not variant.closes_over_tracer:
                self.variants[key] = variant
        return variant(cts, dict(zip(self.reads, residuals, strict=True)), eager)

    def instantiated(self, cts: Sequence[Any]) -> list[Any]:
        """Zeros for what did not arrive: for a rule that then reads more than it does otherwise."""
        return [
            _jax.zeros(aval) if ct is None and _jax.is_inexact(aval) else ct
            for ct, aval in zip(cts, self.signature.outputs, strict=True)
        ]


def program_of(
    rule: Rule,
    op: Op,
    params: Mapping[str, Any],
    operands: Sequence[Any],
    outputs: Sequence[Any],
    wanted: tuple[int, ...],
    multiple: bool,
) -> Program:
    """The program of `rule` for a node with these params and operand and output types."""
    signature = Signature(
        rule, op, tuple(params.items()), tuple(operands), tuple(outputs), wanted, multiple
    )
    return build_once(signature) if _is_hashable(signature) else build(signature)


def _is_hashable(signature: Signature) -> bool:
    try:
        hash(signature)
    except TypeError:
        return False
    return True


def build(signature: Signature) -> Program:
    """Trace the rule and find what it reads when every cotangent arrives."""
    cts = tuple(_jax.cotangent_aval(a) if _jax.is_inexact(a) else None for a in signature.outputs)
    variant = stage(signature, cts)
    return Program(signature, variant.reads, {cts: variant})


build_once = cached(_jax.cache())(build)


def stage(signature: Signature, cts: Sequence[Any]) -> Variant:
    """Trace the rule for cotangents of these types (None: did not arrive) and remove dead code."""
    arrived = [i for i, aval in enumerate(cts) if aval is not None]
    num_operands = len(signature.operands)
    present: list[bool] = []

    def apply(*flat: Any) -> list[Any]:
        given = dict(zip(arrived, flat, strict=False))
        values = flat[len(arrived) :]
        all_cts = [given.get(i) for i in range(len(cts))]
        results = signature.apply(all_cts, values[:num_operands], values[num_operands:])
        present.extend(ct is not None for ct in results)
        return [ct for ct in results if ct is not None]

    avals = [cts[i] for i in arrived] + [*signature.operands, *signature.outputs]
    jaxpr, consts = _jax.stage(apply, [_jax.strong(a) for a in avals], signature.rule.name)
    jaxpr, used = _jax.prune(jaxpr, [True] * len(jaxpr.outvars))
    used_consts = used[: len(consts)]
    used_cts = used[len(consts) : len(consts) + len(arrived)]
    used_values = used[len(consts) + len(arrived) :]
    targets = [
        signature.operands[i] for i, there in zip(signature.wanted, present, strict=True) if there
    ]
    return Variant(
        jaxpr,
        tuple(c for c, keep in zip(consts, used_consts, strict=True) if keep),
        tuple(i for i, keep in zip(arrived, used_cts, strict=True) if keep),
        tuple(i for i, keep in enumerate(used_values) if keep),
        tuple(present),
        compiled(jaxpr, targets, signature.rule.name),
    )


def compiled(jaxpr: _jax.Jaxpr, targets: Sequence[Any], name: str) -> Callable[..., Any] | None:
    """A jaxpr as one compiled call, named so that profiles show it, giving cotangents of the
    `targets`' shapes; None where it computes nothing."""
    shapes = [getattr(v.aval, "shape", ()) for v in jaxpr.outvars]
    if not jaxpr.eqns and shapes == [target.shape for target in targets]:
        return None

    def run(*args: Any) -> list[Any]:
        cts = _jax.eval_jaxpr(jaxpr, args)
        return [unbroadcast(ct, target) for ct, target in zip(cts, targets, strict=True)]

    run.__name__ = run.__qualname__ = name
    return jax.jit(run)
