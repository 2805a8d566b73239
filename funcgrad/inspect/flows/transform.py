"""From a function to its flow: taps that return a few numbers of each value and each cotangent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from funcgrad import _jax
from funcgrad.arguments import (
    check_argnums,
    check_callable,
    name_of,
    names_of_arguments,
    names_of_leaves,
    resolve_argnums,
)
from funcgrad.default import DEFAULT
from funcgrad.inspect.arrays import on_arrays
from funcgrad.inspect.flows.flags import Thresholds
from funcgrad.inspect.flows.flow import Flow
from funcgrad.inspect.flows.layers import selectors_of
from funcgrad.inspect.flows.tapping import Places, Tapping
from funcgrad.registry import Rules
from funcgrad.surface import derivative_of, public
from funcgrad.transforms import value_and_grad

THRESHOLDS = Thresholds()


@public
def value_grad_and_flow(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    places: Places | None = None,
    depth: int | None = None,
    unit_axis: int = -1,
    thresholds: Thresholds = THRESHOLDS,
    rules: Rules = DEFAULT,
    strict: bool = False,
) -> Callable[..., Any]:
    """Return a function that computes a scalar-valued `fun`, its gradient, and its flow.

    The numbers are computed where the values are, so under ``jit`` no value leaves the program.

    Args:
      fun: maps pytrees of arrays to a scalar, as for :func:`funcgrad.grad`.
      argnums: the positional arguments to differentiate; their leaves are the parameters.
      has_aux: `fun` returns ``(scalar, aux)``.
      places: a selector made with :func:`funcgrad.at`, or a dict of them by name, of the values that are
        rows. By default what leaves each name scope is a row; without scopes, what leaves each line.
      depth: how many name scopes deep, from the outermost. By default as deep as at most 100 rows allow.
      unit_axis: the axis of a ReLU's result that counts its units or channels.
      thresholds: from where on a number is flagged.
      rules: the backward rules.
      strict: as for :func:`funcgrad.grad`.

    Returns:
      A function with `fun`'s arguments that returns ``(value, gradient, flow)``; flow is a
      :class:`Flow`.

    Raises:
      errors.SelectorError: `places` are no selectors, or one means no place in `fun`.
      errors.EditError: a selector means a place that cannot be tapped.

    Example:
      >>> import jax, jax.numpy as jnp, funcgrad
      >>> def loss(w, x):
      ...     with jax.named_scope("layer"):
      ...         h = jax.nn.relu(x @ w)
      ...     return jnp.mean(h**2)
      >>> step = jax.jit(funcgrad.inspect.value_grad_and_flow(loss))
      >>> value, gradient, flow = step(-jnp.eye(3), jnp.ones((32, 3)))
      >>> [flag.kind for flag in flow.flags()]
      ['vanishing', 'dead', 'no gradient']
    """
    check_callable(fun)
    argnums = check_argnums(argnums)
    name = name_of(fun)
    selectors = None if places is None else selectors_of(places, name)

    @derivative_of(fun, "Value, gradient and flow", argnums, "the value, the gradient and the flow")
    def run(*args: Any, **kwargs: Any) -> Any:
        positions = resolve_argnums(argnums, args, fun)
        dynamic = tuple(args[i] for i in positions)
        every = names_of_arguments(fun, len(args))
        names = names_of_leaves([every[i] for i in positions], dynamic)
        tapping = Tapping(selectors, depth, unit_axis, thresholds, name, names)
        found = value_and_grad(
            fun, argnums, has_aux, rules=rules, strict=strict, taps=tapping.taps
        )(*args, **kwargs)
        value, gradient, tapped = found
        flow = tapping.flow(tapped, jax.tree.leaves(dynamic), jax.tree.leaves(gradient))
        return value, gradient, flow

    return run


@public
def flow(
    fun: Callable[..., Any],
    *args: Any,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    update: Any = None,
    places: Places | None = None,
    depth: int | None = None,
    unit_axis: int = -1,
    thresholds: Thresholds = THRESHOLDS,
    rules: Rules = DEFAULT,
) -> Flow:
    """Return numbers of the values, cotangents and parameter gradients of each layer of a function.

    Args:
      fun: maps pytrees of arrays to a scalar; `args` are its arguments, or ``jax.ShapeDtypeStruct`` in
        their place, for the rows without numbers.
      *args: the arguments; a leaf that is no array is closed over.
      argnums: the positions of the arguments to differentiate; their leaves are the parameters.
      has_aux: `fun` returns ``(scalar, aux)``.
      update: for the ratio of update to weight: an optax optimiser, for its first update; a pair of it
        and its state; or the updates themselves, a tree like the gradient.
      places, depth, unit_axis, thresholds, rules, strict: as for :func:`value_grad_and_flow`.

    Returns:
      A :class:`Flow`, which prints as a table with what is wrong below it.

    Raises:
      errors.SelectorError: a selector means no place in `fun`.

    Example:
      >>> import jax, jax.numpy as jnp, funcgrad
      >>> def loss(weights, x):
      ...     for i, w in enumerate(weights):
      ...         with jax.named_scope(f"layer_{i}"):
      ...             x = jax.nn.sigmoid(x @ w)
      ...     return jnp.mean(x)
      >>> found = funcgrad.inspect.flow(loss, [jnp.eye(4)] * 8, jnp.ones((16, 4)))
      >>> print(found.flags()[0])
      layer_0: vanishing: the cotangent's norm is 2.8e-05 of the last layer's
    """
    fun, args = on_arrays(fun, args)
    transform = value_grad_and_flow(
        fun,
        argnums,
        has_aux,
        places=places,
        depth=depth,
        unit_axis=unit_axis,
        thresholds=thresholds,
        rules=rules,
    )
    leaves = jax.tree.leaves(args, is_leaf=lambda x: isinstance(x, jax.ShapeDtypeStruct))
    if any(isinstance(x, jax.ShapeDtypeStruct) for x in leaves):
        return jax.eval_shape(transform, *args)[2]
    gradient, found = _compiled(lambda *args: transform(*args)[1:], leaves)(*args)
    if update is None:
        return found
    positions = resolve_argnums(argnums_ := check_argnums(argnums), args, fun)
    params = args[positions[0]] if isinstance(argnums_, int) else tuple(args[i] for i in positions)
    return found.with_updates(_updates(update, gradient, params))


def _compiled(run: Callable[..., Any], leaves: Sequence[Any]) -> Callable[..., Any]:
    """The function as one quickly compiled program; itself where JAX traces already."""
    own = any(isinstance(x, _jax.Tracer) or _jax.is_mutable(x) for x in leaves)
    if own or not _jax.is_eager(_jax.current_trace()):
        return run
    return jax.jit(run, compiler_options=_jax.quick_compilation())


def _updates(update: Any, gradient: Any, params: Any) -> Any:
    """The updates that an optimiser makes of a gradient, or that were given."""
    if isinstance(update, optax.GradientTransformation):
        update = (update, update.init(params))
    if isinstance(update, tuple) and isinstance(update[0], optax.GradientTransformation):
        optimiser, state = update
        return optimiser.update(gradient, state, params)[0]
    return update
