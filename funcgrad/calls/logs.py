"""What backward functions log, read out of a backward program (``pullback.with_logs``).

A backward function may return a dict besides its cotangents (``defvjp_with_logs`` of
``jax.custom_vjp``, ``vjp_bwd`` of a hijax primitive). The cotangents then pass the identity
`_jax.log_p`, which holds the dict. A pullback that is asked for logs is traced, and its trace is run
with the logs as further results:

    call around it     what becomes of a log
    jit, checkpoint    it is a result
    scan               it has a leading axis for the steps
    cond               it is a ``CondSum``: for each branch what it logged, zeros where it was not taken
    shard_map          the devices' logs are stacked along their first axes
    while              an error: nothing says how many steps there are
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from funcgrad import _jax, errors
from funcgrad._jax import ClosedJaxpr, Equation, Value
from funcgrad.calls.scan import ScanSettings
from funcgrad.calls.shard_map import MeshSettings
from funcgrad.registry import defrecord
from funcgrad.tape import TapeTrace

Logs = dict[Any, Any]


@defrecord(_jax.log_p)
def logged_call(trace: TapeTrace, primitive: Any, tracers: Any, params: dict[str, Any]) -> Any:
    """A log in a function that is itself differentiated: nobody reads it."""
    return list(tracers[: params["count"]])


def with_logs(pull_back: Callable[[], Any]) -> tuple[Any, Logs]:
    """The results of `pull_back`, a function of no arguments, and what is logged while it runs.

    Raises:
      errors.LogError: two backward functions log under the same key, or one logs in a while loop.
    """
    kept: list[Any] = []

    def staged() -> list[Value]:
        leaves, tree = jax.tree.flatten(pull_back())
        traced = [isinstance(x, _jax.Tracer) for x in leaves]
        kept[:] = [leaves, tree, traced]
        return [x for x, there in zip(leaves, traced, strict=True) if there]

    jaxpr, consts = _jax.stage(staged, [], "pull_back")
    outs, logs = run(_jax.close(jaxpr), consts)
    leaves, tree, traced = kept
    results = iter(outs)
    found = [next(results) if there else x for x, there in zip(leaves, traced, strict=True)]
    return jax.tree.unflatten(tree, found), logs


def run(closed: ClosedJaxpr, args: Sequence[Value]) -> tuple[list[Value], Logs]:
    """A jaxpr's results, and what is logged in it."""
    jaxpr = closed.jaxpr
    known = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    known |= dict(zip(jaxpr.invars, args, strict=True))
    logs: Logs = {}
    for eqn in jaxpr.eqns:
        operands = _jax.read(eqn.invars, known)
        with _jax.in_place_of(eqn):
            if eqn.primitive is _jax.log_p:
                outs, found = _jax.log_of(operands, **eqn.params)
            elif holds_logs(eqn):
                outs, found = CALLS.get(eqn.primitive, call_with_logs)(eqn, operands)
            else:
                outs, found = _jax.bind_equation(eqn, operands), {}
        merge(logs, found)
        known.update(zip(eqn.outvars, outs, strict=True))
    return _jax.read(jaxpr.outvars, known), logs


def holds_logs(eqn: Equation) -> bool:
    """Whether something is logged inside an operation."""
    inner = [e for jaxpr in _jax.inner_jaxprs(eqn.params) for e in jaxpr.eqns]
    return any(e.primitive is _jax.log_p or holds_logs(e) for e in inner)


def merge(logs: Logs, found: Logs) -> None:
    """Add what was found; each key may be there once."""
    for key, value in found.items():
        if key in logs:
            raise errors.LogError(
                f"Two backward functions logged under the key {key!r} in one call of "
                "pullback.with_logs. Log under keys that differ, or log once."
            )
        logs[key] = value


def call_with_logs(eqn: Equation, operands: Sequence[Value]) -> tuple[list[Value], Logs]:
    """A call of one function that means nothing else: its operations."""
    carried = _jax.carried_functions(eqn.params)
    if len(carried) != 1 or len(_jax.close(carried[0]).in_avals) != len(operands):
        raise errors.LogError(
            f"A backward function logged inside `{eqn.primitive}`, and pullback.with_logs cannot bring "
            "the log out of it. Log outside, or call the pullback without with_logs."
        )
    return run(_jax.close(carried[0]), operands)


def scan_with_logs(eqn: Equation, operands: Sequence[Value]) -> tuple[list[Value], Logs]:
    """A scan, with the logs of each step."""
    settings = ScanSettings(*_jax.scan_settings(eqn.params))
    parts, body = settings.divide(operands), _jax.close(eqn.params["jaxpr"])
    count = settings.num_carry

    def step(carry: Sequence[Value], xs: Sequence[Value]) -> tuple[Any, Any]:
        outs, logs = run(body, [*parts.consts, *carry, *xs])
        return outs[:count], (outs[count:], logs)

    carry, (ys, logs) = settings.run(step, [*parts.carries], [*parts.xs])
    return [*carry, *ys], logs


def cond_with_logs(eqn: Equation, operands: Sequence[Value]) -> tuple[list[Value], Logs]:
    """A cond or a switch: a `CondSum` for each key that a branch logs under."""
    index, *args = operands
    branches = [_jax.close(jaxpr) for jaxpr in eqn.params["branches"]]

    def branch(i: int) -> Callable[..., Any]:
        return lambda *args: run(branches[i], args)

    found = [jax.eval_shape(branch(i), *args)[1] for i in range(len(branches))]
    keys = dict.fromkeys(key for logs in found for key in logs)

    def filled(i: int) -> Callable[..., Any]:
        def run_branch(*args: Value) -> Any:
            outs, logs = branch(i)(*args)
            slots = [logs if j == i else blank(of_branch) for j, of_branch in enumerate(found)]
            return outs, {key: [slot.get(key) for slot in slots] for key in keys}

        return run_branch

    platforms = eqn.params.get("branches_platforms")
    run_all = [filled(i) for i in range(len(branches))]
    outs, logs = _jax.switch(index, run_all, args, platforms)
    return [*outs], {key: _jax.CondSum(index, slots) for key, slots in logs.items()}


def blank(structs: Any) -> Any:
    """Zeros of these types."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), structs)


def shard_map_with_logs(eqn: Equation, operands: Sequence[Value]) -> tuple[list[Value], Logs]:
    """A shard_map; a scalar gets an axis for the devices."""
    params = eqn.params
    body = _jax.close(params["jaxpr"])
    settings = MeshSettings(
        params["mesh"], params["check_vma"], params["newly_manual_axes"], body.jaxpr.debug_info
    )
    names, trees = settings.manual_names(), []

    def on_shards(*shards: Value) -> tuple[list[Value], list[Any]]:
        outs, logs = run(body, shards)
        leaves, tree = jax.tree.flatten(logs)
        leaves = [lax.expand_dims(x, (0,)) if jnp.ndim(x) == 0 else x for x in leaves]
        trees[:] = [tree]
        specs = [settings.stacked_spec(x, names) for x in leaves]
        return [*outs, *leaves], [*params["out_specs"], *specs]

    results = settings.run(on_shards, operands, params["in_specs"])
    count = len(eqn.outvars)
    return results[:count], jax.tree.unflatten(trees[0], results[count:])


def while_with_logs(eqn: Equation, operands: Sequence[Value]) -> tuple[list[Value], Logs]:
    """A while loop has no place for the logs of its steps."""
    raise errors.LogError(
        "A backward function logged inside a while loop, where nothing says how many steps there are, "
        "so pullback.with_logs has no array for the logs. Write the loop as a scan, or call the "
        "pullback without with_logs."
    )


CALLS: dict[Any, Callable[[Equation, Sequence[Value]], tuple[list[Value], Logs]]] = {
    lax.scan_p: scan_with_logs,
    lax.cond_p: cond_with_logs,
    lax.while_p: while_with_logs,
    _jax.shard_map_p: shard_map_with_logs,
}
"""How each call is run in which something is logged; others are replaced by their operations."""
