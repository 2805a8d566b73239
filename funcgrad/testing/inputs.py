"""What the checkers are asked: options, arguments, and which function an op is."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_leaves_with_path

from funcgrad import _jax, errors
from funcgrad.arguments import check_output, name_of
from funcgrad.default import DEFAULT
from funcgrad.keys import FunctionId, op_key
from funcgrad.op import Op
from funcgrad.registry import Rule, Rules
from funcgrad.testing.compare import as_double
from funcgrad.testing.problem import (
    Fixed,
    equations,
    is_inexact,
    is_x64,
    on_leaves,
    operands_in,
    traced,
)
from funcgrad.testing.report import first_line
from funcgrad.testing.run import MODES, SECOND

KEYWORDS: dict[str, Any] = {
    "order": 2,
    "modes": tuple(MODES),
    "rtol": None,
    "seed": 0,
    "rules": DEFAULT,
    "derivative": None,
    "finite": True,
}


def checked_keywords(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """The keyword arguments of check_grads, as check_rule is given them."""
    given = dict(options or {})
    unknown = sorted(set(given) - set(KEYWORDS))
    if unknown:
        raise errors.InputError(
            f"check_rule was given options {unknown}; there are {sorted(KEYWORDS)}. The op's own params "
            "are passed as keyword arguments, not in options."
        )
    return {**KEYWORDS, **given}


def checked_options(order: Any, modes: Iterable[str], rtol: Any) -> tuple[str, ...]:
    """The modes, once all options are known to be ones."""
    if isinstance(order, bool) or not isinstance(order, int) or order < 1:
        raise errors.InputError(
            f"A check of order {order!r} was asked for. Pass 1, 2 (gradients of gradients) or more."
        )
    if rtol is not None and not 0 < rtol < 1:
        raise errors.InputError(
            f"A relative error of rtol={rtol!r} was to be allowed. Pass a number between 0 and 1, or "
            "None for one that suits the dtypes."
        )
    modes = (modes,) if isinstance(modes, str) else tuple(modes)
    unknown = [mode for mode in modes if mode not in (*MODES, *SECOND)]
    if unknown or not modes:
        raise errors.InputError(
            f"The checks {unknown or 'of no kind'} were asked for. The modes are {', '.join(MODES)}."
        )
    return modes


def tuple_of(f: Callable[..., Any], args: Any) -> tuple[Any, ...]:
    """Arguments as a tuple."""
    if isinstance(args, (tuple, list)) and type(args) in (tuple, list):
        return tuple(args)
    raise errors.InputError(
        f"The arguments at which to check `{name_of(f)}` are a tuple, also where there is one: "
        f"check_grads(f, (x,)). Got {type(args).__name__}."
    )


def is_double(leaves: Sequence[Any]) -> bool:
    """Whether arguments are in double precision: by an array, or all by being Python's numbers."""
    wide = (np.dtype(np.float64), np.dtype(np.complex128))
    dtypes = [np.dtype(x.dtype) for x in leaves if is_inexact_array(x)]
    python = any(isinstance(x, (float, complex)) and not hasattr(x, "dtype") for x in leaves)
    return any(dtype in wide for dtype in dtypes) or (python and not dtypes)


def is_inexact_array(x: Any) -> bool:
    dtype = getattr(x, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, np.inexact)


def marked_leaves(f: Callable[..., Any], args: tuple[Any, ...]) -> list[Any]:
    """The arguments' leaves as the user gave them; what is passed on as it is, marked."""
    nondiff = getattr(f, "nondiff_argnums", ())
    return [
        Fixed(x) if i in nondiff or _is_fixed(x) else x
        for i, arg in enumerate(args)
        for x in jax.tree.leaves(arg)
    ]


def as_jax(x: Any) -> Any:
    """A leaf as a JAX array, if it is an array."""
    return x if isinstance(x, Fixed) or not _jax.is_array(x) else jnp.asarray(x)


def _is_fixed(x: Any) -> bool:
    """Whether a leaf is no array: Python's whole numbers may be static arguments."""
    return isinstance(x, int) or not _jax.is_array_type(x)


def _kind(x: Any) -> str:
    if isinstance(x, Fixed):
        return f"{x.value!r} of type {type(x.value).__name__}"
    return _jax.typeof(x).str_short()


def check_finite(leaves: Sequence[Any], labels: Sequence[str], name: str, finite: bool) -> None:
    """There must be something to differentiate, and, if `finite`, a gradient there."""
    types = [f"{a}: {_kind(x)}" for a, x in zip(labels, leaves, strict=True)]
    if not any(map(is_inexact, leaves)):
        raise errors.InputError(
            f"The gradients of `{name}` were to be checked, but no argument has one "
            f"({', '.join(types) or 'there are none'}). Pass floating or complex arrays."
        )
    for label, x in zip(labels, leaves, strict=True):
        if finite and is_inexact(x):
            _require_finite(x, f"{label} of `{name}`", "a gradient there cannot be checked")


def _require_finite(x: Any, what: str, consequence: str) -> None:
    values = as_double(x)
    broken = np.argwhere(~np.isfinite(values))
    if len(broken):
        place = tuple(map(int, broken[0]))
        at = f" at index {place}" if place else ""
        raise errors.InputError(
            f"{what} is {values[place]}{at} ({len(broken)} of {values.size} elements are not finite), "
            f"so {consequence}. Pass arguments at which the function is finite, or finite=False to "
            "check what can be checked there."
        )


def check_outputs(out: Any, name: str, finite: bool) -> None:
    """The function must return floating numbers, finite ones if `finite`."""
    for path, y in tree_leaves_with_path(out):
        check_output(y, name, keystr(path))
    inexact = [(p, y) for p, y in tree_leaves_with_path(out) if is_inexact(y)]
    if not inexact:
        kinds = ", ".join(_jax.typeof(jnp.asarray(y)).str_short() for y in jax.tree.leaves(out))
        raise errors.OutputError(
            f"The gradients of `{name}` were to be checked, but it returns {kinds or 'nothing'}, which "
            "has none. Return floating or complex arrays."
        )
    for path, y in inexact if finite else ():
        _require_finite(y, f"`{name}` was run, and output{keystr(path)}", "it has no gradient")


# --- ops


def without_derivative(f: Any) -> Callable[..., Any]:
    """The function itself, where `f` is one with a derivative of its own."""
    if isinstance(f, Op):
        return f.__wrapped__
    if isinstance(f, jax.custom_vjp):
        return f.fun
    return f


def ops_of(op_or_rule: Any) -> tuple[Any, ...]:
    """The ops whose rule is to be checked."""
    if isinstance(op_or_rule, Rule):
        return op_or_rule.ops
    is_function = isinstance(op_or_rule, (Op, jax.custom_jvp, jax.custom_vjp))
    if isinstance(op_or_rule, _jax.Primitive) or is_function or hasattr(op_or_rule, "lower"):
        return (op_key(op_or_rule),)
    raise errors.NotAnOpError(op_or_rule)


def callable_of(
    op_or_rule: Any, ops: Sequence[Any], args: Sequence[Any], params: dict[str, Any]
) -> Callable[..., Any]:
    """The op as a function of its operands."""
    if callable(op_or_rule) and not isinstance(op_or_rule, Rule):
        return functools.partial(op_or_rule, **params) if params else op_or_rule
    if len(ops) != 1 or isinstance(ops[0], FunctionId):
        raise errors.InputError(
            f"A rule for {', '.join(f'`{op}`' for op in ops)} was to be checked, which does not tell "
            "what to run. Pass through=f, a function of these arguments in which the op occurs."
        )
    op = ops[0]
    named = getattr(jax.lax, op.name, None) or getattr(jax.lax.linalg, op.name, None)
    problem = "it is none of these operands' ops"
    for run in (named, op.bind):
        if run is None:
            continue
        run = functools.partial(run, **params)
        try:
            jaxpr = jax.make_jaxpr(run)(*args).jaxpr
        except Exception as error:
            problem = first_line(error)
            continue
        if any(eqn.primitive is op for eqn in equations(jaxpr)):
            return run
    raise errors.InputError(
        f"The rule of `{op}` was to be checked, but the op cannot be run on these operands with params "
        f"{sorted(params)}: {problem}. Pass all of its params, or through=f, a function of these "
        "arguments in which the op occurs."
    )


def ops_in(fun: Callable[..., Any], args: Sequence[Any]) -> set[Any] | None:
    """Every op in a function, at any depth; None where JAX cannot trace it."""
    leaves, in_tree = jax.tree.flatten(tuple(args))
    with jax.enable_x64(is_double(leaves) or is_x64()):
        leaves = marked_leaves(fun, tuple(args))
        where = operands_in(leaves)
        jaxpr = traced(on_leaves(fun, in_tree, leaves, where), *(leaves[i] for i in where))
    if jaxpr is None:
        return None
    found: set[Any] = set()
    for eqn in equations(jaxpr):
        found |= {eqn.primitive, FunctionId(_jax.called_function(eqn) or "")}
    return found


def check_occurs(fun: Callable[..., Any], args: Sequence[Any], ops: Sequence[Any]) -> None:
    found = ops_in(fun, args)
    if found is not None and found.isdisjoint(ops):
        raise errors.InputError(
            f"The rule of {', '.join(f'`{op}`' for op in ops)} was to be checked, but the op does not "
            f"occur in `{name_of(fun)}`, which consists of "
            f"{', '.join(sorted(str(op) for op in found if str(op)))}."
        )


def why_no_truth(
    fun: Callable[..., Any], args: Sequence[Any], rules: Rules, derivative: bool | None
) -> str:
    """Why the gradient need not be the derivative; empty where it must be."""
    if derivative is not None:
        return "" if derivative else "the gradient is not meant to be the derivative"
    replaced = {op for op in rules if _is_override(op, rules)}
    occurring = ops_in(fun, args) if replaced else set()
    met = sorted(map(str, replaced if occurring is None else replaced & occurring))
    return f"the rules override {', '.join(met)}" if met else ""


def _is_override(op: Any, rules: Rules) -> bool:
    if op in DEFAULT:
        return rules.find(op) != DEFAULT.find(op)
    return isinstance(op, FunctionId)
