"""The public transforms: gradients of functions over pytrees."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar, overload

from jax.tree_util import keystr, tree_leaves_with_path, tree_structure, tree_unflatten

from funcgrad import _jax, errors
from funcgrad.arguments import (
    check_argnums,
    check_array,
    check_callable,
    check_inputs,
    check_scalar,
    name_of,
    names_of_arguments,
    resolve_argnums,
)
from funcgrad.backward import walk
from funcgrad.calls.references import Contents
from funcgrad.default import DEFAULT
from funcgrad.faults import raising
from funcgrad.pickling import Options, Origin, function_found
from funcgrad.places.asked import Asked
from funcgrad.places.selectors import Edit, Selector
from funcgrad.places.taps import Tapped
from funcgrad.pullbacks import Pullback, Static, TappedPullback, divided
from funcgrad.recording import filled, on_arguments, run_recorded
from funcgrad.registry import Rules, check_rules
from funcgrad.stack import with_room
from funcgrad.surface import derivative_of, public
from funcgrad.tape import freeze
from funcgrad.unused import reporting

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
    debug_nans: bool = False,
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
      debug_nans: where the value or the gradient is not finite, raise an error that says where that
        begins; under ``jit``, when the program runs (see :func:`funcgrad.inspect.nonfinite`).

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
      errors.NotFiniteError: with `debug_nans`; in a jitted function of the user's, the
        ``jax.errors.JaxRuntimeError`` that JAX makes of it, with the same message.

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
        debug_nans=debug_nans,
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
    debug_nans: bool = False,
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
    debug_nans: bool = False,
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
    debug_nans: bool = False,
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
        with reporting(rules, name, strict) as report, errors.at_worst_unknown():
            run = run_recorded(on_leaves, leaves, has_aux, rules, strict, name, report, asked=asked)
            check_scalar(run.outs, fun, holomorphic)
            (out,), (slot,) = run.outs, run.slots
            cts = walk(run.tape, [(slot, _jax.one_like(out))], run.inputs, consume=True)
        flat = filled(cts[: len(run.tape_inputs)], leaves, run.tape_inputs)
        flat = [_jax.weak_like(ct, x) for ct, x in zip(flat, leaves, strict=True)]
        trees = tree_unflatten(in_tree, flat)
        ct_args = trees[0] if isinstance(argnums, int) else trees
        value = tree_unflatten(run.out_tree, [out])
        both = ((value, run.aux) if has_aux else value), ct_args
        return both if taps is None else (*both, run.tapped(cts))

    return raising(value_and_gradient, fun, argnums, rules) if debug_nans else value_and_gradient


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
    origin = Origin(
        function_found(fun, asked is not None),
        {i: x for i, x in enumerate(given) if _jax.is_number(x)},
        rules,
        Options(
            tuple(saveable),
            None if wanted is None else tuple(wanted),
            has_aux,
            strict,
            traced=not _jax.is_eager(_jax.current_trace()),
        ),
    )
    on = (on_leaves, leaves, has_aux, rules, strict, name)
    with reporting(rules, name, strict) as report, errors.at_worst_unknown():
        run = run_recorded(*on, report, wanted, contents, asked)
    frozen, residuals = freeze(run.tape)
    out_avals = tuple(_jax.typeof(_jax.canonicalize(y)) for y in run.outs)
    in_avals = tuple(_jax.typeof(x) for x in leaves)
    places = {id(x): i for i, x in enumerate(leaves) if i not in contents.places}
    static = Static(
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
        origin,
    )
    out = tree_unflatten(run.out_tree, run.outs)
    pullback: Any = Pullback(static, *divided(static, residuals, saveable))
    if taps is not None and run.edited is not None:
        pullback = TappedPullback(pullback, run.found, run.edited.collector)
    return (out, pullback, run.aux) if has_aux else (out, pullback)
