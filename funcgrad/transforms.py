"""The public transforms: gradients of functions over pytrees."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar, overload

import jax
from jax.tree_util import keystr, tree_leaves_with_path, tree_structure, tree_unflatten

from funcgrad import _jax, errors
from funcgrad.accumulation import check_entries, check_restored, deliver, deliver_content
from funcgrad.arguments import (
    check_argnums,
    check_array,
    check_callable,
    check_cotangents,
    check_inputs,
    check_scalar,
    name_of,
    names_of_arguments,
    resolve_argnums,
    the_cotangent,
)
from funcgrad.backward import walk
from funcgrad.calls.references import Contents
from funcgrad.default import DEFAULT
from funcgrad.places.asked import Asked, Collector
from funcgrad.places.selectors import Edit, Selector
from funcgrad.places.taps import Tapped
from funcgrad.printing import shown_pullback
from funcgrad.recording import filled, on_arguments, run_recorded
from funcgrad.registry import Rules, check_rules
from funcgrad.stack import with_room
from funcgrad.surface import derivative_of, public
from funcgrad.tape import FrozenTape, freeze

P = ParamSpec("P")
R = TypeVar("R")


@public
def grad(
    fun: Callable[P, Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    *,
    rules: Rules = DEFAULT,
    strict: bool = False,
    taps: Mapping[str, Selector] | None = None,
    edit: Edit | Sequence[Edit] | None = None,
) -> Callable[P, Any]:
    """Return a function that computes the gradient of a scalar-valued `fun`.

    Args:
      fun: maps pytrees of arrays to a scalar of real dtype (to a pair of that and auxiliary data
        with `has_aux`; of complex dtype with `holomorphic`).
      argnums: the positional arguments to differentiate; negative ones count from the end.
      has_aux: `fun` returns ``(scalar, aux)``, and the gradient function ``(gradient, aux)``.
      holomorphic: promise that `fun` is holomorphic; its inputs and output must be complex.
      allow_int: allow integer and boolean leaves, whose gradient is zeros of dtype ``float0``.
      rules: the backward rules to chain.
      strict: refuse primitives of third-party packages that have no rule in `rules`, instead of
        asking JAX for their derivative.
      taps: from names of yours to selectors made with :func:`funcgrad.at`, of values in `fun` to
        return with their cotangents. The function then also returns, last, a dict from the names to
        :class:`funcgrad.places.Tapped`.
      edit: changes of values or cotangents in `fun`: ``at(...).value(change)``,
        ``at(...).cotangent(change)``, or several of them.

    Returns:
      A function with `fun`'s arguments that returns a pytree like the argument (a tuple of them
      if `argnums` is a sequence), each leaf with the shape and dtype of the argument's leaf.

    Raises:
      errors.ArgnumsError: `argnums` is not an integer or names no positional argument.
      errors.InputError: an argument's leaf has no gradient.
      errors.OutputError: the output is not a scalar.
      errors.MissingRuleError: an op between argument and output has no rule.
      errors.SelectorError: a tap or an edit means no place in `fun`.
      errors.EditError: a tap or an edit cannot be made at its place.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> params = {"w": jnp.array([1.0, 2.0]), "b": 0.5}
      >>> loss = lambda params, x: (params["w"] @ x + params["b"]) ** 2
      >>> gradient = funcgrad.grad(loss)(params, jnp.array([3.0, 4.0]))
      >>> print(gradient["w"], gradient["b"])
      [69. 92.] 23.0
    """
    value_and_gradient = value_and_grad(
        fun,
        argnums,
        has_aux,
        holomorphic,
        allow_int,
        rules=rules,
        strict=strict,
        taps=taps,
        edit=edit,
    )

    aux = ", and the auxiliary data" if has_aux else ""

    @derivative_of(fun, "Gradient", check_argnums(argnums), f"the gradient{aux}")
    def gradient(*args: Any, **kwargs: Any) -> Any:
        value, ct_args, *tapped = value_and_gradient(*args, **kwargs)
        aux = [value[1]] if has_aux else []
        return (ct_args, *aux, *tapped) if aux or tapped else ct_args

    return gradient


@overload
def value_and_grad(
    fun: Callable[P, R],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    *,
    rules: Rules = DEFAULT,
    strict: bool = False,
    taps: None = None,
    edit: Edit | Sequence[Edit] | None = None,
) -> Callable[P, tuple[R, Any]]: ...
@overload
def value_and_grad(
    fun: Callable[P, R],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    *,
    rules: Rules = DEFAULT,
    strict: bool = False,
    taps: Mapping[str, Selector],
    edit: Edit | Sequence[Edit] | None = None,
) -> Callable[P, tuple[R, Any, dict[str, Tapped]]]: ...
@public
def value_and_grad(
    fun: Callable[P, R],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    *,
    rules: Rules = DEFAULT,
    strict: bool = False,
    taps: Mapping[str, Selector] | None = None,
    edit: Edit | Sequence[Edit] | None = None,
) -> Callable[P, tuple[R, *tuple[Any, ...]]]:
    """Return a function that computes both a scalar-valued `fun` and its gradient.

    Arguments and errors are those of :func:`grad`; the function returns ``(value, gradient)``,
    where value is ``(scalar, aux)`` with `has_aux`.

    Example:
      >>> import funcgrad
      >>> value, gradient = funcgrad.value_and_grad(lambda x: x**3)(2.0)
      >>> print(value, gradient)
      8.0 12.0
    """
    check_callable(fun)
    check_rules(rules)
    argnums = check_argnums(argnums)
    asked = Asked.of(taps, edit)

    @derivative_of(fun, "Value and gradient", argnums, "a pair of the value and the gradient")
    @with_room
    def value_and_gradient(*args: Any, **kwargs: Any) -> Any:
        positions = resolve_argnums(argnums, args, fun)
        dynamic = tuple(args[i] for i in positions)
        in_tree = tree_structure(dynamic)
        leaves = check_inputs(dynamic, positions, fun, holomorphic, allow_int)

        on_dynamic = on_arguments(fun, positions, args, kwargs)

        def on_leaves(*leaves: Any) -> Any:
            return on_dynamic(*tree_unflatten(in_tree, leaves))

        name = name_of(fun)
        run = run_recorded(on_leaves, leaves, has_aux, rules, strict, name, asked=asked)
        check_scalar(run.outs, fun, holomorphic)
        (out,), (slot,) = run.outs, run.slots
        seed = _jax.one_like(out)
        with errors.at_worst_unknown():
            cts = walk(run.tape, [(slot, seed)], run.inputs, consume=True)
        flat = filled(cts[: len(run.tape_inputs)], leaves, run.tape_inputs)
        flat = [_jax.weak_like(ct, x) for ct, x in zip(flat, leaves, strict=True)]
        trees = tree_unflatten(in_tree, flat)
        ct_args = trees[0] if isinstance(argnums, int) else trees
        value = tree_unflatten(run.out_tree, [out])
        both = ((value, run.aux) if has_aux else value), ct_args
        return both if taps is None else (*both, run.tapped(cts))

    return value_and_gradient


@public
@with_room
def vjp(
    fun: Callable[..., Any],
    *primals: Any,
    has_aux: bool = False,
    reduce_axes: Sequence[Any] = (),
    saveable_args: Any = True,
    in_nzs: Any = None,
    rules: Rules = DEFAULT,
    strict: bool = False,
    taps: Mapping[str, Selector] | None = None,
    edit: Edit | Sequence[Edit] | None = None,
) -> Any:
    """Run `fun` and return its output with the pullback, from output to input cotangents.

    Args:
      fun: maps pytrees of arrays to a pytree of arrays (to a pair with `has_aux`).
      *primals: `fun`'s arguments; a leaf may be a reference (``jax.new_ref``), whose cotangent
        ``pullback.with_refs`` takes.
      has_aux: `fun` returns ``(output, aux)``.
      reduce_axes: only ``()``, as in JAX.
      saveable_args: a bool, or a tree of bools that begins like `primals`: False for arguments that
        the pullback must not keep. Where it needs one, ``pullback.args_res`` has a ``NotSaveable()``
        in its place, for which the caller puts the value back before calling the pullback.
      in_nzs: a tree of bools like that, False for arguments that are not differentiated: their
        cotangents are zeros. ``pullback.out_nzs`` then says which outputs depend on the others.
      rules: the backward rules to chain.
      strict: refuse primitives of third-party packages that have no rule in `rules`, instead of
        asking JAX for their derivative.
      taps: as for :func:`grad`; the pullback then returns a pair: the input cotangents, and what is
        tapped.
      edit: as for :func:`grad`.

    Returns:
      ``(output, pullback)``, or ``(output, pullback, aux)`` with `has_aux`. The :class:`Pullback`
      is a pytree whose leaves are the residuals: it can leave a ``jit``, be stored, and be called
      more than once. ``pullback.with_refs(*refs)`` adds the cotangents to references instead.

    Raises:
      errors.InputError: an argument's leaf is not an array.
      errors.OutputError: an output's leaf is not an array.
      errors.CotangentError: the pullback is called with cotangents unlike the output.

    Example:
      >>> import jax, jax.numpy as jnp, funcgrad
      >>> y, pullback = jax.jit(lambda x: funcgrad.vjp(jnp.sin, x))(0.0)
      >>> print(y, *pullback(1.0), *pullback(2.0))
      0.0 1.0 2.0
    """
    if reduce_axes:
        raise NotImplementedError("reduce_axes of vjp is deprecated in JAX; leave it out.")
    check_callable(fun)
    check_rules(rules)
    in_tree = tree_structure(primals)
    given = [
        x if _jax.is_mutable(x) else check_array(x, fun, f"leaf {keystr(path)} of the primals")
        for path, x in tree_leaves_with_path(primals)
    ]
    saveable = _jax.flags_of_leaves(saveable_args, in_tree, "saveable_args")
    wanted = None if in_nzs is None else _jax.flags_of_leaves(in_nzs, in_tree, "in_nzs")
    contents = Contents(given)

    def on_leaves(*leaves: Any) -> Any:
        return fun(*tree_unflatten(in_tree, contents.entering(leaves)))

    leaves = contents.leaves
    name, asked = name_of(fun), Asked.of(taps, edit)
    run = run_recorded(on_leaves, leaves, has_aux, rules, strict, name, wanted, contents, asked)
    frozen, residuals = freeze(run.tape)
    out_avals = tuple(_jax.typeof(_jax.canonicalize(y)) for y in run.outs)
    in_avals = tuple(_jax.typeof(x) for x in leaves)
    places = {id(x): i for i, x in enumerate(leaves) if i not in contents.places}
    static = _Static(
        name_of(fun),
        names_of_arguments(fun, len(primals)),
        frozen,
        in_tree,
        in_avals,
        run.tape_inputs,
        run.out_tree,
        out_avals,
        run.slots,
        tuple(places.get(id(x)) for x in residuals),
        dict(zip(contents.places, run.content_slots, strict=True)),
    )
    out = tree_unflatten(run.out_tree, run.outs)
    pullback: Any = Pullback(static, *_divided(static, residuals, saveable))
    if taps is not None and run.edited is not None:
        pullback = TappedPullback(pullback, run.found, run.edited.collector)
    return (out, pullback, run.aux) if has_aux else (out, pullback)


@dataclass(frozen=True, eq=False)
class _Static:
    """All of a pullback but its residuals: the static data of the pytree.

    Attributes:
      places: of each residual, which leaf of the arguments it is; None if it is none.
      contents: by leaf that is a reference, the slot of what it holds when the function ends.
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


def _divided(
    static: _Static, residuals: Sequence[Any], saveable: Sequence[bool]
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


@jax.tree_util.register_pytree_node_class
class Pullback:
    """From output cotangents to input cotangents; a pytree whose leaves are the residuals.

    Call it with a cotangent for the output: a pytree like it, with its shapes and dtypes (for an
    integer leaf any dtype, ``float0`` by convention; it is not read). It returns a
    tuple with a cotangent for each argument.

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

    def __init__(self, static: _Static, args_res: list[Any], opaque_residuals: list[Any]):
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
        flat = check_entries(entries, static.in_tree, static.in_avals, static.name)
        return jax.tree_util.Partial(_into, self, flat)

    def _pull_back(self, ct: Any, entries: Sequence[Any] | None) -> tuple[Any, ...]:
        return self._pull_back_with(ct, entries, 0)[0]

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
    def out_nzs(self) -> Any:
        """Which outputs depend on differentiated arguments: a tree like the output."""
        static = self._static
        return tree_unflatten(static.out_tree, [slot is not None for slot in static.slots])

    def __repr__(self) -> str:
        name = self._static.name.split(" at ")[0]
        kept = (self.args_res, self.opaque_residuals)
        residuals = jax.tree.leaves(kept, is_leaf=lambda x: x is None)
        return shown_pullback(name, self._static.arguments, residuals)

    def tree_flatten(self) -> tuple[tuple[list[Any], list[Any]], _Static]:
        return (self.args_res, self.opaque_residuals), self._static

    @classmethod
    def tree_unflatten(cls, static: _Static, residuals: Sequence[Any]) -> Pullback:
        return cls(static, *residuals)


@dataclass(frozen=True)
class TappedPullback:
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
