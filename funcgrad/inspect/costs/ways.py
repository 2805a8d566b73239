"""A function, its way forward and its way back, traced apart from each other."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from funcgrad import _jax
from funcgrad.inspect.arrays import is_array
from funcgrad.partition.work import Work


@dataclass(frozen=True)
class Traced:
    """A traced function without dead code.

    Attributes:
      jaxpr: its operations; its constants come first among its inputs.
      consts: the values of the constants.
    """

    jaxpr: _jax.Jaxpr
    consts: tuple[Any, ...]

    @classmethod
    def of(cls, closed: Any) -> Traced:
        """What ``jax.make_jaxpr`` made."""
        pruned = _jax.prune_keeping_inputs(_jax.convert_consts(closed))
        return cls(pruned, tuple(closed.consts))


@dataclass(frozen=True)
class Ways:
    """A function of arrays, and its derivative.

    Attributes:
      run: the function of its arrays alone.
      given: the arrays.
      gradient: from the arrays to the value and the cotangents of those that are differentiated.
      forward: from the arrays to the value and the residuals.
      forward_tree: the structure of what it returns.
      backward: from the residuals and the value's cotangent to the arrays' cotangents.
    """

    run: Callable[..., Any]
    given: tuple[Any, ...]
    gradient: Callable[..., Any]
    forward: Traced
    forward_tree: Any
    backward: Traced

    @classmethod
    def of(
        cls,
        fun: Callable[..., Any],
        args: Sequence[Any],
        vjp: Callable[..., Any],
        has_aux: bool = False,
    ) -> Ways:
        """Trace the derivative of `fun` by `vjp`, by all floating-point leaves of these arguments."""
        leaves, tree = jax.tree.flatten(tuple(args))
        places = [i for i, x in enumerate(leaves) if is_array(x)]
        given = tuple(leaves[i] for i in places)

        @functools.wraps(fun)
        def run(*arrays: Any) -> Any:
            filled = list(leaves)
            for i, x in zip(places, arrays, strict=True):
                filled[i] = x
            return fun(*jax.tree.unflatten(tree, filled))

        def forward(*arrays: Any) -> Any:
            varied = [i for i, x in enumerate(arrays) if _jax.is_inexact(_jax.typeof(x))]

            @functools.wraps(fun)
            def on_varied(*inexact: Any) -> Any:
                filled = list(arrays)
                for i, x in zip(varied, inexact, strict=True):
                    filled[i] = x
                return run(*filled)

            return vjp(on_varied, *(arrays[i] for i in varied), has_aux=has_aux)

        def gradient(*arrays: Any) -> Any:
            out, pullback, *aux = forward(*arrays)
            return out, pullback(jax.tree.map(_jax.seed_like, out)), aux

        traced, returned = jax.make_jaxpr(forward, return_shape=True)(*given)
        out, pullback, *_ = returned
        backward = jax.make_jaxpr(lambda pullback, ct: pullback(ct))(pullback, out)
        forward_tree = jax.tree.structure(returned)
        return cls(run, given, gradient, Traced.of(traced), forward_tree, Traced.of(backward))


def by_xla(fun: Callable[..., Any], args: Sequence[Any]) -> Work | None:
    """XLA's figures for a function that it has compiled; None where it does not know."""
    found = jax.jit(fun).lower(*args).compile().cost_analysis()
    found = found[0] if isinstance(found, (list, tuple)) and found else found
    if not isinstance(found, dict) or "bytes accessed" not in found:
        return None
    figures = [float(found.get(key, 0.0)) for key in ("flops", "transcendentals", "bytes accessed")]
    return None if min(figures) < 0 else Work(*figures)
