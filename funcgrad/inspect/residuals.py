"""What is kept for the way back of a function, by whom it is asked for, and what to checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.tree_util import tree_leaves, tree_structure, tree_unflatten

from funcgrad import _jax
from funcgrad._jax import variables
from funcgrad.arguments import name_of, names_of_arguments, names_of_leaves
from funcgrad.calls.checkpoint import RematProgram
from funcgrad.default import DEFAULT
from funcgrad.inspect.arrays import on_arrays
from funcgrad.inspect.asking_xla import why_not_compiled
from funcgrad.inspect.ledger.entries import kept_arrays, other_arrays
from funcgrad.inspect.ledger.flat import Flat, flat_program
from funcgrad.inspect.ledger.ledger import Ledger, Region
from funcgrad.inspect.ledger.suggest import (
    MOST_STEPS,
    Measured,
    Suggestion,
    measured,
    suggestions_for,
)
from funcgrad.inspect.ledger.walk import Walk, walk_of
from funcgrad.printing import size_of
from funcgrad.registry import Rules
from funcgrad.surface import public
from funcgrad.testing.residuals import residuals_of_jax
from funcgrad.transforms import vjp


@public
def residuals(
    fun: Callable[..., Any],
    *args: Any,
    rules: Rules = DEFAULT,
    compiled: bool | None = None,
    suggest: bool = True,
) -> Ledger:
    """List every array that the gradient of `fun` keeps for its way back, and what else it could do.

    Args:
      fun: a function of pytrees of arrays; it is traced, not run. Its gradient is that by all
        floating-point leaves of its arguments.
      *args: its arguments, or ``jax.ShapeDtypeStruct`` in their place; a leaf that is no array is closed
        over.
      rules: the backward rules.
      compiled: compile the gradient and ask XLA for its temporary memory. Where arguments are divided
        over devices, XLA is also asked how it divides what is kept. None does both if `fun` has at most
        2,000 operations; the ledger says so where XLA was not asked.
      suggest: try ``jax.checkpoint`` around name scopes, functions and bodies of loops of the trace, if
        `fun` has at most 4,000 operations.

    Returns:
      A :class:`Ledger`, which prints as a table; ``to_pandas()`` and ``to_figure()`` show it otherwise.

    Raises:
      errors.FuncgradError: `fun` cannot be differentiated at `args`.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> def loss(w, x):
      ...     return jnp.sum(jnp.exp(jnp.tanh(x @ w)))
      >>> ledger = funcgrad.inspect.residuals(loss, jnp.ones((4, 4)), jnp.ones((8, 4)))
      >>> ledger.kept, ledger.arguments
      (256, 192)
      >>> for array in ledger.of("kept"):
      ...     print(array.type, array.op, *array.asked_by[0].rule.split()[:1], array.freed)
      float32[8,4] tanh tanh_vjp 3
      float32[8,4] exp exp_vjp 2
    """
    fun, args = on_arrays(fun, args)
    traced = Traced.of(fun, args, rules)
    not_compiled = ""
    if compiled is None:
        not_compiled = why_not_compiled(len(traced.flat.steps), "compiled=True")
        compiled = not not_compiled
    shardings = traced.shardings() if compiled and traced.devices > 1 else None
    entries = [
        *kept_arrays(traced.flat, traced.walk, traced.names, shardings),
        *other_arrays(traced.walk),
    ]
    kept_by_jax, problem = _kept_by_jax(fun, args)
    not_tried = _reason_not_to_try(traced) if suggest else "not asked for"
    suggestions, failed = ([], []) if not_tried else _suggestions(fun, args, traced.rules)
    return Ledger(
        name_of(fun).partition(" at ")[0],
        tuple(sorted(entries, key=lambda entry: -entry.bytes)),
        max((visit.last for visit in traced.walk.all()), default=0),
        traced.devices,
        tuple(_regions(traced.walk)),
        traced.temp_size_in_bytes() if compiled else None,
        kept_by_jax,
        problem,
        tuple(suggestions),
        not_tried,
        tuple(failed),
        not_compiled,
    )


@dataclass(frozen=True, eq=False)
class Traced:
    """A function's pullback, traced.

    Attributes:
      fun: the function.
      args: its arguments.
      rules: the backward rules, which no longer report.
      flat: the forward program, whose results are the pullback's leaves.
      walk: the way back.
    """

    fun: Callable[..., Any]
    args: tuple[Any, ...]
    rules: Rules
    flat: Flat
    walk: Walk

    @classmethod
    def of(cls, fun: Callable[..., Any], args: tuple[Any, ...], rules: Rules) -> Traced:
        """Trace the pullback once; unused overrides are reported, once."""
        tapes: list[Any] = []

        def leaves(*args: Any) -> list[Any]:
            _, pullback = vjp(fun, *args, rules=rules)
            tapes.append(pullback._static.tape)
            return pullback.residuals

        closed = jax.make_jaxpr(leaves)(*args)
        return cls(fun, args, rules.quietly(), flat_program(closed), walk_of(tapes[-1]))

    @property
    def names(self) -> list[str]:
        """The names of all leaves of the arguments: ``params['w']``."""
        return names_of_leaves(names_of_arguments(self.fun, len(self.args)), self.args)

    @property
    def devices(self) -> int:
        """The number of devices over which the arguments are divided."""
        found = [getattr(x, "sharding", None) for x in tree_leaves(self.args)]
        return max((len(s.device_set) for s in found if s is not None), default=1)

    def shardings(self) -> Sequence[Any]:
        """How XLA divides the pullback's leaves over the devices."""

        def leaves(*args: Any) -> list[Any]:
            return vjp(self.fun, *args, rules=self.rules)[1].residuals

        return jax.jit(leaves).lower(*self.args).compile().output_shardings

    def gradient(self, *args: Any) -> Any:
        """The value, and the gradient of the sum of the outputs."""
        out, pullback = vjp(self.fun, *args, rules=self.rules)
        return out, pullback(jax.tree.map(_jax.seed_like, out))

    def temp_size_in_bytes(self) -> int | None:
        """XLA's own count of temporary memory for the whole gradient."""
        analysis = jax.jit(self.gradient).lower(*self.args).compile().memory_analysis()
        return None if analysis is None else analysis.temp_size_in_bytes


def _kept_by_jax(fun: Callable[..., Any], args: tuple[Any, ...]) -> tuple[int | None, str]:
    """The bytes that ``jax.grad`` keeps besides arguments and constants, or why that is not known."""
    try:
        jaxpr = residuals_of_jax(fun, *args).jaxpr
    except Exception as error:  # of JAX's, about a function that it cannot differentiate
        return None, str(error).partition("\n")[0].partition(". ")[0]
    kept = {*variables(jaxpr.outvars)} - {*jaxpr.invars, *jaxpr.constvars}
    return sum(size_of(v.aval) for v in kept), ""


def _regions(walk: Walk) -> Iterator[Region]:
    """The checkpointed functions that were recorded, in order."""
    for visit in walk.all():
        program = visit.node.pullback
        if isinstance(program, RematProgram):
            yield Region(str(visit.node.op), *program.estimates)


def _reason_not_to_try(traced: Traced) -> str:
    """Why nothing can be suggested; empty if it can."""
    if traced.rules.functions or traced.rules.placed:
        return "rules of functions and places are lost in a trace, on which suggestions are tried"
    count = len(traced.flat.steps)
    if count > MOST_STEPS:
        return f"{count:,} operations are more than {MOST_STEPS:,}, and each try traces them again"
    return ""


def _suggestions(
    fun: Callable[..., Any], args: tuple[Any, ...], rules: Rules
) -> tuple[list[Suggestion], list[str]]:
    """What to checkpoint, and what was tried and failed."""
    closed, shape = jax.make_jaxpr(fun, return_shape=True)(*args)
    out_tree = tree_structure(shape)

    def on_arguments(on_flat: Callable[..., Any]) -> Callable[..., Any]:
        def checkpointed(*args: Any) -> Any:
            return tree_unflatten(out_tree, on_flat(*tree_leaves(args)))

        return checkpointed

    return suggestions_for(
        closed, fun, on_arguments, lambda function: _measured(function, args, rules)
    )


def _measured(fun: Callable[..., Any], args: tuple[Any, ...], rules: Rules) -> Measured:
    """What the gradient of `fun` keeps and does, by one trace."""
    found: list[Any] = []

    def leaves_and_gradient(*args: Any) -> Any:
        out, pullback = vjp(fun, *args, rules=rules)
        leaves = pullback.residuals
        found[:] = pullback._static.tape, len(leaves)
        return leaves, out, pullback(jax.tree.map(_jax.seed_like, out))

    closed = jax.make_jaxpr(leaves_and_gradient)(*args)
    tape, num_kept = found
    return measured(closed.jaxpr, num_kept, walk_of(tape))
