"""What a gradient is where a function has none: at kinks, at ties and at poles.

A *kink* is a point at which the slopes from the two sides differ, a *tie* a kink at which several
operands attain an extremum, a *pole* a point at which the slope is infinite. Each policy is a set of
rules: the rules that it is given, with others for the ops that have such points. docs/kinks.md has
every value.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax

from funcgrad import _jax, errors
from funcgrad.default import DEFAULT
from funcgrad.keys import Op, op_key
from funcgrad.registry import CallRule, Entry, Rule, Rules, check_rules, defrecord, defvjp
from funcgrad.rule_program import ADDITIVE
from funcgrad.rules import arithmetic, elementwise, special
from funcgrad.rules._common import kept_elsewhere, kept_where
from funcgrad.surface import public
from funcgrad.surgery.kink_points import LOGADDEXP, POINTS, last_to_attain, named
from funcgrad.surgery.kink_watch import recorded_by, watched_rules
from funcgrad.tape import TapeTrace
from funcgrad.transforms import vjp

Array = Any
Policy = Literal["jax", "zero", "torch", "raise"]


@public
def kinks(policy: Policy, rules: Rules = DEFAULT) -> Rules:
    """Make rules that decide what a gradient is at kinks, ties and poles.

    - ``"jax"``: what `rules` say. ``DEFAULT`` has JAX's values, infinities and NaNs among them.
    - ``"zero"``: 0 at a pole, and at a kink where 0 lies between the slopes. A cotangent that is exactly
      0, since its branch was not selected, stays 0: no second ``where`` is needed.
    - ``"torch"``: PyTorch's values.
    - ``"raise"``: an error where a cotangent other than 0 arrives at such a point.

    ``docs/kinks.md`` has every value, and what does not hold.

    Args:
      policy: ``"jax"``, ``"zero"``, ``"torch"`` or ``"raise"``.
      rules: the rules that hold everywhere else. An op that they override keeps its rule.

    Returns:
      The rules; for ``"jax"`` the same object. A gradient by ``kinks("raise")`` raises
      :class:`funcgrad.errors.KinkError`; under ``jit`` and in loops JAX's error has its text.

    Raises:
      errors.NotARuleError: there is no such policy, or `rules` are no rules.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> root, zero = lambda x: jnp.where(x > 0, jnp.sqrt(x), 0.0), funcgrad.kinks("zero")
      >>> float(funcgrad.grad(root)(0.0)), float(funcgrad.grad(root, rules=zero)(0.0))
      (nan, 0.0)
    """
    if policy not in get_args(Policy):
        raise errors.NotARuleError(
            f"funcgrad.kinks was given the policy {policy!r}. There are "
            f"{', '.join(map(repr, get_args(Policy)))}."
        )
    check_rules(rules)
    return rules if policy == "jax" else _kinks(policy, rules)


@_jax.cache()
def _kinks(policy: Policy, rules: Rules) -> Rules:
    changes = {"zero": zero_rules, "torch": torch_rules, "raise": raise_rules}
    return _with(rules, dict(changes[policy](rules)))


def _with(rules: Rules, entries: Mapping[Op, Any]) -> Rules:
    """The rules with other entries, but for what they override already.

    Of these entries nothing is reported that never applies.
    """
    own = {op: entry for op, entry in entries.items() if op not in rules.overridden}
    return rules.override(own)._changed(overridden=rules.overridden)


def _rules_of(rules: Rules, ops: Sequence[Any]) -> Iterator[tuple[Op, Rule]]:
    """Those of the ops that have a rule, with it."""
    for op in map(op_key, ops):
        rule = rules.find(op)
        if isinstance(rule, Rule):
            yield op, rule


# --- zero -------------------------------------------------------------------------------------

SELECTIONS = (lax.max_p, lax.min_p, lax.clamp_p, lax.select_n_p, lax.nextafter_p)
"""Elementwise ops whose rules select from the cotangent."""

FACTORS = tuple(
    op
    for op, rule in Rules.collect(arithmetic, elementwise, special).items()
    if isinstance(rule, Rule) and rule.elementwise and op not in {*ADDITIVE, *SELECTIONS}
)
"""Elementwise ops whose rules multiply the cotangent by factors, which may be infinite."""


def zero_rules(rules: Rules) -> Iterator[tuple[Op, Entry]]:
    """The rules of ``kinks("zero")``."""
    safe = dict(_safe(rules))
    yield from safe.items()
    for op, rule in _rules_of(rules, (lax.max_p, lax.min_p)):
        yield op, by_activity(op, both=rule, one=STRICT[op])
    yield _named(jax.nn.hard_tanh, hard_tanh_vjp)
    inside = _with(rules, safe)  # a smooth function may be the sum of a max and a min
    yield _named(jax.nn.celu, differentiated_by(inside, jax.nn.celu))
    yield _named(jnp.hypot, differentiated_by(inside, jnp.hypot, lambda out: out == 0))
    if LOGADDEXP is not None:
        at_nothing = differentiated_by(inside, logaddexp, lambda out: out == -jnp.inf)
        yield LOGADDEXP, Rule(at_nothing, (), broadcasts=True)


def _safe(rules: Rules) -> Iterator[tuple[Op, Rule]]:
    """Rules that are 0 at kinks and poles, and for cotangents that are 0."""
    for op, rule in _rules_of(rules, FACTORS):
        at = POINTS[op].at if op in POINTS else None
        yield op, replace(rule, fn=masked(rule.fn, at, zeros=True), late=False, elementwise=False)
    for op, rule in _rules_of(rules, (lax.reduce_max_p, lax.reduce_min_p)):
        yield op, replace(rule, fn=_masked_extremum(rule.fn))


def masked(
    elementwise_vjp: Callable[..., Any], at: Callable[..., Any] | None, zeros: bool
) -> Callable[..., Any]:
    """An elementwise rule, but 0 `at` kinks and poles, and if `zeros` for a cotangent that is 0."""

    @functools.wraps(elementwise_vjp)
    def masked_vjp(ct: Array, *operands: Array, out: Array, **params: Any) -> Any:
        cts = elementwise_vjp(ct, *operands, out=out, **params)
        if cts is None:
            return None
        points = False if at is None else at(*operands, out=out, **params)
        points = points if isinstance(points, tuple) else (points,) * len(operands)
        masks = [(ct == 0) | point for point in points] if zeros else points
        if not isinstance(cts, tuple):
            return kept_elsewhere(masks[0], cts)
        return tuple(
            kept_elsewhere(mask, ct_x) if _jax.is_array_type(ct_x) else ct_x
            for mask, ct_x in zip(masks, cts, strict=True)
        )

    return masked_vjp


def _masked_extremum(extremum_vjp: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(extremum_vjp)
    def masked_extremum_vjp(ct: Array, x: Array, *, axes: Any, **params: Any) -> Any:
        ct_x = extremum_vjp(ct, x, axes=axes, **params)
        return kept_elsewhere(lax.expand_dims(ct == 0, axes), ct_x)

    return masked_extremum_vjp


def by_activity(op: Any, both: Rule, one: Rule) -> CallRule:
    """A binary op by one of two rules: whether both of its operands are differentiated, or one.

    Of two equal ones each may move the extremum, so (0, 0) is no subgradient. Where one is constant, 0
    is.
    """

    by_both, by_one = recorded_by(both), recorded_by(one)

    @defrecord(op)
    def run(trace: TapeTrace, primitive: Any, tracers: Sequence[Any], params: Any) -> Any:
        record = by_one if None in trace.split(tracers)[1] else by_both
        return record(trace, primitive, tracers, params)

    return run


@defvjp(lax.max_p, elementwise=True)
def strict_max_vjp(ct: Array, x: Array, y: Array, **_: Any) -> Any:
    return kept_where(x > y, ct), kept_where(y > x, ct)


@defvjp(lax.min_p, elementwise=True)
def strict_min_vjp(ct: Array, x: Array, y: Array, **_: Any) -> Any:
    return kept_where(x < y, ct), kept_where(y < x, ct)


STRICT = {lax.max_p: strict_max_vjp, lax.min_p: strict_min_vjp}


# --- functions --------------------------------------------------------------------------------


def _named(function: Any, rule: Callable[..., Any]) -> tuple[Op, Rule]:
    """A rule of a jitted function of JAX's, whose calls need not be caught."""
    return named(function), Rule(rule, (), broadcasts=True)


def differentiated_by(
    rules: Rules,
    function: Callable[..., Any],
    at: Callable[[Array], Array] | None = None,
    slope: float = 0.0,
) -> Callable[..., Any]:
    """The rule of a function that these rules differentiate, but for its slope at some outputs."""
    signature = inspect.signature(function)

    def function_vjp(ct: Array, *operands: Array, out: Array, **params: Any) -> Any:
        given = [name for name in signature.parameters if name not in {*params, "out"}]

        def run(*operands: Array) -> Array:
            arguments = {**params, **dict(zip(given, operands, strict=False))}
            bound = inspect.BoundArguments(signature, arguments)  # type: ignore[arg-type]
            return function(*bound.args, **bound.kwargs)

        if at is not None:
            ct = jnp.where(at(out), slope, ct)
        cts = vjp(run, *operands, rules=rules)[1](ct)
        return tuple(ct_x if _jax.is_inexact(ct_x) else None for ct_x in cts)

    function_vjp.__name__ = f"{function.__name__}_vjp"
    return function_vjp


def logaddexp(x1: Array, x2: Array) -> Array:
    return jnp.logaddexp(x1, x2)


def hard_tanh_vjp(ct: Array, x: Array, **_: Any) -> Array:
    return kept_where(lax.abs(x) < 1, ct)


# --- raise ------------------------------------------------------------------------------------


def raise_rules(rules: Rules) -> Iterator[tuple[Op, Entry]]:
    """The rules of ``kinks("raise")``: what is no kink has the value that it has with ``"zero"``."""
    safe = dict(_safe(rules))
    inside = _with(rules, safe)
    yield from {**safe, **dict(watched_rules(inside))}.items()
    for function in (jnp.hypot, jax.nn.celu):  # of which a max and a min inside are no kinks
        yield _named(function, differentiated_by(inside, function))


# --- torch ------------------------------------------------------------------------------------


def torch_rules(rules: Rules) -> Iterator[tuple[Op, Entry]]:
    """The rules of ``kinks("torch")``: those whose values differ from JAX's."""
    own = {op: rule for rule in TORCH for op in rule.ops}
    yield from own.items()
    for op, rule in _rules_of(rules, (lax.atan2_p,)):
        yield op, replace(rule, fn=masked(rule.fn, POINTS[op].at, zeros=False))
    yield _named(jax.nn.hard_tanh, hard_tanh_vjp)
    yield _named(jax.nn.leaky_relu, leaky_relu_vjp)
    yield _named(jnp.hypot, differentiated_by(rules, jnp.hypot, lambda out: out == 0, jnp.nan))
    yield op_key(jnp.clip), Rule(differentiated_by(_with(rules, own), clip_by_clamp), ())
    zero = _kinks("zero", rules)
    for function in (jnp.linalg.norm, jnp.std):
        yield op_key(function), Rule(differentiated_by(zero, function), ())


@defvjp(lax.abs_p, elementwise=True)
def abs_vjp(ct: Array, x: Array, *, out: Array, **_: Any) -> Array:
    return ct * lax.conj(lax.sign(x)) if _jax.is_complex(x) else ct * lax.sign(x)


@defvjp(lax.clamp_p, elementwise=True)
def clamp_vjp(ct: Array, low: Array, x: Array, high: Array, **_: Any) -> Any:
    # an x at an end is inside
    return (
        kept_where((x < low) & (low < high), ct),
        kept_where((low <= x) & (x <= high), ct),
        kept_where((high < x) | (high < low), ct),
    )


@defvjp(lax.pow_p, elementwise=True)
def pow_vjp(ct: Array, x: Array, y: Array, *, out: Array, **_: Any) -> Any:
    # d(x^y)/dx is 0 where y = 0; d(x^y)/dy is 0 where x = 0 and y >= 0
    ct_x = kept_elsewhere(y == 0, ct * (y * x ** jnp.where(y == 0, 1, y - 1)))
    if not _jax.is_inexact(y):
        return ct_x, None
    ct_y = ct * (out * lax.log(x))
    return ct_x, ct_y if _jax.is_complex(y) else kept_elsewhere((x == 0) & (y >= 0), ct_y)


@defvjp(lax.cummax_p, lax.cummin_p)
def running_extremum_vjp(
    ct: Array, x: Array, *, out: Array, axis: int, reverse: bool, **_: Any
) -> Any:
    # the last element that attains the extremum takes the cotangent
    origin = jnp.moveaxis(last_to_attain(x, out, axis, reverse), axis, -1)
    others = jnp.indices(origin.shape, sparse=True)[:-1]
    ct_last = jnp.moveaxis(ct, axis, -1)
    return jnp.moveaxis(jnp.zeros_like(ct_last).at[(*others, origin)].add(ct_last), -1, axis)


LEAK = inspect.signature(jax.nn.leaky_relu).parameters["negative_slope"].default


@defvjp(lax.lgamma_p, elementwise=True)
def lgamma_vjp(ct: Array, x: Array, **_: Any) -> Array:
    # the slope digamma(x) is taken as -inf at 0
    return ct * jnp.where(x == 0, -jnp.inf, lax.digamma(x))


TORCH = (abs_vjp, clamp_vjp, pow_vjp, running_extremum_vjp, lgamma_vjp)


def leaky_relu_vjp(ct: Array, x: Array, *slope: Array, **_: Any) -> Any:
    # y = x for x > 0, else slope x; a slope that was not given is the default
    ct_x = jnp.where(x > 0, ct, (slope[0] if slope else LEAK) * ct)
    return ct_x.astype(x.dtype), *(kept_elsewhere(x > 0, x * ct).astype(s.dtype) for s in slope)


def clip_by_clamp(arr: Array, min: Any = None, max: Any = None) -> Array:
    low, high = (-jnp.inf if min is None else min), (jnp.inf if max is None else max)
    arr, low, high = jnp.broadcast_arrays(arr, low, high)
    return lax.clamp(low.astype(arr.dtype), arr, high.astype(arr.dtype))
