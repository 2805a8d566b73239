"""Scans whose bodies are checkpoints, in the place of those that a program has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jax._src.ad_checkpoint import remat_p
from jax._src.lax.control_flow import cond_p, scan_p, while_p
from jax._src.pjit import jit_p
from jax.extend.core import ClosedJaxpr, Jaxpr, Primitive

from funcgrad._jax.jaxprs import (
    close,
    convert_consts,
    inner_jaxprs,
    stage_closed,
    weak_cache,
    with_inner_jaxprs,
)
from funcgrad._jax.types import Equation
from funcgrad._jax.values import is_high, is_mutable

HOLDING_SCANS = (jit_p, cond_p)
"""Operations in whose programs scans are looked for."""

closed_once: Callable[[Any], ClosedJaxpr] = weak_cache(close)
"""A jaxpr without constants as a closed one: one and the same for one jaxpr."""


def with_bodies_checkpointed(jaxpr: Any, policy_for: Callable[[Any], Any]) -> Any:
    """A jaxpr in which the body of each scan, in jitted calls and branches too, is a checkpoint.

    Args:
      policy_for: from a scan's length to the policy of its body.

    Returns:
      The jaxpr; itself if there is no such scan.
    """
    eqns = [eqn.replace(params=_params_of(eqn, policy_for)) for eqn in jaxpr.eqns]
    same = all(a.params is b.params for a, b in zip(eqns, jaxpr.eqns, strict=True))
    return jaxpr if same else jaxpr.replace(eqns=eqns)


def _params_of(eqn: Equation, policy_for: Callable[[Any], Any]) -> dict[str, Any]:
    params = eqn.params
    if eqn.primitive in HOLDING_SCANS:
        return with_inner_jaxprs(params, lambda inner: with_bodies_checkpointed(inner, policy_for))
    if eqn.primitive is not scan_p or any(is_mutable(v) or is_high(v.aval) for v in eqn.invars):
        return params
    # XLA can undo what is computed again only where it sees both loops' steps side by side.
    length = params["length"]
    unrolled = isinstance(length, int) and params["unroll"] >= length
    policy = policy_for(length)
    return {**params, "jaxpr": _checkpointed(params["jaxpr"], policy, unrolled)}


def _checkpointed(closed: ClosedJaxpr, policy: Any, prevent_cse: bool) -> ClosedJaxpr:
    """A function as a checkpoint of the whole of it."""
    inner = convert_consts(closed)
    settings = {"prevent_cse": prevent_cse, "differentiated": False, "policy": policy}

    def body(*args: Any) -> list[Any]:
        return remat_p.bind(*closed.consts, *args, jaxpr=inner, **settings)

    staged = stage_closed(body, closed.in_avals, "checkpointed")
    info = closed.jaxpr.debug_info
    return with_inner_jaxprs({"body": staged}, lambda body: body.replace(debug_info=info))["body"]


def runs_loop(
    eqn: Equation,
    is_meant: Callable[[Jaxpr], bool] = lambda body: True,
    loops: Sequence[Primitive] = (scan_p, while_p),
) -> bool:
    """Whether an operation is one of these loops or runs one, at any depth, whose body is meant."""
    inner = inner_jaxprs(eqn.params)
    if eqn.primitive in loops and any(map(is_meant, inner)):
        return True
    return any(runs_loop(e, is_meant, loops) for jaxpr in inner for e in jaxpr.eqns)


def is_checkpoint(jaxpr: Jaxpr) -> bool:
    """Whether a body is nothing but a checkpoint."""
    return len(jaxpr.eqns) == 1 and jaxpr.eqns[0].primitive is remat_p
