"""Jacobians and Hessians, of gradients and pullbacks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

import jax.numpy as jnp
import numpy as np
from jax.tree_util import tree_flatten, tree_map, tree_structure, tree_unflatten

from funcgrad import _jax, errors
from funcgrad.arguments import (
    check_argnums,
    check_callable,
    check_inputs,
    check_output_dtype,
    resolve_argnums,
)
from funcgrad.default import DEFAULT
from funcgrad.recording import on_arguments
from funcgrad.registry import Rules, check_rules
from funcgrad.rows import check_chunk_size, rows_of
from funcgrad.surface import derivative_of, public
from funcgrad.transforms import grad, vjp

P = ParamSpec("P")


@public
def jacrev(
    fun: Callable[P, Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    *,
    rules: Rules = DEFAULT,
    strict: bool = False,
    chunk_size: int | str | None = None,
) -> Callable[P, Any]:
    """Return a function that computes the Jacobian of `fun`, one row per output element.

    Arguments are those of :func:`grad`, but `fun`'s output may be any pytree of arrays.

    Args:
      chunk_size: how many rows are computed at once; the others wait. A string such as ``"200MB"``
        means as many as take so much memory besides the Jacobian and what `fun` keeps, by an
        estimate. None means all. The values do not depend on it.

    Returns:
      A function that returns a pytree like the output, in whose leaves' places are pytrees like
      the argument, with leaves of shape ``output.shape + argument.shape``.

    Raises:
      errors.InputError, errors.OutputError, errors.ArgnumsError: as :func:`grad`.
      errors.InputError: `chunk_size` is not one of these.
      errors.BudgetError: one row takes more memory than `chunk_size` says.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> print(funcgrad.jacrev(lambda x: jnp.array([x[0] * x[1], x[1] ** 2]))(jnp.array([2.0, 3.0])))
      [[3. 2.]
       [0. 6.]]
    """
    check_callable(fun)
    check_rules(rules)
    chunk_size = check_chunk_size(chunk_size)
    argnums = check_argnums(argnums)

    aux = ", and the auxiliary data" if has_aux else ""

    @derivative_of(fun, "Jacobian", argnums, f"the Jacobian{aux}")
    def jacobian(*args: Any, **kwargs: Any) -> Any:
        positions = resolve_argnums(argnums, args, fun)
        dynamic = tuple(args[i] for i in positions)
        check_inputs(dynamic, positions, fun, holomorphic, allow_int)

        on_dynamic = on_arguments(fun, positions, args, kwargs)
        out, pullback, *aux = vjp(on_dynamic, *dynamic, has_aux=has_aux, rules=rules, strict=strict)
        for y in tree_flatten(out)[0]:
            check_output_dtype(y, fun, holomorphic)
        rows = tree_map(_jax.weak_like, rows_of(pullback, out, chunk_size), dynamic)
        if isinstance(argnums, int):
            rows = rows[0]
        result = tree_map(functools.partial(_split_rows, out), rows)
        result = _transpose_trees(rows, out, result)
        return (result, aux[0]) if has_aux else result

    return jacobian


@public
def hessian(
    fun: Callable[P, Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    *,
    rules: Rules = DEFAULT,
    strict: bool = False,
    chunk_size: int | str | None = None,
) -> Callable[P, Any]:
    """Return a function that computes the Hessian of `fun`: the Jacobian of its Jacobian.

    Arguments and errors are those of :func:`jacrev`. `chunk_size` is for the rows of the Hessian.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> print(funcgrad.hessian(lambda x: x[0] ** 2 * x[1])(jnp.array([2.0, 3.0])))
      [[6. 4.]
       [4. 0.]]
    """
    check_rules(rules)
    inner = jacrev(fun, argnums, has_aux, holomorphic, rules=rules, strict=strict)
    outer = jacrev(
        inner, argnums, has_aux, holomorphic, rules=rules, strict=strict, chunk_size=chunk_size
    )
    return derivative_of(fun, "Hessian", check_argnums(argnums), "the Hessian")(outer)


@public
def hvp(
    fun: Callable[..., Any],
    primals: Sequence[Any],
    tangents: Sequence[Any],
    *,
    rules: Rules = DEFAULT,
    strict: bool = False,
) -> tuple[Any, ...]:
    """Return the product of the Hessian of a scalar-valued `fun` with a vector.

    The Hessian is symmetric, so the product is the pullback of the gradient applied to the vector:
    reverse over reverse, at a small multiple of the cost of `fun`.

    Args:
      fun: maps pytrees of real arrays to a real scalar.
      primals: `fun`'s arguments, all differentiated.
      tangents: the vector: one pytree per argument, of the same structure, shapes and dtypes.
      rules: the backward rules to chain.
      strict: refuse primitives of third-party packages that have no rule in `rules`, instead of
        asking JAX for their derivative.

    Returns:
      A tuple with one pytree per argument.

    Raises:
      errors.CotangentError: `tangents` do not match `primals`.
      errors.InputError: `primals` or `tangents` are no tuple or list.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> f = lambda x: x[0] ** 2 * x[1]
      >>> print(*funcgrad.hvp(f, (jnp.array([2.0, 3.0]),), (jnp.array([1.0, 0.0]),)))
      [6. 4.]
    """
    check_rules(rules)
    for name, given in (("primals", primals), ("tangents", tangents)):
        if not isinstance(given, tuple | list):
            raise errors.InputError(
                f"The {name} of funcgrad.hvp are a tuple, also where there is one: "
                f"hvp(f, (x,), (v,)). Got {type(given).__name__}."
            )
    if len(primals) != len(tangents):
        raise errors.CotangentError(
            f"funcgrad.hvp was given {len(primals)} primals and {len(tangents)} tangents. Pass one "
            "tangent for each primal, with its structure, shapes and dtypes."
        )
    gradient = grad(fun, argnums=tuple(range(len(primals))), rules=rules, strict=strict)
    _, pullback = vjp(gradient, *primals, rules=rules, strict=strict)
    return pullback(tuple(tangents))


def _split_rows(out: Any, rows: Any) -> list[Any]:
    """Cut (all output elements, *argument.shape) into one array per output leaf."""
    leaves = tree_flatten(out)[0]
    ends = np.cumsum([np.size(y) for y in leaves])[:-1]
    parts = jnp.split(rows, ends) if len(leaves) > 1 else [rows] * len(leaves)
    return [
        part.reshape((*np.shape(y), *rows.shape[1:])) for y, part in zip(leaves, parts, strict=True)
    ]


def _transpose_trees(rows: Any, out: Any, parts: Any) -> Any:
    """From argument tree of lists over output leaves to output tree of argument trees."""
    in_tree = tree_structure(rows)
    out_leaves, out_tree = tree_flatten(out)
    lists = in_tree.flatten_up_to(parts)
    return tree_unflatten(
        out_tree,
        [tree_unflatten(in_tree, [part[i] for part in lists]) for i in range(len(out_leaves))],
    )
