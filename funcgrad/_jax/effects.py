"""The effects of a program apart from its values: a print of one example must not stop the others."""

from __future__ import annotations

from jax._src.ad_checkpoint import remat_p
from jax._src.pjit import jit_p
from jax._src.state.types import RefEffect
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.lax import cond_p, scan_p, while_p

from funcgrad._jax.jaxprs import (
    close_over,
    convert_consts,
    prune,
    prune_keeping_inputs,
    variables,
    with_inner_jaxprs,
    without_own_references,
)

OPENED = (jit_p, cond_p, scan_p, while_p, remat_p)
"""Operations that have no effects but those of the programs that they carry."""


class _NotApartError(Exception):
    """A value depends on an effect."""


def effects_apart(closed: ClosedJaxpr) -> tuple[ClosedJaxpr | None, ClosedJaxpr | None]:
    """A program's effects alone, without results, and the program without its effects.

    Returns:
      Both. The first is None where there are no effects. The second is None where a result depends on
      an effect: a callback's, or that of a reference that the program was given.
    """
    if not closed.effects:
        return None, closed
    jaxpr, more = without_own_references(convert_consts(closed))
    consts = [*more, *closed.consts]
    if not jaxpr.effects:
        return None, close_over(jaxpr, consts)
    if any(isinstance(effect, RefEffect) for effect in jaxpr.effects):
        return closed, None
    acting, _ = prune(jaxpr, [False] * len(jaxpr.outvars), keep_inputs=True)
    try:
        silent = prune_keeping_inputs(without_effects(jaxpr))
    except _NotApartError:
        return closed, None
    return close_over(acting, consts), close_over(silent, consts)


def without_effects(jaxpr: Jaxpr) -> Jaxpr:
    """The same values without the effects."""
    if not jaxpr.effects:
        return jaxpr
    used = {v for eqn in jaxpr.eqns for v in variables(eqn.invars)} | {*variables(jaxpr.outvars)}
    eqns = []
    for eqn in jaxpr.eqns:
        if eqn.effects and used.isdisjoint(eqn.outvars):
            continue
        if eqn.effects and eqn.primitive not in OPENED:
            raise _NotApartError
        params = with_inner_jaxprs(eqn.params, without_effects) if eqn.effects else eqn.params
        eqns.append(eqn.replace(params=params, effects=set()))
    return jaxpr.replace(eqns=eqns, effects=set())
