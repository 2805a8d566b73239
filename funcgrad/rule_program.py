"""Rules as programs: what a rule reads, and what it computes.

A rule is traced to a jaxpr once for each combination of params and types. Dead code is then removed:
whatever computes a cotangent that no one needs. The operands and outputs that are left are those that
the rule reads, and become the node's residuals.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax import lax

from funcgrad import _jax, errors
from funcgrad._jax import Atom, Aval, Cotangent, Equation, Mask, Positions, Value, Var
from funcgrad.broadcasting import broadcasts_to, unbroadcast
from funcgrad.fusion import Fusion, fusion_of
from funcgrad.keys import Op
from funcgrad.masks import filled, mask_of, only, select, spread
from funcgrad.registry import Rule

NO_TAPES: Mapping[str, Any] = MappingProxyType({})


class Uncacheable(Exception):
    """Carries a program out of a cache that must not keep it: its rule closes over a tracer."""

    def __init__(self, program: Any):
        super().__init__()
        self.program = program


def cached(cache: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a function that makes programs: `cache` keeps those that close over no tracer."""

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
    """All that a rule's program depends on: everything about a node but its values."""

    rule: Rule
    op: Op
    params: tuple[tuple[str, Any], ...]
    operands: tuple[Aval, ...]
    outputs: tuple[Aval, ...]
    wanted: Positions
    multiple: bool

    def apply(
        self, cts: Sequence[Cotangent], operands: Sequence[Value], outputs: Sequence[Value]
    ) -> list[Cotangent]:
        """Run the rule and return the cotangents of the wanted operands, checked."""
        if self.multiple:
            ct, out = tuple(cts), tuple(outputs)
        else:
            (ct,), (out,) = cts, outputs
        args, kwargs = (ct, *operands), {"out": out, **dict(self.params)}
        result = errors.call_rule(self.rule, self.op, args, kwargs)
        if not isinstance(result, (tuple, list)):
            result = (result,)
        if len(result) != len(operands):
            raise errors.Unlocated(
                errors.RuleResultError,
                self.rule,
                self.op,
                errors.wrong_count(len(result), len(operands)),
            )
        foreign = any(map(has_foreign_dtype, cts, self.outputs))
        return [self.checked(i, result[i], foreign) for i in self.wanted]

    @property
    def in_auto_axes(self) -> Signature:
        """The same where shardings are no part of types."""
        operands = tuple(map(_jax.without_explicit_axes, self.operands))
        outputs = tuple(map(_jax.without_explicit_axes, self.outputs))
        return replace(self, operands=operands, outputs=outputs)

    def checked(self, operand: int, ct: Cotangent, foreign: bool) -> Cotangent:
        """A rule's result, if it has its operand's dtype and shape, up to the op's broadcasting.

        Any dtype will do if what the rule was given had a `foreign` one.
        """
        if ct is None:
            return None
        if isinstance(ct, errors.Unlocated):
            raise ct
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
        same_dtype = foreign or found.dtype == expected.dtype
        if same_dtype and found.shape == expected.shape:
            return _jax.with_cotangent_type(ct, self.operands[operand])
        if same_dtype and broadcast:
            return _jax.with_varying_axes(ct, expected)
        raise errors.Unlocated(
            errors.RuleResultError,
            self.rule,
            self.op,
            f"returned for operand {operand} a cotangent of type {found.str_short()}; the operand, and "
            f"so its cotangent, is {expected.str_short()}. Return that shape and dtype.",
        )


def has_foreign_dtype(ct: Cotangent, output: Aval) -> bool:
    """Whether a cotangent has another dtype than its output.

    A user's ``custom_vjp`` may return such, and JAX carries it on as it is.
    """
    return ct is not None and _jax.typeof(ct).dtype != _jax.tangent_aval(output).dtype


@dataclass(frozen=True)
class PatternProgram:
    """The rule's program for one pattern of cotangents.

    Attributes:
      jaxpr: maps consts, the cotangents read and the values read to the operands' cotangents that
        are not None.
      cts: positions of the cotangents read.
      reads: positions, among operands and then outputs, of the values read.
      present: which wanted operands get a cotangent.
      targets: types of the operands that get one.
      name: the rule's, which profiles show.
    """

    jaxpr: _jax.Jaxpr
    consts: tuple[Value, ...]
    cts: Positions
    reads: Positions
    present: Mask
    targets: tuple[Aval, ...]
    name: str

    @cached_property
    def compiled(self) -> Callable[..., Any] | None:
        """One compiled call that also undoes broadcasting; None where operations are run one by one."""
        return compiled(self.jaxpr, self.targets, self.name)

    @property
    def ct_variables(self) -> list[Var]:
        """The program's variables for the cotangents."""
        first = len(self.consts)
        return self.jaxpr.invars[first : first + len(self.cts)]

    @property
    def closes_over_tracer(self) -> bool:
        """Whether no cache may keep this."""
        return any(isinstance(const, _jax.Tracer) for const in self.consts)

    def __call__(
        self, cts: Sequence[Cotangent], values: Mapping[int, Value], eager: bool
    ) -> list[Cotangent]:
        args = [*self.consts, *[cts[i] for i in self.cts], *[values[i] for i in self.reads]]
        if eager and self.compiled is not None:
            results = self.compiled(*args)
        else:
            results = _jax.run_here(self.jaxpr, args)
        if len(results) == len(self.present):
            return results
        return spread(results, self.present)


class WithoutTapes:
    """A pullback with no tape inside."""

    @property
    def inner(self) -> Mapping[str, Any]:
        return NO_TAPES


@dataclass(frozen=True, eq=False)
class RuleProgram(WithoutTapes):
    """A rule at given types: call it with the node's residuals and the output cotangents.

    Attributes:
      reads: positions, among operands and then outputs, of the values that the rule reads.
      patterns: its programs so far, by the types of the cotangents (None: did not arrive).
      annotations: what the user said of the op besides; all its programs are traced so.
    """

    signature: Signature
    reads: Positions
    patterns: dict[tuple[Aval | None, ...], PatternProgram] = field(default_factory=dict)
    annotations: Any = field(default_factory=_jax.current_annotations)

    @property
    def late(self) -> bool:
        """Whether the rule takes cotangents that are still broadcast."""
        return self.is_late

    @cached_property
    def is_late(self) -> bool:
        """The same: declared for the rule, and checked, once.

        A rule that reads arrays is given the sum. It multiplies by their elements, which is less work
        on the sum than on the copies, and for the copies XLA may make arrays of the broadcast factors.
        """
        rule, values = self.signature.rule, (*self.signature.operands, *self.signature.outputs)
        if not rule.late or any(values[i].shape != () for i in self.reads):
            return False
        if not rule.elementwise:
            return True
        return is_elementwise(self.whole.jaxpr, self.whole.ct_variables)

    @property
    def whole(self) -> PatternProgram:
        """The program for when every cotangent arrives: the first."""
        return next(iter(self.patterns.values()))

    @cached_property
    def fusion(self) -> Fusion:
        """What XLA can fuse of the rule when every cotangent arrives."""
        program = self.whole
        shapes = [getattr(target, "shape", ()) for target in program.targets]
        return fusion_of(program.jaxpr, program.ct_variables, shapes).spread(program.present)

    @cached_property
    def rule_of_user(self) -> str | None:
        """The rule's name, which profiles show, where it is not one of this package's."""
        rule = self.signature.rule
        return None if rule.is_own else rule.name

    @property
    def reasons(self) -> tuple[tuple[str, int], ...]:
        """Which operand or output each residual is: ``("operand", i)`` or ``("output", i)``."""
        count = len(self.signature.operands)
        return tuple(("operand", i) if i < count else ("output", i - count) for i in self.reads)

    @property
    def closes_over_tracer(self) -> bool:
        """Whether no cache may keep this."""
        return any(program.closes_over_tracer for program in self.patterns.values())

    def __call__(
        self, residuals: Sequence[Value], cts: Sequence[Cotangent], eager: bool
    ) -> list[Cotangent]:
        key = tuple([None if ct is None else _jax.typeof(ct) for ct in cts])
        program = self.patterns.get(key)
        if program is None:
            with _jax.annotated_only_as(self.annotations):
                program = stage(self.signature, key)
            if not set(program.reads) <= set(self.reads):
                return self(residuals, self.instantiated(cts), eager)
            if not program.closes_over_tracer:
                self.patterns[key] = program
        return program(cts, dict(zip(self.reads, residuals, strict=True)), eager)

    def instantiated(self, cts: Sequence[Cotangent]) -> list[Value]:
        """Cotangents, zeros for those that did not arrive.

        A rule may read more values when a cotangent is missing than when all arrive. Those values
        were not kept, so such a rule is given zeros.
        """
        outputs = self.signature.outputs
        return _jax.instantiated(cts, only(outputs, map(_jax.is_inexact, outputs)))


def program_of(
    rule: Rule,
    op: Op,
    params: Mapping[str, Any],
    operands: Sequence[Aval],
    outputs: Sequence[Aval],
    wanted: Positions,
    multiple: bool,
) -> RuleProgram:
    """The program of `rule` for a node with these params and operand and output types."""
    signature = Signature(
        rule, op, tuple(params.items()), tuple(operands), tuple(outputs), wanted, multiple
    )
    return build_once(signature) if _jax.is_hashable(signature) else build(signature)


def build(signature: Signature) -> RuleProgram:
    """Trace the rule and find what it reads when every cotangent arrives."""
    cts = tuple(_jax.cotangent_aval(a) if _jax.is_inexact(a) else None for a in signature.outputs)
    program = stage(signature, cts)
    return RuleProgram(signature, program.reads, {cts: program})


def is_elementwise(jaxpr: _jax.Jaxpr, cts: Sequence[Var]) -> bool:
    """Whether a rule only multiplies cotangents by factors, adds them up, or selects from them.

    Such a rule may be given cotangents that are still broadcast, since it commutes with the sum that
    undoes the broadcasting.
    """
    return _elementwise_results(jaxpr, {*cts}, set()) is not None


ADDITIVE = frozenset(
    {
        *(lax.add_p, lax.sub_p, lax.neg_p, lax.convert_element_type_p, lax.copy_p, _jax.add_any_p),
        *(lax.real_p, lax.imag_p, lax.complex_p, lax.conj_p, lax.reduce_precision_p),
    }
)
"""Operations that are linear in all operands together, element by element."""


def _elementwise_results(
    jaxpr: _jax.Jaxpr, linear: set[Var], zero: set[Var]
) -> tuple[set[Var], set[Var]] | None:
    """The variables of a jaxpr that are linear in cotangents, and those that are zero.

    None if some variable depends on cotangents in another way.
    """
    for eqn in jaxpr.eqns:
        is_linear = [_is_in(v, linear) for v in eqn.invars]
        is_zero = [_is_zero(v, zero) for v in eqn.invars]
        if eqn.primitive is _jax.jit_p:
            inner = _jax.close(eqn.params["jaxpr"]).jaxpr
            masks = (is_linear, is_zero)
            given = [set(select(inner.invars, mask)) for mask in masks]
            found = _elementwise_results(inner, *given)
            if found is None:
                return None
            results = [[_is_in(r, known) for r in inner.outvars] for known in found]
        elif any(is_linear):
            if not _is_linear(eqn, is_linear, is_zero):
                return None
            results = [[True] * len(eqn.outvars), [False] * len(eqn.outvars)]
        else:
            moved = eqn.primitive in (lax.broadcast_in_dim_p, lax.convert_element_type_p)
            results = [[False] * len(eqn.outvars), [moved and all(is_zero)] * len(eqn.outvars)]
        for known, there in zip((linear, zero), results, strict=True):
            known.update(select(eqn.outvars, there))
    return linear, zero


def _is_in(v: Atom, known: set[Var]) -> bool:
    return not _jax.is_literal(v) and v in known


def _is_zero(v: Atom, zero: set[Var]) -> bool:
    return bool(np.all(v.val == 0)) if _jax.is_literal(v) else v in zero


def _is_linear(eqn: Equation, is_linear: Sequence[bool], is_zero: Sequence[bool]) -> bool:
    """Whether an equation is linear, element by element, in some of its operands."""
    read = select(eqn.invars, is_linear)
    types: list[Aval] = [v.aval for v in (*read, *eqn.outvars[:1])]
    if len({aval.shape for aval in types}) != 1:
        return False
    rest_vanishes = all(a or b for a, b in zip(is_linear[1:], is_zero[1:], strict=True))
    if eqn.primitive is lax.mul_p:
        return len(read) == 1
    if eqn.primitive is lax.div_p:
        return list(is_linear) == [True, False]
    if eqn.primitive is lax.select_n_p:
        return not is_linear[0] and rest_vanishes
    return eqn.primitive in ADDITIVE and (is_linear[0] or is_zero[0]) and rest_vanishes


build_once = cached(_jax.cache())(build)


def stage(signature: Signature, cts: Sequence[Aval | None]) -> PatternProgram:
    """Trace the rule for cotangents of these types (None: did not arrive) and remove dead code.

    On a mesh with explicit axes a rule may do what needs a sharding to be named. Then it is traced where
    these axes are ``Auto``, and its results get the shardings of their types.
    """
    arrived = [i for i, aval in enumerate(cts) if aval is not None]
    num_operands = len(signature.operands)
    present: list[bool] = []

    def apply(signature: Signature, flat: Sequence[Value]) -> list[Cotangent]:
        given = dict(zip(arrived, flat[: len(arrived)], strict=True))
        values = flat[len(arrived) :]
        all_cts = [given.get(i) for i in range(len(cts))]
        return signature.apply(all_cts, values[:num_operands], values[num_operands:])

    def staged(results_of: Callable[..., list[Cotangent]]) -> tuple[_jax.Jaxpr, list[Value]]:
        def run(*flat: Value) -> list[Value]:
            results = results_of(signature, flat)
            present[:] = mask_of(results)
            return filled(results)

        return _jax.stage(run, [_jax.strong(a) for a in avals], signature.rule.name)

    avals = [cts[i] for i in arrived] + [*signature.operands, *signature.outputs]
    settings = _jax.for_rules(avals, signature.rule.is_own)
    with _jax.uncaught(), settings:  # an override is for the function, not for rules
        try:
            jaxpr, consts = staged(apply)
        except Exception as problem:
            if not _jax.has_explicit_axes(_jax.current_mesh()):
                raise
            try:
                jaxpr, consts = staged(in_auto_axes(apply))
            except Exception:
                raise problem from problem.__cause__
    jaxpr, used = _jax.prune(jaxpr, [True] * len(jaxpr.outvars))
    used_consts = used[: len(consts)]
    used_cts = used[len(consts) : len(consts) + len(arrived)]
    used_values = used[len(consts) + len(arrived) :]
    return PatternProgram(
        jaxpr,
        tuple(select(consts, used_consts)),
        tuple(select(arrived, used_cts)),
        tuple(select(range(len(used_values)), used_values)),
        tuple(present),
        tuple(signature.operands[i] for i in select(signature.wanted, present)),
        signature.rule.name,
    )


def in_auto_axes(apply: Callable[..., list[Cotangent]]) -> Callable[..., list[Cotangent]]:
    """A signature applied where the mesh's explicit axes are ``Auto``, to results of its own types."""

    def apply_in_auto_axes(signature: Signature, flat: Sequence[Value]) -> list[Cotangent]:
        auto = signature.in_auto_axes
        with _jax.within_mesh(_jax.auto_mesh(_jax.current_mesh())):
            results = apply(auto, [_jax.to_auto_axes(x) for x in flat])
            sums = [
                None if ct is None else unbroadcast(ct, auto.operands[i])
                for i, ct in zip(auto.wanted, results, strict=True)
            ]
        return [
            None if ct is None else _jax.with_cotangent_type(ct, signature.operands[i])
            for i, ct in zip(signature.wanted, sums, strict=True)
        ]

    return apply_in_auto_axes


def compiled(jaxpr: _jax.Jaxpr, targets: Sequence[Aval], name: str) -> Callable[..., Any] | None:
    """A jaxpr as one compiled call that returns cotangents of the `targets`' shapes.

    None if it computes nothing, or moves values to other devices, which no compiled call can. Profiles
    show the call under `name`.
    """
    shapes = [getattr(v.aval, "shape", ()) for v in jaxpr.outvars]
    in_place = all(eqn.primitive is not lax.device_put_p for eqn in jaxpr.eqns)
    if not (jaxpr.eqns and in_place) and shapes == [target.shape for target in targets]:
        return None

    def run(*args: Value) -> list[Value]:
        cts = _jax.eval_jaxpr(jaxpr, args)
        return [unbroadcast(ct, target) for ct, target in zip(cts, targets, strict=True)]

    run.__name__ = run.__qualname__ = name
    return jax.jit(run)
