"""Whose is a difference that shows only where XLA does not optimise: XLA's, or the programs'?

XLA that does not optimise is as right as any, but for known errors, and a gradient that is lost only
there is lost. So each side is traced, and what XLA compiles of the trace is compared with the same
operations, run one by one. A side that differs from itself so is miscompiled. If neither does, the two
programs differ in what they compute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

import funcgrad
from funcgrad import _jax
from funcgrad.testing.fuzz.derivatives import both_orders
from funcgrad.testing.fuzz.one import FIRST_ORDER, check, tolerance_of
from funcgrad.testing.fuzz.programs import Block, Program, statements_in

OURS, THEIRS = "XLA compiles funcgrad's otherwise", "XLA compiles jax.grad's otherwise"
HYPOT = "a modulus, which XLA is known to compute wrongly"
PROGRAMS = "not XLA's"


def whose(program: Program, mode: str, order: int) -> str:
    """Whose the difference of a program's gradients is, in a few words.

    Args:
      program: one whose gradient differs from jax.grad's here, and not where XLA optimises.
      mode: how it was differentiated, see :func:`funcgrad.testing.fuzz.one.check`.
      order: to which order.
    """
    inner: Any = jax if mode == "ours over jax" else funcgrad
    outer: Any = jax if mode == "jax over ours" else funcgrad
    order = 1 if mode in FIRST_ORDER else min(order, program.order)
    if has_hypot(program):
        other = replace(program, block=without_hypot(program.block))
        if has_hypot(other) or check(other, mode, order).failure is None:
            return HYPOT
        program = other
    fun, reference = program.function(), program.function(reference=True)
    with jax.enable_x64(True):
        try:
            return whose_of(
                lambda *xs: both_orders(fun, xs, inner, outer, order),
                lambda *xs: both_orders(reference, xs, jax, jax, order),
                program.values(),
                10 ** (order - 1) * tolerance_of(program),
            )
        except Exception:  # what raises an error is not compiled otherwise
            return PROGRAMS


def whose_of(ours: Any, theirs: Any, xs: Sequence[Any], rtol: float) -> str:
    """The same of two functions that give gradients."""
    if changes_when_compiled(theirs, xs, rtol):
        return THEIRS
    return OURS if changes_when_compiled(ours, xs, rtol) else PROGRAMS


def changes_when_compiled(fun: Callable[..., Any], xs: Sequence[Any], rtol: float) -> bool:
    """Whether a function compiled as a whole gives other numbers than its operations one by one."""
    traced = jax.make_jaxpr(fun)(*xs)
    one_by_one = _jax.eval_closed_jaxpr(traced, xs)
    compiled = jax.tree.leaves(jax.jit(fun)(*xs))
    finite = [np.abs(np.asarray(x)[np.isfinite(x)]) for x in one_by_one]
    atol = rtol * max(1.0, *(float(np.max(x, initial=0.0)) for x in finite))
    pairs = zip(one_by_one, compiled, strict=True)
    return not all(np.allclose(a, b, rtol=0, atol=atol, equal_nan=True) for a, b in pairs)


def has_hypot(program: Program) -> bool:
    """Whether XLA, where it does not optimise, is known to compute something in it wrongly.

    That is the modulus of a complex number, and a ``jnp.hypot``.
    """
    kinds = [k for s in statements_in(program.block) for k in s.types]
    kinds += [kind for _, kind in program.inputs]
    return "jnp.hypot" in program.text or any(kind.dtype.startswith("complex") for kind in kinds)


def without_hypot(block: Block) -> Block:
    """The block with a square root in the place of each ``jnp.hypot``."""
    statements = [
        replace(
            statement,
            text=statement.text.replace("jnp.hypot", "(lambda x, y: jnp.sqrt(x * x + y * y))"),
            blocks=tuple(map(without_hypot, statement.blocks)),
        )
        for statement in block.statements
    ]
    return replace(block, statements=tuple(statements))
