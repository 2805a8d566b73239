"""Dead code inside while loops, which JAX's removal of dead code keeps.

JAX keeps or drops a while loop whole. A loop that is run again for some of its results need not carry
the others: a buffer that each step writes and none reads, for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import Any

from jax import lax
from jax._src import linear_util
from jax._src.interpreters import partial_eval
from jax.extend.core import ClosedJaxpr, Jaxpr, Primitive

from funcgrad._jax.jaxprs import close, prune, variables, with_inner_jaxprs
from funcgrad._jax.loop_bodies import runs_loop
from funcgrad._jax.types import Atom, Equation

partial_while_p = Primitive("partial_while")
"""A while loop, while dead code is removed around and inside it."""
partial_while_p.multiple_results = True


def without_dead_carries(eqns: Sequence[Equation], targets: Sequence[Atom]) -> list[Equation]:
    """Equations that compute the targets, in which loops carry only what the targets need.

    The variables remain the same ones. Equations with effects are left as they are, all of them.
    """
    if any(eqn.effects for eqn in eqns) or not any(
        runs_loop(e, loops=(lax.while_p,)) for e in eqns
    ):
        return list(eqns)
    made = {v for eqn in eqns for v in eqn.outvars}
    read = dict.fromkeys(v for eqn in eqns for v in variables(eqn.invars) if v not in made)
    outputs = [v for v in dict.fromkeys(variables(targets)) if v in made]
    debug_info = linear_util.DebugInfo("funcgrad", "without_dead_carries", None, None)
    jaxpr = Jaxpr((), list(read), outputs, list(eqns), debug_info=debug_info)
    return list(prune_loops(jaxpr, [True] * len(outputs))[0].eqns)


def prune_loops(jaxpr: Jaxpr, used_outputs: Sequence[bool]) -> tuple[Jaxpr, list[bool]]:
    """As `prune`, with the dead code inside while loops removed too."""
    opened = [_replaced(eqn, lax.while_p, partial_while_p) for eqn in jaxpr.eqns]
    pruned, used = prune(jaxpr.replace(eqns=opened), used_outputs)
    closed = [_replaced(eqn, partial_while_p, lax.while_p) for eqn in pruned.eqns]
    return pruned.replace(eqns=closed), used


def _replaced(eqn: Equation, old: Primitive, new: Primitive) -> Equation:
    """An equation with another primitive for loops, at any depth."""

    def inside(jaxpr: Jaxpr) -> Jaxpr:
        eqns = [_replaced(inner, old, new) for inner in jaxpr.eqns]
        same = all(a is b for a, b in zip(eqns, jaxpr.eqns, strict=True))
        return jaxpr if same else jaxpr.replace(eqns=eqns)

    params = with_inner_jaxprs(eqn.params, inside)
    if eqn.primitive is old:
        return eqn.replace(primitive=new, params=params)
    return eqn if params is eqn.params else eqn.replace(params=params)


def _prune_loop(used: list[bool], *given: Any) -> tuple[list[bool], Equation | None]:
    """The rule for a loop of which some results are used: which operands are, and the loop."""
    eqn: Equation = given[-1]  # after which inputs are alive, from JAX 0.12
    if not any(used):
        return [False] * len(eqn.invars), None
    test, body = close(eqn.params["cond_jaxpr"]), close(eqn.params["body_jaxpr"])
    if eqn.effects or test.consts or body.consts:
        return [True] * len(eqn.invars), eqn
    num_tests, num_consts = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    needed = _either(used, prune(test.jaxpr, [True])[1][num_tests:])
    while (more := _either(needed, prune(body.jaxpr, needed)[1][num_consts:])) != needed:
        needed = more
    test, of_test = _pruned(test, [True], num_tests, needed)
    body, of_body = _pruned(body, needed, num_consts, needed)
    operands = [*of_test, *of_body, *needed]
    loop = eqn.replace(
        invars=[*compress(eqn.invars, operands)],
        outvars=[*compress(eqn.outvars, needed)],
        params={
            **eqn.params,
            "cond_jaxpr": test,
            "body_jaxpr": body,
            "cond_nconsts": sum(of_test),
            "body_nconsts": sum(of_body),
        },
    )
    return operands, loop


def _either(some: Sequence[bool], others: Sequence[bool]) -> list[bool]:
    return [a or b for a, b in zip(some, others, strict=True)]


def _pruned(
    closed: ClosedJaxpr, used: list[bool], num_consts: int, carries: list[bool]
) -> tuple[ClosedJaxpr, list[bool]]:
    """A loop's function without dead code, of these carries; and which of its constants are left."""
    jaxpr, left = prune(closed.jaxpr, used, [False] * num_consts + carries)
    return close(jaxpr), left[:num_consts]


partial_eval.dce_rules[partial_while_p] = _prune_loop
