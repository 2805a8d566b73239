"""Checks of what users pass to the transforms, before and after their function runs."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.tree_util import keystr, tree_leaves_with_path, tree_structure

from funcgrad import _jax, errors

Argnums = int | tuple[int, ...]


def name_of(fun: Callable[..., Any]) -> str:
    """``name at file:line`` of a user's function."""
    if inspect.ismethod(fun):
        fun = fun.__func__
    return _jax.function_description(fun) or type(fun).__name__


def names_of_arguments(fun: Callable[..., Any], count: int) -> tuple[str, ...]:
    """The names of the first `count` positional arguments, as `fun` has them."""
    skipped = 0
    while isinstance(fun, functools.partial):
        skipped += len(fun.args)
        fun = fun.func
    fun = inspect.unwrap(fun)
    skipped += inspect.ismethod(fun)
    code = getattr(fun, "__code__", None)
    names = code.co_varnames[skipped : code.co_argcount][:count] if code else ()
    return (*names, *[f"argument {i}" for i in range(len(names), count)])


def names_of_leaves(names: Iterable[str], trees: Iterable[Any]) -> list[str]:
    """The names of the leaves of named pytrees: ``params['w']``."""
    return [
        name + keystr(path)
        for name, tree in zip(names, trees, strict=True)
        for path, _ in tree_leaves_with_path(tree)
    ]


def check_callable(fun: Any) -> None:
    if not callable(fun):
        raise errors.InputError(
            f"A function to differentiate was expected, but got {fun!r} of type "
            f"{type(fun).__name__}. Pass the function itself: funcgrad.grad(f)(x), not "
            "funcgrad.grad(f(x))."
        )


def check_argnums(argnums: Any) -> Argnums:
    """Argnums as an int or a tuple of ints."""
    try:
        return operator.index(argnums)
    except TypeError:
        pass
    try:
        return tuple(operator.index(i) for i in argnums)
    except TypeError:
        raise errors.ArgnumsError(
            f"argnums says which positional arguments to differentiate: an integer or a sequence of "
            f"integers. Got {argnums!r} of type {type(argnums).__name__}. To differentiate an "
            "argument by name, pass it by position and give its index."
        ) from None


def resolve_argnums(argnums: Argnums, args: Sequence[Any], fun: Callable[..., Any]) -> list[int]:
    """Positions from 0 up, checked against the call."""
    positions = []
    for i in (argnums,) if isinstance(argnums, int) else argnums:
        if not -len(args) <= i < len(args):
            raise errors.ArgnumsError(
                f"`{name_of(fun)}` was to be differentiated with respect to argnums={argnums}, but "
                f"the call has {len(args)} positional argument(s). Pass differentiated arguments by "
                "position, or correct argnums."
            )
        positions.append(i % len(args))
    if len(set(positions)) < len(positions):
        raise errors.ArgnumsError(
            f"`{name_of(fun)}` was to be differentiated with respect to argnums={argnums}, which names "
            "an argument twice. Name each argument once."
        )
    return positions


def check_array(x: Any, fun: Callable[..., Any], label: str) -> Any:
    """A leaf as JAX takes it."""
    if not _jax.is_array_type(x):
        raise errors.InputError(
            f"`{name_of(fun)}` was to be differentiated, but {label} is {x!r} of type "
            f"{type(x).__name__}, which is no array. Close over such values, or pass them as arguments "
            "that argnums leaves out. Part a pytree that holds arrays and others, such as a model of "
            "equinox: equinox.partition(model, equinox.is_inexact_array)."
        )
    return _jax.canonicalize(x)


def check_inputs(
    dynamic: tuple[Any, ...],
    positions: Sequence[int],
    fun: Callable[..., Any],
    holomorphic: bool,
    allow_int: bool,
) -> list[Any]:
    """The leaves of the differentiated arguments, each checked to have a gradient."""
    return [
        check_input(x, fun, f"[{i}]{keystr(path)}", holomorphic, allow_int)
        for i, arg in zip(positions, dynamic, strict=True)
        for path, x in tree_leaves_with_path(arg)
    ]


def check_input(
    x: Any, fun: Callable[..., Any], path: str, holomorphic: bool, allow_int: bool
) -> Any:
    x = check_array(x, fun, f"leaf {path} of the arguments")
    aval = _jax.typeof(x)
    dtype = getattr(aval, "dtype", None)
    asked = f"A gradient of `{name_of(fun)}` was asked for with respect to an argument's leaf"
    if holomorphic and not _jax.is_complex(aval):
        raise errors.InputError(
            f"{asked} ({path}) of type {aval.str_short()} with holomorphic=True, which needs "
            "complex inputs. Convert it to a complex dtype, or drop holomorphic=True."
        )
    if dtype is not None and jax.numpy.issubdtype(dtype, jax.dtypes.prng_key) and not allow_int:
        raise errors.InputError(
            f"{asked} ({path}) of type {aval.str_short()}: a PRNG key has no gradient. Leave it out of "
            "argnums, or close over it."
        )
    if _jax.has_own_dtype(aval) and not allow_int:
        raise errors.InputError(
            f"{asked} ({path}) of type {aval.str_short()}, whose dtype a package defined: funcgrad.vjp "
            "takes it. Convert it inside the function, or use funcgrad.vjp."
        )
    if not _jax.is_inexact(aval) and not allow_int:
        raise errors.InputError(
            f"{asked} ({path}) of type {aval.str_short()}: integers and booleans have no gradient "
            f"(dtype {dtype}). Convert it to a floating dtype, leave it out of argnums, or pass "
            "allow_int=True to get float0 zeros for it."
        )
    return x


def check_pair(out: Any, name: str) -> None:
    """What a function returns with has_aux is a pair."""
    if isinstance(out, (tuple, list)) and len(out) == 2:
        return
    if isinstance(out, (tuple, list)):
        found = f"a {type(out).__name__} of {len(out)}"
    elif _jax.is_array_type(out):
        found = f"an array of type {_jax.typeof(_jax.canonicalize(out)).str_short()}"
    else:
        found = type(out).__name__
    raise errors.OutputError(
        f"`{name}` was differentiated with has_aux=True, so it must return a pair (output, aux); it "
        f"returned {found}. Return (output, aux), or drop has_aux=True."
    )


def check_output(y: Any, name: str, path: str = "") -> None:
    if not _jax.is_array_type(y):
        raise errors.OutputError(
            f"`{name}` was differentiated and returned {y!r} of type {type(y).__name__}"
            f"{f' at {path}' if path else ''}, which is no array. Return arrays only; other results "
            "go out as auxiliary data with has_aux=True."
        )


def check_scalar(outs: Sequence[Any], fun: Callable[..., Any], holomorphic: bool) -> None:
    """A gradient needs one scalar of the right kind."""
    found = ", ".join(_jax.typeof(_jax.canonicalize(y)).str_short() for y in outs) or "nothing"
    if len(outs) != 1 or np.shape(outs[0]) != ():
        raise errors.OutputError(
            f"A gradient of `{name_of(fun)}` was asked for, so it must return one scalar; it "
            f"returned {found}. Reduce the output (jnp.sum, jnp.mean), return more through "
            "has_aux=True, or use funcgrad.vjp or funcgrad.jacrev."
        )
    check_output_dtype(outs[0], fun, holomorphic)


def check_output_dtype(y: Any, fun: Callable[..., Any], holomorphic: bool) -> None:
    aval = _jax.typeof(_jax.canonicalize(y))
    asked = f"A derivative of `{name_of(fun)}` was asked for, but its output is {aval.str_short()}"
    if holomorphic and not _jax.is_complex(aval):
        raise errors.OutputError(
            f"{asked}, and holomorphic=True needs a complex output. Drop holomorphic=True."
        )
    if not holomorphic and _jax.is_complex(aval):
        raise errors.OutputError(
            f"{asked}. Pass holomorphic=True if the function is holomorphic; otherwise return a "
            "real number, or use funcgrad.vjp."
        )
    if not _jax.is_inexact(aval) or _jax.has_own_dtype(aval):
        raise errors.OutputError(
            f"{asked}: only floating outputs have derivatives. Convert it to a floating dtype."
        )


def the_cotangent(cts: Sequence[Any], name: str) -> Any:
    """What a pullback is called with: one cotangent, whatever the function returned."""
    if len(cts) != 1:
        raise errors.CotangentError(
            f"The pullback of `{name}` was called with {len(cts)} arguments. It takes one: a pytree "
            "like the output, a tuple if the function returned a tuple. Call pullback((ct_0, ct_1)), "
            "not pullback(ct_0, ct_1)."
        )
    return cts[0]


def check_cotangents(ct: Any, out_tree: Any, out_avals: Sequence[Any], name: str) -> list[Any]:
    """Cotangent leaves for the output's leaves; None for an integer's, which may have any dtype."""
    found_tree = tree_structure(ct)
    if found_tree != out_tree:
        raise errors.CotangentError(
            f"The pullback of `{name}` was called with a cotangent of structure {found_tree}; the "
            f"output, and so its cotangent, has structure {out_tree}. Pass a pytree like the output."
        )
    leaves = tree_leaves_with_path(ct)
    return [
        check_cotangent(x, keystr(path), aval, name)
        for (path, x), aval in zip(leaves, out_avals, strict=True)
    ]


def check_cotangent(x: Any, path: str, out_aval: Any, name: str) -> Any:
    expected = _jax.cotangent_aval(out_aval)
    where = f" at {path}" if path else ""
    if getattr(x, "dtype", None) != jax.dtypes.float0:
        if not _jax.is_array_type(x):
            raise errors.CotangentError(
                f"The pullback of `{name}` was called with {x!r}{where}, which is no array. Pass an "
                f"array of type {expected.str_short()}."
            )
        x = _jax.as_value(x)
    found = jax.typeof(x)
    has_none = getattr(expected, "dtype", None) == jax.dtypes.float0
    if _jax.is_high(found) or _jax.is_high(expected):
        differs = found != expected
    else:
        same_dtype = has_none or found.dtype == expected.dtype
        differs = found.shape != expected.shape or not same_dtype
    if differs:
        raise errors.CotangentError(
            f"The pullback of `{name}` was called with a cotangent of type {found.str_short()}{where}; "
            f"the output, and so its cotangent, has type {expected.str_short()}. Pass that shape and "
            "dtype."
        )
    return None if has_none else x
