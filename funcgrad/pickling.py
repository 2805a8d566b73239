"""Pullbacks in files: their arrays, and the name of the function that makes their structure again.

The structure of a pullback refers to traced programs, which are not saved. Who loads a pullback traces
its function again, and compares the program of the new pullback with that of the saved one: the arrays
are given to no other program.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import tree_flatten, tree_unflatten

from funcgrad import _jax, errors
from funcgrad.by_name import Named, NamedRules, Partial, named, named_rules
from funcgrad.registry import Rules


@dataclass(frozen=True)
class Options:
    """How ``vjp`` was called, besides the function, its arguments and the rules.

    Attributes:
      saveable: of each leaf, whether the pullback may keep it.
      wanted: of each leaf, whether it is differentiated; None for all.
      has_aux: whether the function returns auxiliary data.
      strict: as it was given to ``vjp``.
      traced: whether the call was under ``jax.jit``. Outside, a jitted function is a program of its own,
        so the function is run on zeros to find the structure again.
    """

    saveable: tuple[bool, ...]
    wanted: tuple[bool, ...] | None
    has_aux: bool
    strict: bool
    traced: bool


@dataclass(frozen=True, eq=False)
class Origin:
    """How a pullback was made.

    Attributes:
      function: where its function is found; in words why not, if nowhere.
      numbers: the leaves of the arguments that were Python numbers, by position.
      rules: the rules.
      options: how ``vjp`` was called.
    """

    function: Named | Partial | str
    numbers: Mapping[int, Any]
    rules: Rules
    options: Options


def function_found(fun: Callable[..., Any], changed: bool) -> Named | Partial | str:
    """Where a function is found, or why it is not. The function itself is not kept alive.

    Args:
      fun: the function.
      changed: whether taps or edits were asked for.
    """
    if changed:
        return "it was made with taps or edits."
    try:
        return named(fun, "the function")
    except errors.PickleError as problem:
        return str(problem)


@dataclass(frozen=True)
class ArrayType:
    """Stands for an array among the arguments."""

    shape: tuple[int, ...]
    dtype: Any
    weak_type: bool

    @property
    def struct(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.shape, self.dtype, weak_type=self.weak_type)

    @property
    def zeros(self) -> jax.Array:
        zeros = jnp.zeros(self.shape, self.dtype)
        return _jax.weakened(zeros) if self.weak_type else zeros


def type_of(aval: Any) -> ArrayType:
    """The type of an array.

    Raises:
      errors.PickleError: it is no array's, or has a sharding.
    """
    if not _jax.is_plain_type(aval):
        raise errors.PickleError(
            f"it has a value of type {aval.str_short()}. Only arrays are saved, with no sharding in "
            "their type."
        )
    return ArrayType(aval.shape, aval.dtype, aval.weak_type)


@dataclass(frozen=True)
class Recipe:
    """From what another process makes a pullback's structure, and by what it knows the structure.

    Attributes:
      name: the function's, for messages.
      function: where it is found.
      rules: how they are made.
      primals: the arguments, with types in place of arrays.
      options: how ``vjp`` was called.
      versions: those of JAX and funcgrad.
    """

    name: str
    function: Named | Partial
    rules: NamedRules
    primals: Any
    options: Options
    versions: str

    def followed(self) -> Any:
        """A new pullback of the function, with types or zeros in place of arrays.

        Raises:
          errors.PickleError: outside `jax.jit`, if the function fails, or has effects.
        """
        function, rules, vjp = self.function.found(), self.rules.found(), VJP.found()
        asked = self.options
        leaves, tree = tree_flatten(self.primals)
        arrays = [i for i, x in enumerate(leaves) if isinstance(x, ArrayType)]
        options: dict[str, Any] = {"has_aux": asked.has_aux, "strict": asked.strict, "rules": rules}
        options["saveable_args"] = tree_unflatten(tree, asked.saveable)
        if asked.wanted is not None:
            options["in_nzs"] = tree_unflatten(tree, asked.wanted)

        def pullback_of(*given: Any) -> Any:
            filled = [*leaves]
            for i, x in zip(arrays, given, strict=True):
                filled[i] = x
            return vjp(function, *tree_unflatten(tree, filled), **options)[1]

        structs = [leaves[i].struct for i in arrays]
        if asked.traced:
            return jax.eval_shape(pullback_of, *structs)
        try:
            if jax.make_jaxpr(pullback_of)(*structs).effects:
                raise ValueError("It has effects, such as a print, which are not repeated.")
            return pullback_of(*[leaves[i].zeros for i in arrays])
        except Exception as problem:  # of the user's function, which may not like zeros
            raise errors.PickleError(
                f"`{self.name}` was not run under jax.jit, and cannot be run on zeros to find its "
                f"structure: {str(problem).splitlines()[0]}"
            ) from problem


VJP = Named("funcgrad", "vjp")  # stands above this file


def versions() -> str:
    return f"JAX {jax.__version__} and funcgrad {Named('funcgrad', '__version__').found()}"


def reduced(pullback: Any) -> tuple[Any, ...]:
    """What ``pickle`` writes of a pullback.

    Raises:
      errors.PickleError: another process could not make the structure again.
    """
    static = pullback._static
    try:
        recipe = _recipe(static)
        _check_arrays(pullback)
        fingerprint = fingerprint_of(pullback)
        like = replaced(recipe.followed(), wants_logs=static.wants_logs)
        if fingerprint_of(like) != fingerprint:
            raise errors.PickleError(
                "the function, run again on arrays of the same types, gives another program. A function "
                "that looks at values in Python does: take its pullback inside jax.jit."
            )
    except errors.PickleError as problem:
        raise errors.PickleError(
            f"The pullback of `{static.name}` cannot be pickled: {problem} Save its arrays, "
            "jax.tree.leaves(pullback), or the arguments, and take the pullback again."
        ) from problem
    arrays = jax.tree.map(_picklable, (pullback.args_res, pullback.opaque_residuals))
    kept = *arrays, static.wants_logs
    return restored, (recipe, fingerprint, *kept)


def _recipe(static: Any) -> Recipe:
    origin = static.origin
    if isinstance(origin.function, str):
        raise errors.PickleError(origin.function)
    types = map(type_of, static.in_avals)
    leaves = [origin.numbers.get(i, found) for i, found in enumerate(types)]
    primals = tree_unflatten(static.in_tree, leaves)
    recipe = Recipe(
        static.name.split(" at ")[0],
        origin.function,
        named_rules(origin.rules),
        primals,
        origin.options,
        versions(),
    )
    try:
        pickle.dumps(recipe)
    except Exception as problem:
        words = "the structure of its arguments, or a selector of its rules, cannot be pickled"
        raise errors.PickleError(f"{words}: {problem}.") from problem
    return recipe


def _check_arrays(pullback: Any) -> None:
    for x in jax.tree.leaves(pullback):
        if isinstance(x, _jax.Tracer):
            raise errors.PickleError(f"it holds the traced value {x}. Pickle it outside jax.jit.")
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            raise errors.PickleError("it holds an array that other processes hold parts of.")


def _picklable(x: Any) -> Any:
    """The array; JAX's own kind of NumPy array, for constants, forgets its type when it is pickled."""
    return jnp.asarray(x) if isinstance(x, np.ndarray) and type(x) is not np.ndarray else x


def restored(
    recipe: Recipe, fingerprint: str, args_res: Any, opaque_residuals: list[Any], wants_logs: bool
) -> Any:
    """The pullback that was saved.

    Raises:
      errors.PickleError: its function, as found here, gives another program.
    """
    like = replaced(recipe.followed(), wants_logs=wants_logs)
    if fingerprint_of(like) != fingerprint:
        raise errors.PickleError(
            f"The pullback of `{recipe.name}` was saved by {recipe.versions}, and the function as it is "
            f"found here, by {versions()}, gives another program: the saved arrays are not its "
            "residuals. Load it with the code, the rules, the versions and the settings of JAX (such as "
            "jax_enable_x64) by which it was saved."
        )
    return type(like)(like._static, args_res, opaque_residuals)


def replaced(pullback: Any, **changes: Any) -> Any:
    """A pullback with another part of its static data."""
    static = replace(pullback._static, **changes)
    return type(pullback)(static, pullback.args_res, pullback.opaque_residuals)


def fingerprint_of(pullback: Any) -> str:
    """A digest of the program from residuals and cotangents to cotangents, and of all types."""
    static = pullback._static
    residuals = _residual_types(pullback)
    everything = replaced(pullback, places=(None,) * len(residuals))
    ct = tree_unflatten(static.out_tree, [_ct_type(aval) for aval in static.out_avals])

    def pull_back(residuals: list[Any], ct: Any) -> Any:
        return type(pullback)(everything._static, [], residuals)(ct)

    closed, shape = jax.make_jaxpr(pull_back, return_shape=True)(residuals, ct)
    types = [static.in_avals, static.out_avals, static.places, static.slots, residuals]
    trees = [static.in_tree, static.out_tree, jax.tree.structure(shape)]
    return _jax.fingerprint(closed, *map(repr, (*types, *trees)))


def _residual_types(pullback: Any) -> list[Any]:
    static = pullback._static
    others = iter(pullback.opaque_residuals)
    return [
        type_of(jax.typeof(next(others)) if i is None else static.in_avals[i]).struct
        for i in static.places
    ]


def _ct_type(aval: Any) -> jax.ShapeDtypeStruct:
    """The type of an output's cotangent; an integer's may have any dtype."""
    expected = _jax.cotangent_aval(aval)
    integer = expected.dtype == jax.dtypes.float0
    return jax.ShapeDtypeStruct(expected.shape, "float32" if integer else expected.dtype)
