"""Primitives that expand themselves (``jax.experimental.hijax``), by the rules that they bring.

Such a primitive runs as operations of others, and is differentiated by its own rule: ``vjp_fwd`` and
``vjp_bwd``, or else ``jvp``, or else ``lin`` and ``linearized``. The last two run on tangents without
values, whose tape is walked back. One that has no rule is an error once a cotangent asks for it, however
well its operations could be differentiated.

What JAX makes of a user's function in this way, with ``jax_custom_vjp3`` or ``jax_remat3``, is a call of
that function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from funcgrad import _jax, errors
from funcgrad.called import CalledFunction, leads_to_in
from funcgrad.calls.checkpoint import RematProgram, program_of_remat
from funcgrad.calls.custom import TangentProgram
from funcgrad.calls.entering import CallProgram, How, ProgramOf, defcall, enter
from funcgrad.masks import select, spread
from funcgrad.registry import CallRule, Rules
from funcgrad.rule_program import WithoutTapes
from funcgrad.tangents import TangentTrace
from funcgrad.tape import TapeTrace


def hi_call(trace: TapeTrace, primitive: Any, tracers: Any, params: dict[str, Any]) -> Any:
    """A primitive's rule; on tangents, its rule for the operands in which it is linear."""
    return entered(trace, primitive, tracers, params, ON_VALUES)


def hi_call_in_checkpoint(
    trace: TapeTrace, primitive: Any, tracers: Any, params: dict[str, Any]
) -> Any:
    """The same inside ``jax.checkpoint``, where JAX prefers a primitive's rule for tangents."""
    return entered(trace, primitive, tracers, params, IN_CHECKPOINT)


def hi_call_in_remat3(
    trace: TapeTrace, primitive: Any, tracers: Any, params: dict[str, Any]
) -> Any:
    """The same under ``jax_remat3``, where JAX prefers what it prefers outside."""
    return entered(trace, primitive, tracers, params, IN_REMAT3)


def entered(
    trace: TapeTrace, primitive: Any, tracers: Any, params: dict[str, Any], how: How
) -> Any:
    """A primitive that is entered so, unless it is on tangents; a forward rule is opened."""
    prim = _jax.hi_primitive(params)
    if _jax.is_forward_rule(prim):
        with errors.located_at(_jax.current_where), _jax.set_current_trace(trace):
            return _jax.hi_expand(prim, tracers)
    how = ON_TANGENTS if isinstance(trace, TangentTrace) else how
    return enter(how, trace, primitive, tracers, params)


hi_primitive_call = CallRule(hi_call, (_jax.hi_call_p,), in_checkpoint=hi_call_in_checkpoint)


def function_of(params: dict[str, Any]) -> CalledFunction | None:
    """The function that custom_vjp or checkpoint was applied to; None for other primitives."""
    prim = _jax.hi_primitive(params)
    closed = _jax.function_carried(prim)
    if closed is None:
        return None
    name = _jax.function_of(closed)
    return CalledFunction(name, lambda *args: _jax.hi_expand(prim, args), leads_to_in(closed.jaxpr))


def function_of_linear(params: dict[str, Any]) -> CalledFunction | None:
    """The same on tangents: a custom_vjp function is not opened there, as it has a backward function."""
    return None if "vjp" in _jax.hi_rules(_jax.hi_primitive(params)) else function_of(params)


def by_the_first_of(*preferred: str, in_checkpoint: bool = False) -> ProgramOf:
    """How a primitive is differentiated whose operands have values: by one of the rules it has.

    A ``custom_vjp`` function is always differentiated by its backward function; in a checkpoint with
    ``optimize_remat`` it is itself run where no residual of it is read.
    """

    def program_of(
        primitive: Any, params: dict[str, Any], differentiated: tuple[bool, ...], rules: Rules
    ) -> CallProgram:
        prim = _jax.hi_primitive(params)
        if _jax.is_checkpointed(prim):
            return checkpointed(prim, differentiated, rules)
        there = _jax.hi_rules(prim)
        order = preferred if _jax.function_carried(prim) is None else ("vjp", *preferred)
        rule = next((name for name in order if name in there), None)
        if rule is None:
            wanted = "`vjp_fwd` with `vjp_bwd`, nor `jvp`, nor `lin` with `linearized`"
            return WithoutRule(primitive, params, differentiated, wanted=wanted)
        if rule == "vjp":
            return HiVjpProgram(prim, differentiated, in_checkpoint)
        return HiJvpProgram(_jax.hi_name(prim), differentiated, rules, prim=prim, rule=rule)

    return program_of


def checkpointed(prim: Any, differentiated: tuple[bool, ...], rules: Rules) -> RematProgram:
    """A checkpointed function, under ``jax_remat3``."""
    closed = _jax.function_carried(prim)
    assert closed is not None
    policy, barrier = _jax.remat_settings(prim)
    rules = rules.with_call(CallRule(hi_call_in_remat3, (_jax.hi_call_p,)))
    return program_of_remat(closed, differentiated, rules, policy, barrier)


@dataclass(eq=False)
class HiVjpProgram(WithoutTapes):
    """Runs a primitive's ``vjp_fwd`` and ``vjp_bwd`` as they are."""

    prim: Any
    differentiated: tuple[bool, ...]
    in_checkpoint: bool = False
    present: list[bool] | None = None
    backward: Any = None
    late: bool = False

    def forward(self, primals: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The outputs, and what ``vjp_bwd`` is given."""
        try:
            parts = _jax.hi_vjp(self.prim, primals, self.differentiated, self.in_checkpoint)
        except NotImplementedError as problem:
            if str(problem):
                raise
            name, wanted = _jax.hi_name(self.prim), "a `vjp_fwd` that is implemented"
            raise errors.Unlocated(errors.PrimitiveWithoutRuleError, name, wanted) from problem
        outs, nonzero, residuals, backward = parts
        if not backward.takes_residuals:
            problem = (
                "returned structured residuals from `vjp_fwd`, which its own `vjp_bwd` must take."
            )
            raise errors.Unlocated(errors.PrimitiveRuleError, _jax.hi_name(self.prim), problem)
        self.backward = backward
        pairs = zip(outs, nonzero, strict=True)
        self.present = [there and _jax.is_inexact(_jax.typeof(y)) for y, there in pairs]
        return outs, residuals

    def structured(self, residuals: Sequence[Any]) -> Any:
        """The residuals that ``vjp_fwd`` returned in a structure of their own, or None."""
        return self.backward.given(residuals)[1] if self.backward.structured else None

    def __call__(self, residuals: Sequence[Any], cts: Sequence[Any], eager: bool) -> Sequence[Any]:
        return pull_back(self.backward, residuals, cts)


def pull_back(backward: Any, residuals: Sequence[Any], cts: Sequence[Any]) -> list[Any]:
    """The operands' cotangents by a primitive's ``vjp_bwd``. With them goes what it logs."""
    return with_log(backward.prim, "vjp_bwd", *backward(residuals, cts))


def with_log(prim: Any, rule: str, results: Sequence[Any], log: Any) -> list[Any]:
    """The cotangents that a primitive's rule returned with a log, which must be a dict."""
    if log is not None and not isinstance(log, dict):
        problem = (
            f"must return None from `{rule}`, or a dict of what its backward-pass log is to hold; it "
            f"returned {type(log).__name__}."
        )
        raise errors.Unlocated(errors.PrimitiveRuleError, _jax.hi_name(prim), problem)
    return _jax.logged(results, log)


@dataclass(eq=False)
class HiJvpProgram(TangentProgram):
    """A primitive's rule for tangents."""

    prim: Any = None
    rule: str = "jvp"

    def apply_rule(
        self, primals: Sequence[Any], tangents: Sequence[Any]
    ) -> tuple[Sequence[Any], Sequence[Any]]:
        """Run ``jvp``, or ``lin`` and ``linearized``."""
        return _jax.hi_jvp(self.prim, self.rule, primals, tangents)


def transpose_of(
    primitive: Any, params: dict[str, Any], differentiated: tuple[bool, ...], rules: Rules
) -> CallProgram:
    """How a primitive is differentiated that is applied to tangents, in which it is linear.

    Its backward rule serves as well, as long as that reads none of the tangents.
    """
    prim = _jax.hi_primitive(params)
    if _jax.is_transposable(prim):
        return HiTransposeProgram(primitive, params, differentiated)
    if "vjp" in _jax.hi_rules(prim):
        return HiVjpProgram(prim, differentiated)
    return WithoutRule(primitive, params, differentiated, wanted="`transpose`")


@dataclass(frozen=True, eq=False)
class HiTransposeProgram(WithoutTapes):
    """Linear in the differentiated operands; the others are the residuals."""

    primitive: Any
    params: dict[str, Any]
    differentiated: tuple[bool, ...]
    late: bool = False

    @property
    def prim(self) -> Any:
        """The primitive with methods."""
        return _jax.hi_primitive(self.params)

    @property
    def present(self) -> list[bool]:
        """Which outputs carry a gradient."""
        return [_jax.is_inexact(aval) for aval in self.prim.out_avals_flat]

    @property
    def known(self) -> list[bool]:
        """Which operands are no tangents."""
        return [not linear for linear in self.differentiated]

    def forward(self, primals: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The outputs, and the operands that are no tangents."""
        return list(self.primitive.bind(*primals, **self.params)), select(primals, self.known)

    def __call__(self, residuals: Sequence[Any], cts: Sequence[Any], eager: bool) -> Sequence[Any]:
        operands = spread(residuals, self.known)
        results, log = _jax.hi_transpose(self.prim, operands, self.differentiated, cts)
        return with_log(self.prim, "transpose", results, log)


@dataclass(frozen=True, eq=False)
class WithoutRule(HiTransposeProgram):
    """A primitive that brings no rule: an error, once a cotangent arrives at it.

    Attributes:
      wanted: what its class would have to define.
    """

    wanted: str = ""

    def forward(self, primals: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The outputs."""
        return list(self.primitive.bind(*primals, **self.params)), []

    def __call__(self, residuals: Sequence[Any], cts: Sequence[Any], eager: bool) -> Sequence[Any]:
        name = _jax.hi_name(self.prim)
        raise errors.Unlocated(errors.PrimitiveWithoutRuleError, name, self.wanted)


@defcall(_jax.hi_linear_p)
def hi_linear_call(
    primitive: Any, params: dict[str, Any], differentiated: tuple[bool, ...], rules: Rules
) -> HiLinearProgram:
    """What ``jax.jvp`` makes of a primitive that has only a backward rule: known only backward."""
    return HiLinearProgram(primitive, params, differentiated)


@dataclass(frozen=True, eq=False)
class HiLinearProgram(WithoutTapes):
    """Linear in all operands but the residuals of the backward rule, which come first."""

    primitive: Any
    params: dict[str, Any]
    differentiated: tuple[bool, ...]
    late: bool = False

    @property
    def present(self) -> list[bool]:
        """Which outputs carry a gradient."""
        backward, nonzero = _jax.hi_linear_backward(self.params)
        return [_jax.is_inexact(aval) for aval in select(backward.prim.out_avals_flat, nonzero)]

    def forward(self, primals: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The outputs, and the residuals of the backward rule."""
        num_residuals = self.params["residuals_tree"].num_leaves
        if any(self.differentiated[:num_residuals]):
            name = _jax.hi_name(_jax.hi_primitive(self.params))
            raise errors.NonLinearJvpError(name, self.primitive, _jax.here())
        outs = self.primitive.bind(*primals, **self.params)
        return list(outs), list(primals[:num_residuals])

    def __call__(self, residuals: Sequence[Any], cts: Sequence[Any], eager: bool) -> Sequence[Any]:
        backward, nonzero = _jax.hi_linear_backward(self.params)
        results = pull_back(backward, residuals, spread(cts, nonzero))
        return select(results, self.differentiated[self.params["residuals_tree"].num_leaves :])


ON_VALUES = How(by_the_first_of("vjp", "jvp", "lin"), function_of, apart=False)
IN_CHECKPOINT = How(
    by_the_first_of("jvp", "vjp", "lin", in_checkpoint=True), function_of, apart=False
)
IN_REMAT3 = How(by_the_first_of("vjp", "jvp", "lin", in_checkpoint=True), function_of, apart=False)
ON_TANGENTS = How(transpose_of, function_of_linear, apart=False)
