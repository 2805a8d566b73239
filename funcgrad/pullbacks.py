"""What `vjp` returns: a pullback, which is a pytree whose leaves are the residuals."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.tree_util import tree_unflatten

from funcgrad import _jax, errors
from funcgrad.accumulation import check_entries, check_restored, deliver, deliver_content
from funcgrad.arguments import check_cotangents, the_cotangent
from funcgrad.backward import walk
from funcgrad.calls.logs import with_logs
from funcgrad.pickling import Origin, reduced
from funcgrad.places.asked import Collector
from funcgrad.places.taps import Tapped
from funcgrad.printing import shown_pullback
from funcgrad.stack import with_room
from funcgrad.tape import FrozenTape


@dataclass(frozen=True, eq=False)
class Static:
    """All of a pullback but its residuals: the static data of the pytree.

    Attributes:
      places: of each residual, which leaf of the arguments it is; None if it is none.
      contents: by leaf that is a reference, the slot of what it holds when the function ends.
      origin: how it was made, for another process.
      wants_logs: the pullback returns what backward functions log as well.
    """

    name: str
    arguments: tuple[str, ...]
    tape: FrozenTape
    in_tree: Any
    in_avals: tuple[Any, ...]
    tape_inputs: tuple[int, ...]
    out_tree: Any
    out_avals: tuple[Any, ...]
    slots: tuple[int | None, ...]
    places: tuple[int | None, ...]
    contents: dict[int, int | None]
    origin: Origin
    wants_logs: bool = False


def divided(
    static: Static, residuals: Sequence[Any], saveable: Sequence[bool]
) -> tuple[list[Any], list[Any]]:
    """The residuals that are arguments, in a tree like the arguments', and the others."""
    kept: list[Any] = [_jax.NotNeeded()] * len(static.in_avals)
    others = []
    for x, place in zip(residuals, static.places, strict=True):
        if place is None:
            others.append(x)
        else:
            kept[place] = x if saveable[place] else _jax.NotSaveable()
    return _jax.like_arguments(static.in_tree, kept), others


class Copied:
    """A pytree of which ``copy`` copies the arrays and not the static data."""

    def __copy__(self) -> Any:
        return jax.tree.map(lambda x: x, self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return jax.tree.map(lambda x: copy.deepcopy(x, memo), self)


@jax.tree_util.register_pytree_node_class
class Pullback(Copied):
    """From output cotangents to input cotangents; a pytree whose leaves are the residuals.

    Call it with a cotangent for the output: a pytree like it, with its shapes and dtypes (for an
    integer leaf any dtype, ``float0`` by convention; it is not read). It returns a
    tuple with a cotangent for each argument.

    A pullback can be copied, and pickled if its function and the rules that it overrides are found by
    name: the top of a module has them. Who loads it traces the function again, and the program must be
    the same: what cannot be pickled, or is another program when it is loaded, is an
    :class:`errors.PickleError`.

    Attributes:
      args_res: the arguments that it keeps, in a tree like theirs, and ``NotNeeded()`` or
        ``NotSaveable()`` for the others. What is put here is used.
      opaque_residuals: the other residuals.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> def predict(w, x):
      ...     return jnp.tanh(w @ x)
      >>> y, pullback = funcgrad.vjp(predict, jnp.ones((2, 3)), jnp.ones(3))
      >>> pullback
      <pullback of predict(w, x): 3 residuals, 44 bytes>
    """

    def __init__(self, static: Static, args_res: list[Any], opaque_residuals: list[Any]):
        self._static = static
        self.args_res = args_res
        self.opaque_residuals = opaque_residuals

    @_jax.boundary
    def __call__(self, *cts: Any) -> tuple[Any, ...]:
        return self._pull_back(the_cotangent(cts, self._static.name), None)

    def with_refs(self, *entries: Any) -> Callable[[Any], tuple[Any, ...]]:
        """A pullback that adds cotangents to references instead of returning them.

        Args:
          *entries: a tree like the arguments: for each leaf a reference, to which its cotangent is
            added; ``jax.ad.GradValue()`` to have it returned; or ``jax.ad.DontWant()`` to drop it.
            For an argument that is a reference, the entry's reference holds the cotangent of its
            content: after the function before the call, and before the function after the call.

        Returns:
          The pullback, which returns ``jax.ad.GradRef()`` for a cotangent that went into a
          reference, and ``jax.ad.DidntWant()`` for one that was dropped.

        Example:
          >>> import jax, jax.numpy as jnp, funcgrad
          >>> total = jax.new_ref(jnp.zeros(2))
          >>> for x in (1.0, 2.0):
          ...     y, pullback = funcgrad.vjp(lambda w, x: jnp.sum(w**2 * x), jnp.ones(2), x)
          ...     print(pullback.with_refs(total, jax.ad.DontWant())(1.0))
          (GradRef(), DidntWant())
          (GradRef(), DidntWant())
          >>> print(total[...])
          [6. 6.]
        """
        static = self._static
        flat = check_entries(entries, static.in_tree, static.in_avals, static.contents, static.name)
        return jax.tree_util.Partial(_into, self, flat)

    @property
    def with_logs(self) -> Pullback:
        """The pullback that returns a pair: the cotangents, and a dict of what backward functions log.

        A backward function logs by returning a dict besides the cotangents (``defvjp_with_logs`` of
        ``jax.custom_vjp`` from JAX 0.12). A log in a scan has a leading axis for its steps. One in a
        cond is a ``CondSum``, with the number of the branch that ran and what each branch logs.

        Raises:
          errors.LogError: when it is called, if two log under the same key, or one in a while loop.

        Example:
          >>> import jax.numpy as jnp, funcgrad
          >>> y, pullback = funcgrad.vjp(jnp.sin, 0.0)
          >>> (ct_x,), logs = pullback.with_logs(1.0)
          >>> print(ct_x, logs)
          1.0 {}
        """
        static = dataclasses.replace(self._static, wants_logs=True)
        return Pullback(static, self.args_res, self.opaque_residuals)

    def _pull_back(self, ct: Any, entries: Sequence[Any] | None) -> tuple[Any, ...]:
        def pull_back() -> tuple[Any, ...]:
            return self._pull_back_with(ct, entries, 0)[0]

        return with_logs(pull_back) if self._static.wants_logs else pull_back()

    @with_room
    def _pull_back_with(
        self, ct: Any, entries: Sequence[Any] | None, num_sinks: int
    ) -> tuple[tuple[Any, ...], list[Any]]:
        """The arguments' cotangents, and those of the sinks of taps."""
        static = self._static
        num_inputs = len(static.tape_inputs)
        leaves = check_cotangents(ct, static.out_tree, static.out_avals, static.name)
        tape = static.tape.thaw(self.residuals)
        seeds = [*zip(static.slots, leaves, strict=True)]
        entries = [_jax.GradValue()] * len(static.in_avals) if entries is None else entries
        given = [(slot, entries[i]) for i, slot in static.contents.items()]
        seeds += [(slot, _jax.read_all(ref)) for slot, ref in given if _jax.is_mutable(ref)]
        with errors.at_worst_unknown():
            found = walk(tape, seeds, range(num_inputs + num_sinks), consume=True)
        arrived = dict(zip(static.tape_inputs, found[:num_inputs], strict=True))
        results = [
            deliver_content(entry, arrived.get(i), aval, static.name)
            if i in static.contents
            else deliver(entry, arrived.get(i), aval)
            for i, (entry, aval) in enumerate(zip(entries, static.in_avals, strict=True))
        ]
        return tree_unflatten(static.in_tree, results), found[num_inputs:]

    @property
    def residuals(self) -> list[Any]:
        """All residuals, in the order in which the tape reads them."""
        if all(place is None for place in self._static.places):
            return list(self.opaque_residuals)
        kept = jax.tree.leaves(self.args_res, is_leaf=_jax.is_left_out)
        others = iter(self.opaque_residuals)
        found = [next(others) if i is None else kept[i] for i in self._static.places]
        check_restored(found, self._static.name)
        return found

    @property
    def structured_residuals(self) -> list[Any]:
        """What hijax primitives of the function keep in a structure of their own, in its order."""
        nodes = self._static.tape.thaw(self.residuals).nodes
        structures = [getattr(node.pullback, "structured", None) for node in nodes]
        pairs = zip(structures, nodes, strict=True)
        found = [None if of is None else of(node.residuals) for of, node in pairs]
        return [structure for structure in found if structure is not None]

    @property
    def out_nzs(self) -> Any:
        """Which outputs depend on differentiated arguments: a tree like the output."""
        static = self._static
        return tree_unflatten(static.out_tree, [slot is not None for slot in static.slots])

    def __repr__(self) -> str:
        name = self._static.name.split(" at ")[0]
        kept = (self.args_res, self.opaque_residuals)
        residuals = jax.tree.leaves(kept, is_leaf=lambda x: x is None)
        return shown_pullback(name, self._static.arguments, residuals)

    def __reduce__(self) -> tuple[Any, ...]:
        return reduced(self)

    def tree_flatten(self) -> tuple[tuple[list[Any], list[Any]], Static]:
        return (self.args_res, self.opaque_residuals), self._static

    @classmethod
    def tree_unflatten(cls, static: Static, residuals: Sequence[Any]) -> Pullback:
        return cls(static, *residuals)


@dataclass(frozen=True)
class TappedPullback(Copied):
    """A pullback of a function with taps: from output cotangents to input cotangents and tapped values.

    Attributes:
      pullback: the pullback without the taps.
      found: the tapped values.
      collector: makes the result of these and their cotangents.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> y, pullback = funcgrad.vjp(lambda x: 3 * jnp.exp(x), 0.0, taps={"e": funcgrad.at(op="exp")})
      >>> (ct_x,), tapped = pullback(1.0)
      >>> print(ct_x, tapped["e"].value, tapped["e"].cotangent)
      3.0 1.0 3.0
    """

    pullback: Pullback
    found: Any
    collector: Collector

    def __reduce__(self) -> tuple[Any, ...]:
        return reduced(self.pullback)  # an error: the taps are not saved

    @_jax.boundary
    def __call__(self, *cts: Any) -> tuple[tuple[Any, ...], dict[str, Tapped]]:
        ct = the_cotangent(cts, self.pullback._static.name)
        results, ct_sinks = self.pullback._pull_back_with(ct, None, len(self.collector.sinks))
        return results, self.collector(self.found, ct_sinks)


jax.tree_util.register_dataclass(
    TappedPullback, data_fields=["pullback", "found"], meta_fields=["collector"]
)


@_jax.boundary
def _into(pullback: Pullback, entries: Sequence[Any], ct: Any) -> tuple[Any, ...]:
    return pullback._pull_back(ct, entries)
