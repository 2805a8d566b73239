"""How many steps the loops of a program take, and which branches: seen in a run of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from funcgrad import _jax
from funcgrad._jax import Equation, Jaxpr, Value
from funcgrad.inspect.costs.executions import Path
from funcgrad.inspect.costs.ways import Traced, Ways
from funcgrad.partition.work import Part, parts_of

Counts = dict[Path, Value]
"""How often each part of an operation was run: a loop's test and body, a branch."""


@dataclass(frozen=True)
class Taken:
    """What was counted in a function, on its way forward and on its way back."""

    function: Mapping[Path, int] = field(default_factory=dict)
    forward: Mapping[Path, int] = field(default_factory=dict)
    backward: Mapping[Path, int] = field(default_factory=dict)


NOTHING_RUN = Taken()


def steps_taken(function: Traced, ways: Ways) -> Taken:
    """Run a function, its way forward and its way back, and count."""
    given = jax.tree.leaves(ways.given)
    _, of_function = _counted(function, given)
    (out, pullback, *_), of_forward = _counted(ways.forward, given, ways.forward_tree)
    ct = jax.tree.map(_jax.seed_like, out)
    _, of_backward = _counted(ways.backward, jax.tree.leaves((pullback, ct)))
    return Taken(of_function, of_forward, of_backward)


def _counted(
    traced: Traced, args: Sequence[Value], tree: Any = None
) -> tuple[Any, dict[Path, int]]:
    """The results of a program, as a tree if one is given, and how often its parts were run."""
    run = jax.jit(lambda *args: _run(traced.jaxpr, args, ()))
    results, counts = run(*traced.consts, *args)
    out = results if tree is None else jax.tree.unflatten(tree, results)
    return out, {path: int(count) for path, count in counts.items()}


def _run(jaxpr: Jaxpr, args: Sequence[Value], path: Path) -> tuple[list[Value], Counts]:
    """The results of a jaxpr without constants, and how often each part inside it was run."""
    known = dict(zip(jaxpr.invars, args, strict=True))
    counts: Counts = {}
    for i, eqn in enumerate(jaxpr.eqns):
        operands = _jax.read(eqn.invars, known)
        own = (*path, i)
        if _is_open(eqn):
            outs, inside = RUN.get(eqn.primitive, _call)(eqn, operands, own)
            counts |= inside
        else:
            outs = _jax.bind_equation(eqn, operands)
        known.update(zip(eqn.outvars, outs, strict=True))
    return _jax.read(jaxpr.outvars, known), counts


def _run_part(part: Part, args: Sequence[Value], path: Path) -> tuple[list[Value], Counts]:
    return _run(_jax.convert_consts(part.function), [*part.function.consts, *args], path)


def _is_open(eqn: Equation) -> bool:
    """Whether it depends on values how often something in an operation runs, and it can be counted."""
    if eqn.primitive in (lax.while_p, lax.cond_p):
        return True
    parts = parts_of(eqn) or []
    counted = eqn.primitive is lax.scan_p or (len(parts) == 1 and parts[0].steps == 1)
    return counted and any(_is_open(inner) for part in parts for inner in part.jaxpr.eqns)


def _parts(eqn: Equation) -> list[Part]:
    return parts_of(eqn) or []


def _none_in(part: Part, path: Path) -> Counts:
    """Zeros for all that is counted in a function."""
    found: Counts = {}
    for i, eqn in enumerate(part.jaxpr.eqns):
        if not _is_open(eqn):
            continue
        for k, inner in enumerate(_parts(eqn)):
            own = (*path, i, k)
            if eqn.primitive in (lax.while_p, lax.cond_p):
                found[own] = jnp.int32(0)
            if eqn.primitive is not lax.while_p or k == BODY:
                found |= _none_in(inner, own)
    return found


def _sum(one: Counts, other: Counts) -> Counts:
    return {path: one[path] + other[path] for path in one}


BODY = 1
"""Of a ``while``, the number of the body among its parts; 0 is the test."""


def _call(eqn: Equation, operands: Sequence[Value], path: Path) -> tuple[list[Value], Counts]:
    (part,) = _parts(eqn)
    return _run_part(part, operands, (*path, 0))


def _scan(eqn: Equation, operands: Sequence[Value], path: Path) -> tuple[list[Value], Counts]:
    (part,) = _parts(eqn)
    num_consts, num_carry, length, reverse, _ = _jax.scan_settings(eqn.params)
    consts, rest = operands[:num_consts], operands[num_consts:]

    def step(state: Any, xs: Any) -> Any:
        carry, counts = state
        outs, inside = _run_part(part, [*consts, *carry, *xs], (*path, 0))
        return (outs[:num_carry], _sum(counts, inside)), outs[num_carry:]

    start = list(rest[:num_carry]), _none_in(part, (*path, 0))
    (carry, counts), ys = lax.scan(step, start, list(rest[num_carry:]), length, reverse)
    return [*carry, *ys], counts


def _while(eqn: Equation, operands: Sequence[Value], path: Path) -> tuple[list[Value], Counts]:
    """Under vmap a loop goes on until the last example ends, and those that have ended stay."""
    test, body = _parts(eqn)
    num_tests, num_consts = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    of_test, of_body = operands[:num_tests], operands[num_tests : num_tests + num_consts]

    def goes(carry: Sequence[Value]) -> Value:
        return _jax.eval_closed_jaxpr(test.function, [*of_test, *carry])[0]

    def step(state: Any) -> Any:
        count, carry, counts = state
        outs, inside = _run_part(body, [*of_body, *carry], (*path, BODY))
        going = goes(carry)
        if jnp.ndim(going):
            fits = [going.reshape(going.shape + (1,) * (y.ndim - going.ndim)) for y in outs]
            outs = [jnp.where(go, y, x) for go, x, y in zip(fits, carry, outs, strict=True)]
        return count + 1, outs, _sum(counts, inside)

    start = jnp.int32(0), list(operands[num_tests + num_consts :]), _none_in(body, (*path, BODY))
    count, outs, counts = lax.while_loop(lambda state: jnp.any(goes(state[1])), step, start)
    return outs, {(*path, 0): count + 1, (*path, BODY): count, **counts}


def _cond(eqn: Equation, operands: Sequence[Value], path: Path) -> tuple[list[Value], Counts]:
    parts = _parts(eqn)
    paths = [(*path, k) for k in range(len(parts))]
    nothing: Counts = {}
    for own, part in zip(paths, parts, strict=True):
        nothing |= {own: jnp.int32(0)} | _none_in(part, own)

    def branch(own: Path, part: Part) -> Any:
        def run(*operands: Value) -> Any:
            outs, inside = _run_part(part, operands, own)
            return outs, nothing | inside | {own: jnp.int32(1)}

        return run

    index, *given = operands
    branches = [branch(own, part) for own, part in zip(paths, parts, strict=True)]
    return _jax.switch(index, branches, given, eqn.params.get("branches_platforms"))


RUN = {lax.scan_p: _scan, lax.while_p: _while, lax.cond_p: _cond}
"""How operations are run whose parts are counted; any other calls its one function."""
