"""Mutable references."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax._src import core as _core
from jax._src import linear_util
from jax._src.interpreters import partial_eval, pxla
from jax._src.named_sharding import UNSPECIFIED
from jax._src.state.primitives import addupdate_p, get_p, swap_p
from jax._src.state.types import ReadEffect, RefEffect
from jax.extend.core import ClosedJaxpr, Jaxpr, Primitive

from funcgrad._jax.jaxprs import (
    discharged,
    has_own_derivative,
    inner_jaxprs,
    is_given_references,
)
from funcgrad._jax.values import is_inexact, is_mutable, is_reference, typeof

new_ref_p, freeze_p, free_ref_p = _core.ref_p, _core.freeze_p, _core.free_ref_p


WHOLE = {"tree": jax.tree.structure(())}
"""Params of a get, swap or addupdate of all that a reference holds."""


def read_all(ref: Any) -> Any:
    """All that a reference holds."""
    return get_p.bind(ref, **WHOLE)


def write_all(ref: Any, x: Any) -> None:
    """Let a reference hold this."""
    swap_p.bind(ref, x, **WHOLE)


def add_to_all(ref: Any, x: Any) -> None:
    """Add this to what a reference holds."""
    addupdate_p.bind(ref, x, **WHOLE)


def is_differentiable(ref: Any) -> bool:
    """Whether a gradient passes through what this reference holds."""
    aval = typeof(ref)
    return aval.kind != "no_grad_no_remat" and is_inexact(aval)


def content_aval(ref: Any) -> Any:
    """The type of what a reference holds."""
    return typeof(ref).inner_aval


def give_references(
    args: Sequence[Any], params: dict[str, Any]
) -> tuple[Sequence[Any], dict[str, Any]]:
    """A jitted call with the references that it closes over as its last operands."""
    closed = params["jaxpr"]
    if not any(map(is_mutable, closed.consts)):
        return args, params
    closed, refs = pxla._move_mutable_consts(closed)
    more = {
        "jaxpr": closed,
        "in_shardings": (*params["in_shardings"], *[UNSPECIFIED] * len(refs)),
        "in_layouts": (*params["in_layouts"], *[None] * len(refs)),
        "donated_invars": (*params["donated_invars"], *[False] * len(refs)),
    }
    return [*args, *refs], {**params, **more}


def one_operation(primitive: Primitive, avals: Sequence[Any], params: dict[str, Any]) -> Jaxpr:
    """The jaxpr of one operation, whose inputs are the operands."""
    fresh = [aval.update() if is_reference(aval) else aval for aval in avals]

    def run(*args: Any) -> Any:
        out = primitive.bind(*args, **params)
        return out if primitive.multiple_results else [out]

    debug_info = linear_util.DebugInfo("funcgrad", str(primitive), None, None)
    wrapped = linear_util.wrap_init(run, debug_info=debug_info)
    jaxpr, _, consts = partial_eval.trace_to_jaxpr_dynamic(wrapped, fresh)
    assert not consts
    return jaxpr


def references_used(jaxpr: Jaxpr) -> tuple[list[bool], list[bool]]:
    """Which inputs are references that are used at all, and which are written."""
    effects = [e for e in jaxpr.effects if isinstance(e, RefEffect)]
    used = {e.input for e in effects}
    written = {e.input for e in effects if not isinstance(e, ReadEffect)}
    return [v in used for v in jaxpr.invars], [v in written for v in jaxpr.invars]


def purify(jaxpr: Jaxpr, which: Sequence[bool]) -> ClosedJaxpr:
    """The jaxpr with values for `which` references; what they hold then are its last outputs."""
    return discharged(jaxpr, which)


def gives_references_to_derivatives(jaxpr: Jaxpr) -> bool:
    """Whether a function with a derivative of its own is given a reference, at any depth.

    A pure form replaces such a call by the function's body, and so loses its derivative.
    """
    return any(
        is_given_references(eqn)
        if has_own_derivative(eqn)
        else any(map(gives_references_to_derivatives, inner_jaxprs(eqn.params)))
        for eqn in jaxpr.eqns
    )
