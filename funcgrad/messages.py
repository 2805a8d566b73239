"""Longer parts of messages of errors."""

from __future__ import annotations

import sys
from typing import Any

import jax

OPAQUE = {
    "pure_callback": "jax.pure_callback",
    "io_callback": "jax.experimental.io_callback",
    "buffer_callback": "jax.experimental.buffer_callback.buffer_callback",
    "ffi_call": "jax.ffi.ffi_call",
    "pallas_call": "jax.experimental.pallas.pallas_call",
}
"""Ops that stand for whatever code the user has them run, so that no rule could hold for them all."""

REFUSALS = {
    "pure_callback": "Pure callbacks do not support JVP. Please use `jax.custom_jvp` to use callbacks "
    "while taking gradients.",
    "io_callback": "IO callbacks do not support JVP.",
    "buffer_callback": "Buffer callbacks do not support JVP. Please use `jax.custom_jvp` to use "
    "callbacks while taking gradients.",
    "ffi_call": "The FFI call to `{target}` cannot be differentiated.",
}
"""What JAX says when it is asked for their derivative; of a kernel it says many things."""


def found_as(op: Any) -> str:
    """Where an op can be imported from: the shortest public name, or else the shortest."""
    places = [
        (any(part.startswith("_") for part in module.split(".")), len(module), module, name)
        for module, content in list(sys.modules.items())
        for name, value in list(getattr(content, "__dict__", {}).items())
        if value is op and module != "__main__" and name.isidentifier()
    ]
    if not places:
        return f"the `{op}` primitive or function"
    *_, module, name = min(places)
    return f"the `{op}` primitive: from {module} import {name}"


def ask_for_a_function(op: Any, target: str, where: str) -> str:
    """What to do about an op that runs code which cannot be differentiated."""
    refusal = REFUSALS.get(str(op), "").format(target=target)
    jax_says = f" (JAX: {refusal})" if refusal else ""
    return (
        f"A gradient was asked for through op `{op}`, used at {where}. It runs code that cannot be "
        f"differentiated. Give the function that calls {OPAQUE[str(op)]} a rule of its own:\n\n"
        "    @funcgrad.op\n"
        "    def f(x): ...  # calls it\n\n"
        "    @f.defvjp\n"
        "    def f_vjp(ct, x, *, out):\n"
        "        return ct_x\n\n"
        "(jax.custom_vjp does too). Without editing it: make it a jax.jit function and pass "
        "rules=funcgrad.DEFAULT.override({f: f_vjp}). To treat its result as a constant, wrap it in "
        f"jax.lax.stop_gradient.{jax_says}"
    )


def own_arithmetic(args: Any) -> str:
    """What to do where a rule met values of an extended dtype; nothing where it met none."""
    dtypes = [x.dtype for x in jax.tree.leaves(args) if hasattr(x, "dtype")]
    own = [
        dtype
        for dtype in dtypes
        if jax.numpy.issubdtype(dtype, jax.dtypes.extended)
        and not jax.numpy.issubdtype(dtype, jax.dtypes.prng_key)
    ]
    if not own:
        return ""
    return (
        f". The extended dtype {own[0]} has no arithmetic but its own rules: convert to another dtype "
        "before this op, or give the function that holds it a custom_vjp."
    )
