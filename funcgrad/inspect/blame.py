"""Where a gradient that is not finite begins: the ops whose rules make it of finite cotangents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from funcgrad import _jax
from funcgrad.keys import Op
from funcgrad.registry import Rules
from funcgrad.tape import Node, walk_nodes
from funcgrad.transforms import vjp


@dataclass(eq=False)
class Blame:
    """An observer that notes the nodes whose cotangents come in finite and go out not so.

    It looks at the values while they are computed, so it sees nodes inside ``jit``, loops and branches.
    """

    found: list[Node] = field(default_factory=list)

    def recorded(self, node: Node, outs: Sequence[Any]) -> None:
        """Nothing is looked at on the way forward."""

    def pulled(self, node: Node, cts: Sequence[Any], results: Sequence[Any]) -> Sequence[Any]:
        """Have the cotangents looked at when they have values."""
        begins = _all_finite(cts) & ~_all_finite(results)
        jax.debug.callback(lambda begins: self.note(node, bool(begins.any())), begins)
        return results

    def note(self, node: Node, begins: bool) -> None:
        """Keep a node at which a cotangent ceases to be finite."""
        if begins:
            self.found.append(node)


def _all_finite(cts: Sequence[Any]) -> Any:
    arrays = [ct for ct in cts if ct is not None and _jax.has_numbers(_jax.typeof(ct))]
    return jnp.stack([jnp.array(True), *(jnp.isfinite(ct).all() for ct in arrays)]).all()


def origin_of_nonfinite(
    fun: Callable[..., Any], primals: Sequence[Any], ct: Any, rules: Rules
) -> tuple[Op, str | None] | None:
    """The op at which the gradient of `fun` ceases to be finite, and its place in the user's source.

    Args:
      fun: a function of pytrees of arrays.
      primals: its arguments.
      ct: a cotangent of its output.
      rules: the backward rules.

    Returns:
      The op and ``file:line (function)``; None if every cotangent is finite.
    """
    blame = Blame()
    _, pullback = vjp(fun, *primals, rules=rules.observed_by(blame))
    jax.block_until_ready(pullback(ct))
    jax.effects_barrier()
    if not blame.found:
        return None
    origin = next((node for node in blame.found if not node.pullback.inner), blame.found[0])
    around = [node for node in blame.found if _is_inside(origin, node)]
    places = (node.where for node in (origin, *around))
    return origin.op, next((place for place in places if place), None)


def _is_inside(node: Node, call: Node) -> bool:
    tapes = call.pullback.inner.values()
    return any(inner.pullback is node.pullback for tape in tapes for inner in walk_nodes(tape))
