"""What a registry holds: the kinds of rules, and the ways to make them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from funcgrad import _jax, errors
from funcgrad.keys import Op, op_key
from funcgrad.printing import shown_call, shown_rule, shown_zero


@dataclass(frozen=True)
class Rule:
    """The backward rule of one or several ops.

    Attributes:
      fn: the rule itself, ``fn(ct, *operands, out=..., **params)``.
      ops: what it is registered for.
      broadcasts: the op broadcasts its operands against each other (equal rank with axes of size
        1, or scalars); a cotangent of the broadcast shape is summed by the walk, not by the rule.
      late: the rule may be given a cotangent that is still broadcast along an axis on which the op's
        output has size 1.
      elementwise: `late` was declared because the rule is linear in `ct`, element by element; its
        operations are checked for that when it is traced (``rule_program.is_elementwise``).
      optional: nothing is said if an override by this rule never applies.
      forward: computes the op's output from ``(*operands, **params)`` where it is differentiated
        outside other transforms, if that is quicker than the primitive, or saves the rule some work;
        None for the primitive.
      saves: how many values `forward` returns after the outputs, or a function of the op's params to
        that number. The rule finds the values at the end of `out`, if `forward` was used. They take no
        cotangent.

    Example:
      >>> import jax, funcgrad
      >>> rule = funcgrad.DEFAULT[jax.lax.sin_p]
      >>> print(rule.name, rule(3.0, 0.0, out=0.0))  # ct cos(x)
      sin_vjp 3.0
    """

    fn: Callable[..., Any]
    ops: tuple[Op, ...]
    broadcasts: bool = False
    late: bool = False
    elementwise: bool = False
    optional: bool = False
    forward: Callable[..., Any] | None = None
    saves: int | Callable[..., int] = 0

    def __call__(self, ct: Any, *operands: Any, **kwargs: Any) -> Any:
        """Apply the rule directly, as one would apply the function it was made from."""
        return self.fn(ct, *operands, **kwargs)

    def saved(self, params: Mapping[str, Any]) -> int:
        """How many values `forward` returns after the outputs of an op with these params."""
        return self.saves(**params) if callable(self.saves) else self.saves

    @property
    def name(self) -> str:
        return getattr(self.fn, "__name__", repr(self.fn))

    @property
    def source(self) -> str:
        """``file:line`` of the rule, for reports and messages."""
        return _jax.source_of(self.fn)

    @property
    def is_own(self) -> bool:
        """Whether the rule is one of this package's."""
        module = getattr(inspect.unwrap(self.fn), "__module__", None) or ""
        return module.startswith("funcgrad.rules.")

    def __repr__(self) -> str:
        return shown_rule(self)


@dataclass(frozen=True)
class ZeroRule:
    """Marks ops that pass no gradient: integer, boolean or piecewise constant results.

    Attributes:
      ops: what it is registered for.

    Example:
      >>> import jax, funcgrad
      >>> print(type(funcgrad.DEFAULT[jax.lax.floor_p]).__name__)
      ZeroRule
    """

    ops: tuple[Op, ...]

    def __repr__(self) -> str:
        return shown_zero(self)


@dataclass(frozen=True)
class CallRule:
    """How a primitive that calls a function or carries a jaxpr is differentiated.

    `fn(trace, primitive, tracers, params)` runs it, writes it on the trace's tape, and returns its
    outputs. `in_checkpoint` takes its place in a function that ``jax.checkpoint`` computes again.
    """

    fn: Callable[..., Any]
    ops: tuple[Op, ...]
    in_checkpoint: Callable[..., Any] | None = None

    def __repr__(self) -> str:
        return shown_call(self, _jax.source_of(self.fn))


Entry = Rule | ZeroRule | CallRule


class Observer(Protocol):
    """A tool that is told of each node, when it is recorded and when it is pulled back.

    Both happen when a program is traced: under ``jit``, or in a loop, once for all its runs. So an
    observer acts through values, by results that it changes or by ``jax.debug.callback``, not by side
    effects in Python. It must be hashable: it is part of the keys by which programs are cached.

    Example:
      >>> import jax, funcgrad
      >>> class Doubling:
      ...     def recorded(self, node, outs):
      ...         pass
      ...     def pulled(self, node, cts, results):
      ...         return [2 * ct for ct in results]
      >>> rules = funcgrad.DEFAULT.observed_by(Doubling())
      >>> print(funcgrad.grad(jax.lax.sin, rules=rules)(0.0))
      2.0
    """

    def recorded(self, node: Any, outs: Any) -> None:
        """Called with a node and its outputs, before the outputs are used."""
        ...

    def pulled(self, node: Any, cts: Any, results: Any) -> Any:
        """Called with output cotangents and operand cotangents; returns the latter, or others."""
        ...


def defvjp(
    *ops: Any,
    elementwise: bool = False,
    optional: bool = False,
    forward: Callable[..., Any] | None = None,
    saves: int | Callable[..., int] = 0,
) -> Callable[[Callable[..., Any]], Rule]:
    """Make the decorated function the backward rule of `ops`.

    The function takes the output cotangent, then the op's operands by position, then ``out`` and
    the op's params by keyword, and returns one cotangent per operand (a bare array where there is
    one operand, else a tuple), ``None`` meaning no gradient. Where the op has several outputs,
    ``ct`` and ``out`` are tuples, and a cotangent that never arrived is ``None``.

    Args:
      ops: JAX primitives or functions. One that this JAX version lacks is given as ``None`` and
        ignored.
      elementwise: the op works element by element on operands broadcast against each other, and
        the rule only multiplies `ct` by factors or selects from it.
      optional: say nothing where an override by this rule never applies.
      forward: computes the output in the op's place, from ``(*operands, **params)``.
      saves: how many arrays `forward` returns after the outputs, for the rule, or a function of the
        op's params to that number. They are the last in `out`. Where another transform must see the op
        itself, they are not there.

    Returns:
      A decorator that returns a :class:`Rule`. Registering is pure: pass the rule to
      :meth:`Rules.extend` or :meth:`Rules.override`.

    Example:
      >>> import jax, jax.numpy as jnp, funcgrad
      >>> @funcgrad.defvjp(jax.lax.sin_p)
      ... def sin_vjp(ct, x, **_):
      ...     return ct * jnp.cos(x) * 100
      >>> rules = funcgrad.DEFAULT.override({jax.lax.sin_p: sin_vjp})
      >>> float(funcgrad.grad(jnp.sin, rules=rules)(0.0))
      100.0
    """
    keys = tuple(op_key(op) for op in ops if op is not None)

    def register(fn: Callable[..., Any]) -> Rule:
        promise = dict.fromkeys(("broadcasts", "late", "elementwise"), elementwise)
        return Rule(fn, keys, **promise, optional=optional, forward=forward, saves=saves)

    return register


def partials(table: Mapping[Any, Callable[[Any, Any], Any]]) -> tuple[Rule, ...]:
    """Make rules of unary elementwise ops from a table ``{op: lambda x, y: dy/dx}``.

    The multiplication by the cotangent is written here, once: ``ct_x = dy/dx * ct``.

    Args:
      table: from op to a function of operand and output, of the output's shape; an op that this JAX
        version lacks is given as ``None`` and ignored.

    Returns:
      A rule for each op, in the table's order.

    Example:
      >>> import jax, jax.numpy as jnp, funcgrad
      >>> [rule] = funcgrad.partials({jax.lax.sin_p: lambda x, y: 100 * jnp.cos(x)})
      >>> rules = funcgrad.DEFAULT.override({jax.lax.sin_p: rule})
      >>> print(funcgrad.grad(jnp.sin, rules=rules)(0.0))
      100.0
    """

    def chain(dydx: Callable[[Any, Any], Any], name: str) -> Callable[..., Any]:
        def unary_vjp(ct: Any, x: Any, *, out: Any, **_: Any) -> Any:
            return dydx(x, out) * ct

        unary_vjp.__name__ = f"{name}_vjp"
        unary_vjp.__wrapped__ = dydx  # type: ignore[attr-defined]  # the source is the table's line
        return unary_vjp

    return tuple(
        Rule(chain(dydx, str(op)), (op_key(op),), broadcasts=True, late=True, elementwise=True)
        for op, dydx in table.items()
        if op is not None
    )


def defrecord(*ops: Any) -> Callable[[Callable[..., Any]], CallRule]:
    """Make the decorated function run and record the primitives `ops`, by means of the trace.

    For a call, ``funcgrad.extend.defcall`` is the way: it needs no trace.
    """

    def register(fn: Callable[..., Any]) -> CallRule:
        return CallRule(fn, tuple(op_key(op) for op in ops if op is not None))

    return register


def zero(*ops: Any) -> ZeroRule:
    """Declare ops whose derivative is zero or undefined by nature.

    Args:
      *ops: JAX primitives or functions; ``None``, for one that this JAX version lacks, is ignored.

    Returns:
      An entry for :meth:`Rules.extend` and :meth:`Rules.override`.

    Example:
      >>> import jax, jax.numpy as jnp, funcgrad
      >>> no_derivative = funcgrad.zero(jax.lax.sin_p)
      >>> rules = funcgrad.DEFAULT.override({jax.lax.sin_p: no_derivative})
      >>> print(funcgrad.grad(lambda x: x + jnp.sin(x), rules=rules)(0.0))
      1.0
    """
    return ZeroRule(tuple(op_key(op) for op in ops if op is not None))


@dataclass(frozen=True)
class Deferred:
    """Modules of rules that are imported when somebody has imported the ops that they are for.

    Attributes:
      ops: the name of JAX's module that defines the ops.
      rules: the names of the modules of rules.
    """

    ops: str
    rules: tuple[str, ...]


@dataclass(frozen=True)
class Placed:
    """An override at some places alone.

    Attributes:
      op: the primitive or function.
      rule: its rule there.
      selector: which places these are.
    """

    op: Op
    rule: Rule
    selector: Any


ORIGINAL = "original"
"""The keyword by which a rule asks for the rule that it replaces."""


def with_original(rule: Rule, old: Any, op: Op) -> Rule:
    """A rule that takes `original`, given the function of the rule that it replaces; others as they are.

    Raises:
      errors.NotARuleError: the rule asks for it, and there is none.
    """
    if not _asks_for_original(rule.fn):
        return rule
    if not isinstance(old, Rule):
        raise errors.NotARuleError(
            f"The rule `{rule.name}` ({rule.source}) takes `original`, and `{op}` has no rule that it "
            "replaces. Call funcgrad.vjp of the function in the rule instead."
        )
    return replace(rule, fn=GivenOriginal(rule.fn, old.fn))


class GivenOriginal:
    """A rule's function that is given that of the rule which it replaces.

    Two of the same functions are equal, so that rules which were made twice are the same rules.
    """

    def __init__(self, fn: Callable[..., Any], original: Callable[..., Any]):
        self.fn = fn
        self.original = original
        functools.update_wrapper(self, fn)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.fn(*args, original=self.original, **kwargs)

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, GivenOriginal)
        return same and (self.fn, self.original) == (other.fn, other.original)

    def __hash__(self) -> int:
        return hash((self.fn, self.original))


def _asks_for_original(fn: Any) -> bool:
    try:
        parameter = inspect.signature(fn, follow_wrapped=False).parameters.get(ORIGINAL)
    except (TypeError, ValueError):
        return False
    return parameter is not None and parameter.default is parameter.empty
