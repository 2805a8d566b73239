"""Derivatives that watch for NaNs and infinities: staged, run, and looked into when a result is bad."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
from jax.tree_util import tree_flatten, tree_unflatten

from funcgrad import _jax, errors
from funcgrad._jax import Value
from funcgrad.arguments import Argnums, names_of_arguments, names_of_leaves
from funcgrad.faults.report import NonFinite, report
from funcgrad.registry import Rules


@dataclass(frozen=True, eq=False)
class Program:
    """A derivative as one program from arrays to arrays.

    Attributes:
      jaxpr: the program, without constants.
      inputs: the names of its inputs.
      watched: by position, the names of the results that have to be finite.
      rules: by which it differentiates.
    """

    jaxpr: _jax.Jaxpr
    inputs: tuple[str, ...]
    watched: dict[int, str]
    rules: Rules

    def report(self, values: Sequence[Value], example: tuple[int, ...] = ()) -> NonFinite:
        """Where the results cease to be finite for these inputs."""
        run = _jax.MarkedRun(self.jaxpr, values)
        bad = [i for i in self.watched if run.is_bad(self.jaxpr.outvars[i])]
        fault = _jax.locate_in(run, values, blamed=bad)
        if fault is None:
            return NonFinite()
        reaches = list(dict.fromkeys(self.watched[i] for i in bad))
        return report(fault, reaches, self.inputs, self.rules, example)


VALUE = "the value"
CLOSED_OVER = "a value that the function closes over"


@dataclass(frozen=True, eq=False)
class Staged:
    """A program with what it runs on, and what becomes of its results.

    Attributes:
      program: the program.
      values: its inputs.
      rebuild: from its results to what the function returns.
    """

    program: Program
    values: tuple[Value, ...]
    rebuild: Callable[[Sequence[Value]], Any]

    def report(self) -> NonFinite:
        """Where its results cease to be finite."""
        return self.program.report(self.values)


def stage(
    derivative: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    names: Callable[[Any], dict[int, str]],
    arguments: Sequence[str],
    rules: Rules,
) -> Staged:
    """Trace a derivative at these arguments.

    Args:
      derivative: a function of these arguments that returns a pytree.
      args: the arguments; leaves that are no arrays stay as they are.
      kwargs: those by name.
      names: from what `derivative` returns to the names of the leaves that have to be finite.
      arguments: the names of `args`.
      rules: by which `derivative` differentiates.
    """
    leaves, in_tree = tree_flatten((args, kwargs))
    given = [i for i, x in enumerate(leaves) if _is_traced(x)]
    traced: dict[str, Any] = {}

    def run(*arrays: Value) -> list[Value]:
        filled = list(leaves)
        for i, x in zip(given, arrays, strict=True):
            filled[i] = x
        args, kwargs = tree_unflatten(in_tree, filled)
        out = derivative(*args, **kwargs)
        outs, traced["tree"] = tree_flatten(out)
        arrays_out = [i for i, y in enumerate(outs) if _is_traced(y)]
        traced["others"] = [None if i in arrays_out else y for i, y in enumerate(outs)]
        traced["arrays"], traced["names"] = arrays_out, names(out)
        return [outs[i] for i in arrays_out]

    arrays = [leaves[i] for i in given]
    jaxpr, consts = _jax.stage(run, [_jax.typeof(x) for x in arrays], "derivative")
    labels = _labels(args, kwargs, arguments)
    inputs = (*[CLOSED_OVER] * len(consts), *(labels[i] for i in given))
    watched = {k: traced["names"].get(i) for k, i in enumerate(traced["arrays"])}
    named = {k: name for k, name in watched.items() if name is not None}

    def rebuild(results: Sequence[Value]) -> Any:
        outs = list(traced["others"])
        for i, y in zip(traced["arrays"], results, strict=True):
            outs[i] = y
        return tree_unflatten(traced["tree"], outs)

    return Staged(Program(jaxpr, inputs, named, rules), (*consts, *arrays), rebuild)


def _is_traced(x: Any) -> bool:
    if _jax.is_number(x):
        return True
    return _jax.is_array_leaf(x) and (_jax.is_array(x) or _jax.is_key(x))


def _labels(args: Any, kwargs: Any, arguments: Sequence[str]) -> list[str]:
    by_name = sorted(kwargs)
    return names_of_leaves([*arguments, *by_name], [*args, *(kwargs[name] for name in by_name)])


def raising(
    derivative: Callable[..., Any],
    fun: Callable[..., Any],
    argnums: Argnums,
    rules: Rules,
) -> Callable[..., Any]:
    """`derivative`, which raises an error where the value or the gradient is not finite.

    Args:
      derivative: returns the value of `fun`, perhaps with auxiliary data, which need not be finite, and
        the gradient.
      fun: the user's function.
      argnums: the arguments by which it is differentiated.
      rules: by which it is differentiated.
    """

    def names(out: Any, count: int) -> dict[int, str]:
        value, gradient, *_ = out
        labels = names_of_arguments(fun, count)
        positions = (argnums,) if isinstance(argnums, int) else argnums
        gradients = (gradient,) if isinstance(argnums, int) else gradient
        by = [labels[i] for i in positions]
        return {0: VALUE} | gradient_names(gradients, by, len(jax.tree.leaves(value)))

    @functools.wraps(derivative)
    @_jax.looking_for_nothing()
    def watching(*args: Any, **kwargs: Any) -> Any:
        arguments = names_of_arguments(fun, len(args))

        def staged() -> Staged:
            naming = functools.partial(names, count=len(args))
            return stage(derivative, args, kwargs, naming, arguments, rules)

        if not _is_concrete((args, kwargs)):
            return _watch(staged())
        out = derivative(*args, **kwargs)
        if not _is_concrete(out):
            return _watch(staged())
        bad = bad_results(out, names(out, len(args)))
        if not bad:
            return out
        raise errors.NotFiniteError.of(looked_into(staged, (), bad))

    return _jax.boundary(watching)


def gradient_names(gradients: Any, arguments: Sequence[str], first: int) -> dict[int, str]:
    """The names of a gradient's leaves, the first of which is result number `first`."""
    labels = _labels(gradients, {}, arguments)
    return {first + i: f"the gradient by {label}" for i, label in enumerate(labels)}


def _is_concrete(tree: Any) -> bool:
    return _jax.is_eager(_jax.current_trace()) and not any(
        isinstance(x, _jax.Tracer) for x in jax.tree.leaves(tree)
    )


def bad_results(out: Any, names: dict[int, str]) -> tuple[str, ...]:
    """The names of the leaves of `out` that have to be finite and are not."""
    leaves = jax.tree.leaves(out)
    bad = (name for i, name in names.items() if any(_jax.marks_in(leaves[i])))
    return tuple(dict.fromkeys(bad))


def _watch(staged: Staged) -> Any:
    """Run a staged derivative as a part of the current trace, with an alarm for bad results."""
    program = staged.program
    results = _jax.eval_jaxpr(program.jaxpr, staged.values)
    watched = [results[i] for i in program.watched]

    def tell(example: tuple[int, ...], *values: Value) -> None:
        given = Staged(program, tuple(values), staged.rebuild)
        with _jax.looking_for_nothing(), _jax.away_from_accelerators():
            found = looked_into(lambda: given, example, tuple(program.watched.values()))
        raise errors.NotFiniteError.of(found)

    _jax.alarm(tell, ~_jax.all_finite(watched), staged.values)
    return staged.rebuild(results)


def looked_into(
    staged: Callable[[], Staged], example: tuple[int, ...], reaches: tuple[str, ...]
) -> NonFinite:
    """Where results cease to be finite, of which some are not, whether or not that can be found."""
    try:
        given = staged()
        found = given.program.report(given.values, example)
    except Exception as problem:  # what is not finite stays so
        words = f"{type(problem).__name__}: {str(problem).splitlines()[0] if str(problem) else ''}"
        return _unknown(reaches, example, f"the function could not be run again ({words})")
    if not found:
        again = "run again to find the place, every result was finite: rounding may differ"
        return _unknown(reaches, example, again)
    return found


def _unknown(reaches: tuple[str, ...], example: tuple[int, ...], problem: str) -> NonFinite:
    return replace(NonFinite("nan or inf", reaches), example=example, problem=problem)
