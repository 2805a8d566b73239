"""custom_jvp and custom_vjp functions: the user's own derivative, in reverse.

A ``custom_vjp`` brings its backward function. A ``custom_jvp`` brings a function that is linear in
the tangents: it is run on tangents without values, which are written on a tape of their own, and that
tape is walked backward. (Differentiating the function's body instead would be wrong at kinks.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from funcgrad import _jax, errors
from funcgrad.backward import walk
from funcgrad.called import of_wrapped
from funcgrad.calls.entering import defcall
from funcgrad.masks import select
from funcgrad.nested import backward
from funcgrad.registry import Rules
from funcgrad.rule_program import NO_TAPES, WithoutTapes
from funcgrad.tangents import TangentTrace
from funcgrad.tape import FrozenTape, freeze


@defcall(_jax.custom_jvp_call_p, function=of_wrapped, apart=False)
def custom_jvp_call(
    primitive: Any, params: dict[str, Any], differentiated: tuple[bool, ...], rules: Rules
) -> CustomJvpProgram:
    """A custom_jvp function, and the transpose of its rule."""
    fun, jvp = params["subfuns"]
    name = _jax.description_of_wrapped(fun)
    symbolic = params["symbolic_zeros"]
    return CustomJvpProgram(name, differentiated, rules, jvp=jvp, symbolic_zeros=symbolic)


PRIMAL_BY_TANGENT = (
    "The jax.custom_jvp rule of `{}` computes a primal output from its tangents. Return the function's "
    "outputs first, which depend on the primals alone, and then their tangents."
)


@dataclass(eq=False)
class TangentProgram:
    """Runs a rule for tangents forward, and walks the tape of the tangents backward."""

    name: str
    differentiated: tuple[bool, ...]
    rules: Rules
    tape: FrozenTape | None = None
    outputs: tuple[int | None, ...] = ()
    present: list[bool] | None = None
    late: bool = False

    @property
    def inner(self) -> Mapping[str, FrozenTape]:
        """The tape of the tangents."""
        return NO_TAPES if self.tape is None else {"tangents": self.tape}

    def forward(self, primals: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The outputs, and what the tape of the tangents reads."""
        trace = TangentTrace(_jax.current_trace(), self.rules, self.name)
        tape = trace.tape
        tangents = [
            trace.new_tangent(_jax.tangent_aval(x)) if there else None
            for x, there in zip(primals, self.differentiated, strict=True)
        ]
        try:
            with _jax.set_current_trace(trace):
                primal_outs, tangent_outs = self.apply_rule(primals, tangents)
            primal_outs, by_tangents = trace.split(primal_outs)
            if any(slot is not None for slot in by_tangents):
                raise errors.InputError(PRIMAL_BY_TANGENT.format(self.name))
            self.outputs = tuple(trace.split(tangent_outs)[1])
        finally:
            trace.invalidate()
        self.present = [slot is not None for slot in self.outputs]
        self.tape, leaves = freeze(tape)
        return primal_outs, leaves

    def apply_rule(
        self, primals: Sequence[Any], tangents: Sequence[Any]
    ) -> tuple[Sequence[Any], Sequence[Any]]:
        """The outputs and their tangents; None is the tangent of what is not differentiated."""
        raise NotImplementedError

    def __call__(self, residuals: Sequence[Any], cts: Sequence[Any], eager: bool) -> Sequence[Any]:
        assert self.tape is not None
        seeds = zip(self.outputs, cts, strict=True)
        inputs = range(sum(self.differentiated))
        return walk(self.tape.thaw(residuals), seeds, inputs, consume=True)


@dataclass(eq=False)
class CustomJvpProgram(TangentProgram):
    """A custom_jvp function's rule."""

    jvp: Any = None
    symbolic_zeros: bool = False

    def apply_rule(
        self, primals: Sequence[Any], tangents: Sequence[Any]
    ) -> tuple[Sequence[Any], Sequence[Any]]:
        """Run the user's rule, on zeros for what is not differentiated."""
        avals = map(_jax.tangent_aval, primals)
        given = [
            _jax.instantiate(tangent, aval, self.symbolic_zeros)
            for tangent, aval in zip(tangents, avals, strict=True)
        ]
        outs = self.jvp.call_wrapped(*primals, *given)
        return outs[: len(outs) // 2], outs[len(outs) // 2 :]


@defcall(_jax.custom_vjp_call_p, function=of_wrapped, apart=False, opened_on_tangents=False)
def custom_vjp_call(
    primitive: Any, params: dict[str, Any], differentiated: tuple[bool, ...], rules: Rules
) -> CustomVjpProgram:
    """A custom_vjp function's forward, and its backward."""
    return CustomVjpProgram(params, differentiated, rules)


@dataclass(eq=False)
class CustomVjpProgram(WithoutTapes):
    """Runs the user's forward and backward as they are."""

    params: dict[str, Any]
    differentiated: tuple[bool, ...]
    rules: Rules
    ct_avals: tuple[Any, ...] = ()
    present: list[bool] | None = None
    late: bool = False

    def forward(self, primals: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The outputs, and what the user's backward is given."""
        _, fwd, _ = self.params["subfuns"]
        pairs = zip(primals, self.differentiated, strict=True)
        results = fwd.call_wrapped(*(item for pair in pairs for item in pair))
        _, residual_tree, forwarded = self.params["out_trees"]()
        num_new = residual_tree.num_leaves - sum(index is not None for index in forwarded)
        new, outs = iter(results[:num_new]), results[num_new:]
        self.ct_avals = tuple(_jax.cotangent_aval(_jax.typeof(y)) for y in outs)
        self.present = [_jax.is_inexact(_jax.typeof(y)) for y in outs]
        own = primals[_jax.operands_before(fwd) :]
        residuals = [next(new) if index is None else own[index] for index in forwarded]
        return list(outs), residuals

    def __call__(self, residuals: Sequence[Any], cts: Sequence[Any], eager: bool) -> Sequence[Any]:
        *_, bwd = self.params["subfuns"]
        symbolic = self.params["symbolic_zeros"]
        with backward(self.rules, bwd):
            results = _jax.call_custom_vjp_backward(bwd, residuals, cts, self.ct_avals, symbolic)
        return select(results, self.differentiated)


@defcall(_jax.custom_lin_p)
def custom_linear_call(
    primitive: Any, params: dict[str, Any], differentiated: tuple[bool, ...], rules: Rules
) -> CustomLinearProgram:
    """What ``jax.jvp`` makes of a custom_vjp function: known only backward, by the user's backward."""
    return CustomLinearProgram(primitive, params, differentiated, rules)


@dataclass(frozen=True, eq=False)
class CustomLinearProgram(WithoutTapes):
    """Linear in all operands but the residuals of the user's backward, which come first."""

    primitive: Any
    params: dict[str, Any]
    differentiated: tuple[bool, ...]
    rules: Rules
    late: bool = False

    @property
    def ct_avals(self) -> tuple[Any, ...]:
        """The types of the outputs' cotangents."""
        return tuple(map(_jax.cotangent_aval, self.params["out_avals"]))

    @property
    def present(self) -> list[bool]:
        """Which outputs carry a gradient."""
        return [_jax.is_inexact(aval) for aval in self.ct_avals]

    def forward(self, primals: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The outputs, and the residuals of the user's backward."""
        num_residuals = self.params["num_res"]
        if any(self.differentiated[:num_residuals]):
            raise errors.NonLinearJvpError("custom_vjp", self.primitive, _jax.here())
        outs = self.primitive.bind(*primals, **self.params)
        return list(outs), list(primals[:num_residuals])

    def __call__(self, residuals: Sequence[Any], cts: Sequence[Any], eager: bool) -> Sequence[Any]:
        params = self.params
        with backward(self.rules, params["bwd"]):
            results = _jax.call_custom_vjp_backward(
                params["bwd"], residuals, cts, self.ct_avals, params["symbolic_zeros"]
            )
        places = [i for i, zero in enumerate(params["in_zeros"]) if not zero]
        wanted = select(places, self.differentiated[params["num_res"] :])
        return [results[i] for i in wanted]
