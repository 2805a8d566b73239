"""Circumstances in which a gradient is to be the same: exported, on a mesh, under settings, by refs.

Each takes a function, its arguments, the library that differentiates (``jax`` or ``funcgrad``) and the
order, and returns results as :func:`funcgrad.testing.fuzz.derivatives.both_orders` does. A program that
jax.grad cannot differentiate in a circumstance is not compared in it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export, lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from funcgrad.testing.fuzz.derivatives import both_orders, directions_of

Circumstance = Callable[[Any, Sequence[Any], Any, int], Any]
STEPS = np.array([0.0, 0.05, -0.05])


def exported(fun: Any, xs: Sequence[Any], library: Any, order: int) -> Any:
    """Through ``jax.export``, vmapped over a batch whose size is a symbol."""
    rows = _rows(xs)
    (size,) = export.symbolic_shape("batch")
    kinds = [jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype) for x in rows]
    batched = jax.jit(jax.vmap(lambda *xs: both_orders(fun, xs, library, library, order)))
    disabled = [export.DisabledSafetyCheck.custom_call(name) for name in _CUSTOM_CALLS]
    results = export.export(batched, disabled_checks=disabled)(*kinds).call(*rows)
    return jax.tree.map(lambda x: x[0], results)


_CUSTOM_CALLS = ("lapack_dgetrf_ffi", "lapack_dgeqrf_ffi", "lapack_dorgqr_ffi")


def grad_of_vmap(fun: Any, xs: Sequence[Any], library: Any, order: int) -> Any:
    """The gradient of a vmapped function, row by row; JAX's is that of each row alone.

    But JAX must be able to trace its own of the vmapped function: it cannot where a custom_jvp rule
    runs a vmapped cond on tangents.
    """
    rows, argnums = _rows(xs), tuple(range(len(xs)))

    def total(*rows: Any) -> Any:
        values = jax.vmap(fun)(*rows)
        return jnp.sum(values), values

    gradient = library.value_and_grad(total, argnums, has_aux=True)
    if library is jax:
        jax.eval_shape(gradient, *rows)
        results = lax.map(lambda xs: both_orders(fun, xs, jax, jax, 1), tuple(rows))
    else:
        (_, values), cts = gradient(*rows)
        results = ((values, cts),)
    return jax.tree.map(lambda x: x.sum(0), results)


def on_a_mesh(spec_of: Callable[[Any], P]) -> Circumstance:
    """With operands whose types name their sharding; gradients have the types of the arguments."""

    def run_on_mesh(fun: Any, xs: Sequence[Any], library: Any, order: int) -> Any:
        explicit = (AxisType.Explicit,)
        mesh = jax.make_mesh((1,), ("x",), axis_types=explicit, devices=jax.devices()[:1])
        with jax.set_mesh(mesh):
            placed = [jax.device_put(x, NamedSharding(mesh, spec_of(x))) for x in xs]

            def run(*xs: Any) -> Any:
                results = both_orders(fun, xs, library, library, order)
                for _, cts in results:
                    for ct, x in zip(cts, xs, strict=True):
                        if jax.typeof(ct) != jax.typeof(x):
                            kinds = f"{jax.typeof(ct)} for {jax.typeof(x)}"
                            raise TypeError(f"a cotangent of type {kinds}")
                return results

            return jax.tree.map(np.asarray, jax.jit(run)(*placed))

    return run_on_mesh


def with_refs(fun: Any, xs: Sequence[Any], library: Any, order: int) -> Any:
    """Gradients added up in mutable references."""

    def run(*xs: Any) -> Any:
        value, pullback = library.vjp(fun, *xs)
        refs = [jax.new_ref(jnp.zeros_like(x)) for x in xs]
        pullback.with_refs(*refs)(jnp.ones_like(value))
        return ((value, tuple(jax.freeze(ref) for ref in refs)),)

    return jax.jit(run)(*xs)


def under(*settings: Callable[[], Any]) -> Circumstance:
    """Under settings of JAX's.

    A function that JAX cannot run so is not compared: JAX 0.10 finds a leak in each call of a primitive
    of ``jax.experimental.hijax``, which jax.grad does not meet where the call's result is not used.
    """

    def run(fun: Any, xs: Sequence[Any], library: Any, order: int) -> Any:
        with contextlib.ExitStack() as stack:
            for setting in settings:
                stack.enter_context(setting())
            if library is jax:
                jax.jit(fun)(*xs)
            return jax.jit(lambda *xs: both_orders(fun, xs, library, library, order))(*xs)

    return run


CIRCUMSTANCES: dict[str, Circumstance] = {
    "exported": exported,
    "grad of vmap": grad_of_vmap,
    "sharded on a mesh": on_a_mesh(lambda x: P("x") if x.shape[:1] > (1,) else P()),
    "whole on a mesh": on_a_mesh(lambda x: P()),  # JAX shards few of the operations
    "with refs": with_refs,
    "strict dtypes": under(
        lambda: jax.numpy_dtype_promotion("strict"),
        lambda: jax.checking_leaks(),
    ),
    "strict ranks": under(
        lambda: jax.numpy_rank_promotion("raise"),
        lambda: jax.debug_nans(True),
    ),
}
"""By the name of the mode."""


def _rows(xs: Sequence[Any]) -> list[Any]:
    """A few points beside each other, the first of which is `xs`."""
    pairs = zip(xs, directions_of(xs), strict=True)
    steps = [(x, np.asarray(STEPS, x.real.dtype).reshape(-1, *(1,) * x.ndim), d) for x, d in pairs]
    return [x + h * d for x, h, d in steps]
