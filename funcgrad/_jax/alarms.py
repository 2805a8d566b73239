"""Alarms: functions of the host that a running program calls when a value in it is bad."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax._src.debugging import debug_effect
from jax._src.interpreters import batching, mlir
from jax.extend.core import Primitive

from funcgrad._jax.values import is_array, is_key

Batched = tuple[bool, ...]

alarm_p = Primitive("alarm")
"""Calls `tell` on the host with some values where a condition holds.

Its params: `tell`, and for each enclosing vmap, the outermost first, which values have its axis. The
condition has all these axes, in this order, and the values' axes come first in the same order.
"""
alarm_p.multiple_results = True


def alarm(tell: Callable[..., None], bad: Any, values: Sequence[Any]) -> None:
    """Have the running program call `tell` if `bad` is true.

    Args:
      tell: a function of the number of the vmapped example (an integer for each vmap) and of
        the values, as arrays; an error that `tell` raises ends the program.
      bad: a scalar array of a bool.
      values: arrays or random keys; other values are left out, and come as None.
    """
    known = [is_array(x) or is_key(x) for x in values]
    keys = [jax.random.key_impl(x) if is_key(x) else None for x in values]
    arrays = [
        jax.random.key_data(x) if key is not None else x
        for x, key, there in zip(values, keys, known, strict=True)
        if there
    ]

    def tell_all(example: tuple[int, ...], *arrays: Any) -> None:
        given = iter(arrays)
        found: list[Any] = [next(given) if there else None for there in known]
        for i, key in enumerate(keys):
            if key is not None:
                found[i] = jax.random.wrap_key_data(found[i], impl=key)
        tell(example, *found)

    alarm_p.bind(*jax.lax.stop_gradient([bad, *arrays]), tell=tell_all, batched=())


def _run(bad: Any, *values: Any, tell: Callable[..., None], batched: tuple[Batched, ...]) -> Any:
    def on_host(bad: Any, *values: Any) -> None:
        example = tuple(int(i) for i in np.argwhere(np.asarray(bad))[0])
        tell(example, *_of_example(example, values, batched))

    def call(*args: Any) -> None:
        jax.debug.callback(on_host, *args)

    jax.lax.cond(jnp.any(bad), call, lambda *args: None, bad, *values)
    return []


def _of_example(
    example: tuple[int, ...], values: Sequence[Any], batched: Sequence[Batched]
) -> list[Any]:
    found = [np.asarray(x) for x in values]
    for index, has_axis in zip(example, batched, strict=True):
        found = [
            np.asarray(x[index]) if there else x for x, there in zip(found, has_axis, strict=True)
        ]
    return found


def _batch(args: Sequence[Any], axes: Sequence[Any], *, tell: Any, batched: Any) -> Any:
    """One more vmap, which is outside of those before."""
    sizes = [np.shape(x)[axis] for x, axis in zip(args, axes, strict=True) if axis is not None]
    moved = [
        x if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in zip(args, axes, strict=True)
    ]
    bad, *values = moved
    if axes[0] is None:
        bad = jnp.broadcast_to(bad, (sizes[0], *jnp.shape(bad)))
    has_axis = tuple(axis is not None for axis in axes[1:])
    return alarm_p.bind(bad, *values, tell=tell, batched=(has_axis, *batched)), []


alarm_p.def_impl(jax.jit(_run, static_argnames=("tell", "batched")))
alarm_p.def_effectful_abstract_eval(lambda *avals, **params: ([], {debug_effect}))
batching.primitive_batchers[alarm_p] = _batch
mlir.register_lowering(alarm_p, mlir.lower_fun(_run, multiple_results=True))
