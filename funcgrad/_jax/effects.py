"""The effects of a program apart from its values: a print of one example must not stop the others."""

from __future__ import annotations

from typing import Any

from jax._src import linear_util
from jax._src.ad_checkpoint import remat_p
from jax._src.custom_derivatives import custom_jvp_call_p, custom_vjp_call_p
from jax._src.pjit import jit_p
from jax._src.shard_map import shard_map_p
from jax._src.state.types import RefEffect
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.lax import cond_p, linear_solve_p, scan_p, while_p

from funcgrad._jax.jaxprs import (
    close_over,
    convert_consts,
    prune,
    prune_keeping_inputs,
    variables,
    with_inner_jaxprs,
    without_own_references,
)

DERIVATIVES = {custom_jvp_call_p: "jvp_jaxpr_fun", custom_vjp_call_p: "fwd_jaxpr_thunk"}
"""Calls of functions that bring a derivative, and the param that makes the program that runs then."""
OPENED = (
    *(jit_p, cond_p, scan_p, while_p, remat_p, shard_map_p, linear_solve_p),
    *DERIVATIVES,
)
"""Operations that have no effects but those of the programs that they carry."""


class NotApartError(Exception):
    """A value depends on an effect.

    Attributes:
      equation: the operation with the effect; None if it is that of a reference.
    """

    def __init__(self, equation: Any = None):
        super().__init__()
        self.equation = equation


def effects_apart(closed: ClosedJaxpr) -> tuple[ClosedJaxpr | None, ClosedJaxpr]:
    """A program's effects alone, without results, and the program without its effects.

    Returns:
      Both. The first is None where there are no effects.

    Raises:
      NotApartError: a result depends on an effect: that of a reference that the program was given, or
        of an operation that only its package knows.
    """
    if not closed.effects:
        return None, closed
    jaxpr, more = without_own_references(convert_consts(closed))
    consts = [*more, *closed.consts]
    if not jaxpr.effects:
        return None, close_over(jaxpr, consts)
    if any(isinstance(effect, RefEffect) for effect in jaxpr.effects):
        raise NotApartError
    acting, _ = prune(jaxpr, [False] * len(jaxpr.outvars), keep_inputs=True)
    silent = prune_keeping_inputs(without_effects(jaxpr))
    return close_over(acting, consts), close_over(silent, consts)


def without_effects(jaxpr: Jaxpr) -> Jaxpr:
    """The same values without the effects, and without what is computed for effects alone."""
    if not jaxpr.effects:
        return jaxpr
    used = {v for eqn in jaxpr.eqns for v in variables(eqn.invars)} | {*variables(jaxpr.outvars)}
    eqns = []
    for eqn in jaxpr.eqns:
        if eqn.effects and used.isdisjoint(eqn.outvars):
            continue
        if eqn.effects and eqn.primitive not in OPENED:
            raise NotApartError(eqn)
        params = with_inner_jaxprs(eqn.params, without_effects)
        if eqn.primitive in DERIVATIVES:
            name = DERIVATIVES[eqn.primitive]
            params = {**params, name: made_without_effects(params[name])}
        eqns.append(eqn.replace(params=params, effects=set()))
    return prune_keeping_inputs(jaxpr.replace(eqns=eqns, effects=set()))


def made_without_effects(make: Any) -> Any:
    """What makes a derivative's program, made to make one without effects."""

    def make_silent(*which: bool) -> tuple[Any, ...]:
        jaxpr, *others = make.call_wrapped(*which)
        return without_effects(jaxpr), *others

    return linear_util.wrap_init(make_silent, debug_info=make.debug_info)
