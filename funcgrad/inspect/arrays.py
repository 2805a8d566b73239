"""Arguments of which some leaves are no arrays: the activation function in a model of equinox."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from funcgrad import _jax, errors
from funcgrad.arguments import name_of


def is_array(x: Any) -> bool:
    """Whether a leaf is an array, a number, or the type of one."""
    return isinstance(x, jax.ShapeDtypeStruct) or _jax.is_number(x) or _jax.is_array_type(x)


def on_arrays(
    fun: Callable[..., Any], args: tuple[Any, ...]
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A function of arrays alone, which closes over all else, and its arguments.

    In the place of a leaf that is no array the arguments have None, so that the other leaves keep their
    names. Where all leaves are arrays or references, these are `fun` and `args` themselves.
    """
    leaves, tree = jax.tree.flatten(args)
    stay = [is_array(x) or _jax.is_mutable(x) for x in leaves]
    if all(stay):
        return fun, args

    @functools.wraps(fun)
    def on_filled(*args: Any) -> Any:
        given = iter(jax.tree.leaves(args))
        filled = [next(given) if stays else x for x, stays in zip(leaves, stay, strict=True)]
        return fun(*jax.tree.unflatten(tree, filled))

    kept = [x if stays else None for x, stays in zip(leaves, stay, strict=True)]
    return on_filled, jax.tree.unflatten(tree, kept)


def check_has_values(fun: Callable[..., Any], args: Sequence[Any], asked: str) -> None:
    """Check that no argument is a type alone.

    Raises:
      errors.InputError: one is.
    """
    for path, x in jax.tree_util.tree_leaves_with_path(tuple(args)):
        if isinstance(x, jax.ShapeDtypeStruct):
            raise errors.InputError(
                f"The {asked} of `{name_of(fun)}` was asked for, but leaf "
                f"{jax.tree_util.keystr(path)} of its arguments has no values: {x}. Pass arrays."
            )
