"""The two checkers: of any function, and of one rule."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax.tree_util import keystr, tree_flatten, tree_leaves_with_path

from funcgrad import _jax, errors
from funcgrad.arguments import check_callable, name_of
from funcgrad.default import DEFAULT
from funcgrad.registry import Rule, Rules
from funcgrad.surface import public
from funcgrad.testing import inputs, problem
from funcgrad.testing.compare import show_tree
from funcgrad.testing.originals import check_types, check_untouched, snapshot
from funcgrad.testing.report import FAILED, PASSED, Check, Report
from funcgrad.testing.run import MODES, not_asked, run_modes


@public
def check_grads(
    f: Callable[..., Any],
    args: Sequence[Any],
    order: int = 2,
    *,
    modes: Iterable[str] = tuple(MODES),
    rtol: float | None = None,
    seed: int = 0,
    rules: Rules = DEFAULT,
    derivative: bool | None = None,
    finite: bool = True,
) -> Report:
    """Check funcgrad's gradients of a function, at given arguments, in every way that applies.

    Arguments of double precision (arrays, or Python's floats alone) are checked with 64 bits whatever
    JAX's setting. With narrower arguments the gradient is checked as it is, and once more in double
    precision against the function itself, where the function takes that.

    Args:
      f: a function of pytrees of arrays; plain, jitted, ``jax.custom_vjp``, ``funcgrad.op``, ...
      args: its arguments. Floating and complex leaves are differentiated, others are passed on. Python's
        whole numbers, what is no array (a string, a function) and `nondiff_argnums` stay as they are.
      order: 2 checks gradients of gradients as well, 3 theirs, 1 neither.
      modes: the checks to run, names of :data:`MODES`, or of a part of the second order, such as
        ``"second by jax"``; all by default.
      rtol: the relative error that is allowed; by default half of the digits of the coarsest dtype in
        `f`. An element that is small beside others of its array may be off by ``eps**0.8`` of them.
      seed: of the random cotangents and directions.
      rules: the backward rules.
      derivative: whether these rules are meant to be the derivative. By default they are, unless
        `rules` replaces one of the ops in `f`: of an override only the checks are run that must hold of
        any rule. Pass False for a function with a gradient of its own choice.
      finite: whether arguments and outputs must be finite. Pass False to check, at infinities and NaNs,
        what can be checked there: that the gradient is the one of ``jax.vjp``, the same under ``jit``,
        and so on.

    Returns:
      A :class:`Report`: a row for each check, with its status and the largest error. What did not run
      says so, and why: it is never counted as passed.

    Raises:
      errors.GradientError: a check failed; an ``AssertionError``. It has the report and a cotangent that
        shows the failure.
      errors.InputError: nothing can be checked: there is no floating leaf, an argument or the output is
        not finite (unless `finite` is False), or an option is not one.
      errors.OutputError: `f` returns no floating array.
      errors.MissingRuleError: an op in `f` has no rule.

    Example:
      >>> import jax.numpy as jnp, numpy as np
      >>> from funcgrad.testing import check_grads
      >>> report = check_grads(lambda x, y: jnp.sin(x) @ y, (np.ones((2, 3)), np.arange(3.0)))
      >>> [check.status for check in report["numerical"]]
      ['passed']
    """
    check_callable(f)
    args = inputs.tuple_of(f, args)
    labels = [f"argument {keystr(path)}" for path, _ in tree_leaves_with_path(args)]
    plain = inputs.without_derivative(f)
    return _check(f, plain, args, labels, order, modes, rtol, seed, rules, derivative, finite)


def check_rule(
    op_or_rule: Any,
    *args: Any,
    through: Callable[..., Any] | None = None,
    options: Mapping[str, Any] | None = None,
    **params: Any,
) -> Report:
    """Check one backward rule, at given operands, in every way that applies.

    Args:
      op_or_rule: a JAX primitive, a ``funcgrad.op``, a jitted or custom function, whose rule is checked
        against the function itself; or a :class:`funcgrad.Rule`, which then is checked as the rule of
        the op that it was made for.
      *args: the operands.
      through: a function of `args` in which the op occurs, to reach it by; the op itself by default.
      options: keyword arguments of :func:`check_grads`, such as ``{"order": 1}``. With ``rules`` that
        override the op only the checks are run that must hold of any rule.
      **params: the op's params. A primitive's may be left out where the function of its name in
        ``jax.lax`` has defaults for them.

    Returns:
      A :class:`Report`, as from :func:`check_grads`.

    Raises:
      errors.GradientError: a check failed.
      errors.NotAnOpError: there is no op in what was given.
      errors.InputError: the op cannot be called so, or does not occur in `through`; and as
        :func:`check_grads`.

    Example:
      >>> import jax, numpy as np, funcgrad
      >>> from funcgrad.testing import check_rule
      >>> @funcgrad.defvjp(jax.lax.tanh_p)
      ... def tanh_vjp(ct, x, *, out, **_):
      ...     return ct * (1 - out)
      >>> try:
      ...     check_rule(tanh_vjp, np.ones(1))
      ... except funcgrad.testing.GradientError as error:
      ...     print(error.report["jax"][0].status)
      FAILED
    """
    keywords = inputs.checked_keywords(options)
    rules: Rules = keywords["rules"]
    ops = inputs.ops_of(op_or_rule)
    if isinstance(op_or_rule, Rule):
        rules = rules.override(dict.fromkeys(ops, op_or_rule))
        if keywords["derivative"] is None:
            keywords["derivative"] = True
    fun = through or inputs.callable_of(op_or_rule, ops, args, params)
    plain = fun
    if through is None and not isinstance(op_or_rule, (Rule, _jax.Primitive)):
        plain = functools.partial(inputs.without_derivative(op_or_rule), **params)
    inputs.check_occurs(fun, args, ops)
    labels = [f"operand {path[0].idx}{keystr(path[1:])}" for path, _ in tree_leaves_with_path(args)]
    name = op_or_rule.name if isinstance(op_or_rule, Rule) else str(ops[0])
    return _check(fun, plain, args, labels, name=name, **{**keywords, "rules": rules.quietly()})


def _check(
    fun: Callable[..., Any],
    plain: Callable[..., Any],
    args: tuple[Any, ...],
    labels: Sequence[str],
    order: int,
    modes: Iterable[str],
    rtol: float | None,
    seed: int,
    rules: Rules,
    derivative: bool | None,
    finite: bool,
    name: str = "",
) -> Report:
    """Both checkers: look at the arguments, run the checks, raise what they found."""
    modes = inputs.checked_options(order, modes, rtol)
    name = name or name_of(fun)
    leaves, in_tree = tree_flatten(args)
    before = snapshot(leaves)
    make = functools.partial(
        problem.build, fun, plain, in_tree=in_tree, labels=labels, rules=rules.quietly(), rtol=rtol
    )
    native = None
    with jax.enable_x64(inputs.is_double(leaves) or problem.is_x64()):
        marked = inputs.marked_leaves(fun, args)
        arrays = list(map(inputs.as_jax, marked))
        inputs.check_finite(arrays, labels, name, finite)
        inputs.check_outputs(problem.on_leaves(fun, in_tree, arrays, ())(), name, finite)
        rows = [check_untouched(arrays, labels, arrays)]
        if rows[0].status == PASSED:
            why = inputs.why_no_truth(fun, args, rules, derivative)
            native = make(leaves=arrays, seed=seed, name=name, wide=problem.is_x64())
            once = replace(native, rules=rules)  # an unused override is reported once
            rows = check_types(once, fun, in_tree, marked, labels)
    if native is not None and not any(row.status == FAILED for row in rows):
        precise = native
        if native.eps > problem.eps_of(np.float64):
            precise = _widened(make, arrays, seed, name) or native
        rows += run_modes(native, precise, order, modes, why)
    rows.append(check_untouched(leaves, labels, before))
    report = Report(name, not_asked(rows, modes))
    wrong = report.of_status(FAILED)
    if wrong:
        raise _error(native, report, wrong[0]) from wrong[0].cause
    return report


def _error(native: problem.Problem | None, report: Report, check: Check) -> errors.GradientError:
    """The failure, with its cotangent in the structure of the function's output."""
    cotangent = check.cotangent
    if (
        native is not None
        and isinstance(cotangent, tuple)
        and check.mode not in ("types", "second")
    ):
        cotangent = native.cotangent(cotangent)
    shown = show_tree(cotangent) if cotangent is not None else ""
    hint = _hint(native, report, check)
    check = replace(check, detail=check.detail + hint)
    return errors.GradientError(report, check, cotangent, shown)


def _hint(native: problem.Problem | None, report: Report, check: Check) -> str:
    """What may be the cause where jax.vjp, or its second order, gives the same wrong gradient."""
    is_first = check.mode in ("dot", "numerical")
    if check.name.startswith("numerical") and native is not None and native.has_open_loop:
        return SEARCHES
    same = report["jax"] if is_first else [c for c in report if c.name == "second by jax"]
    if not (is_first or "numerical" in check.name) or any(c.status != "passed" for c in same):
        return ""
    if check.error == math.inf:
        return (
            ". JAX gives the same: an operation has no finite derivative at its operand (jnp.sqrt at 0, "
            "say, or in the branch that a jnp.where does not take). Give it another operand there, by a "
            "jnp.where around the operand as well"
        )
    return (
        ". JAX agrees with funcgrad: if the function stops a gradient, or has a derivative of its own "
        "that is not the true one, on purpose, pass derivative=False"
    )


SEARCHES = (
    ". There is a loop of run-time length: its gradient is that of the steps that it takes. If it "
    "searches by comparisons (a bisection, an argmin), no step depends smoothly on the input, and that "
    "is not the gradient of what it finds. Give the function a rule by the implicit function theorem "
    "(funcgrad.op, jax.lax.custom_root)"
)
"""What may be the cause where a loop of run-time length has a gradient that differences deny."""


def _widened(make: Callable[..., Any], arrays: Sequence[Any], seed: int, name: str) -> Any:
    """The problem in double precision, None where the function does not take that or rounds within."""
    with jax.enable_x64(True):
        try:
            wide = make(leaves=problem.widened(arrays), seed=seed, name=name, wide=True)
        except Exception:
            return None
    return wide if wide.eps == problem.eps_of(np.float64) else None
