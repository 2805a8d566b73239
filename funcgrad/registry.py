"""Which backward rule belongs to which op: immutable, replaceable from outside.

An *op* is a JAX primitive, a function made with ``funcgrad.op``, or any jitted,
``custom_jvp`` or ``custom_vjp`` function. A *rule* is a pure function from output cotangents to
input cotangents; it says nothing about residuals, about which operands need a gradient, or about
broadcasting, all of which are derived.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType, ModuleType
from typing import Any

from funcgrad import _jax, errors
from funcgrad.printing import shown_call, shown_rule, shown_rules, shown_zero

Op = Any
"""What a rule is registered for: a primitive, or the :class:`FunctionId` of a function."""


@dataclass(frozen=True)
class FunctionId:
    """A function as a trace sees it: its name and where it is defined, not its bare name."""

    description: str

    def __str__(self) -> str:
        return self.description


def op_key(op: Any) -> Op:
    """Return what the registry files `op` under.

    Args:
      op: a JAX primitive, or a function (plain, jitted, ``custom_jvp``, ``custom_vjp`` or made
        with ``funcgrad.op``).

    Raises:
      errors.NotAnOpError: `op` is none of these.
    """
    if isinstance(op, (_jax.Primitive, FunctionId)):
        return op
    description = _jax.function_description(op)
    if description is None:
        raise errors.NotAnOpError(op)
    return FunctionId(description)


@dataclass(frozen=True)
class Rule:
    """The backward rule of one or several ops.

    Attributes:
      fn: the rule itself, ``fn(ct, *operands, out=..., **params)``.
      ops: what it is registered for.
      broadcasts: the op broadcasts its operands against each other (equal rank with axes of size
        1, or scalars); a cotangent of the broadcast shape is summed by the walk, not by the rule.
      late: the rule is elementwise and linear in `ct`, so it may be given a cotangent that is
        still broadcast along an axis on which the op's output has size 1.
    """

    fn: Callable[..., Any]
    ops: tuple[Op, ...]
    broadcasts: bool = False
    late: bool = False

    def __call__(self, ct: Any, *operands: Any, **kwargs: Any) -> Any:
        """Apply the rule directly, as one would apply the function it was made from."""
        return self.fn(ct, *operands, **kwargs)

    @property
    def name(self) -> str:
        return getattr(self.fn, "__name__", repr(self.fn))

    @property
    def source(self) -> str:
        """``file:line`` of the rule, for reports and messages."""
        return _jax.source_of(self.fn)

    def __repr__(self) -> str:
        return shown_rule(self)


@dataclass(frozen=True)
class ZeroRule:
    """Says that the derivative of these ops is zero or undefined by nature."""

    ops: tuple[Op, ...]

    def __repr__(self) -> str:
        return shown_zero(self)


@dataclass(frozen=True)
class CallRule:
    """How a primitive that calls a function or carries a jaxpr is differentiated.

    `fn(trace, primitive, tracers, params)` runs it, writes it on the trace's tape, and returns its
    outputs.
    """

    fn: Callable[..., Any]
    ops: tuple[Op, ...]

    def __repr__(self) -> str:
        return shown_call(self, _jax.source_of(self.fn))


Entry = Rule | ZeroRule | CallRule


def defvjp(*ops: Any, elementwise: bool = False) -> Callable[[Callable[..., Any]], Rule]:
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
        return Rule(fn, keys, broadcasts=elementwise, late=elementwise)

    return register


def partials(table: Mapping[Any, Callable[[Any, Any], Any]]) -> tuple[Rule, ...]:
    """Make rules of unary elementwise ops from a table ``{op: lambda x, y: dy/dx}``.

    The multiplication by the cotangent is written here, once: ``ct_x = ct * dy/dx``.
    """

    def chain(dydx: Callable[[Any, Any], Any], name: str) -> Callable[..., Any]:
        def unary_vjp(ct: Any, x: Any, *, out: Any, **_: Any) -> Any:
            return ct * dydx(x, out)

        unary_vjp.__name__ = f"{name}_vjp"
        unary_vjp.__wrapped__ = dydx  # type: ignore[attr-defined]  # the source is the table's line
        return unary_vjp

    return tuple(
        Rule(chain(dydx, str(op)), (op_key(op),), broadcasts=True, late=True)
        for op, dydx in table.items()
        if op is not None
    )


def defcall(*ops: Any) -> Callable[[Callable[..., Any]], CallRule]:
    """Make the decorated function say how the call primitives `ops` are differentiated."""

    def register(fn: Callable[..., Any]) -> CallRule:
        return CallRule(fn, tuple(op_key(op) for op in ops if op is not None))

    return register


def zero(*ops: Any) -> ZeroRule:
    """Declare ops whose derivative is zero or undefined by nature; ``None`` is ignored."""
    return ZeroRule(tuple(op_key(op) for op in ops if op is not None))


class Rules(Mapping[Op, Entry]):
    """An immutable mapping from op to rule.

    ``DEFAULT`` holds every rule of the package; :meth:`override` and :meth:`extend` return new
    mappings and change nothing, so two of them in two threads never meet.

    Example:
      >>> import jax, funcgrad
      >>> def leaky_vjp(ct, x, *, out, **_):
      ...     return jax.numpy.where(x > 0, ct, 0.1 * ct)
      >>> rules = funcgrad.DEFAULT.override({jax.nn.relu: leaky_vjp})
      >>> print(round(float(funcgrad.grad(jax.nn.relu, rules=rules)(-1.0)), 6))
      0.1
    """

    def __init__(self, entries: Iterable[Entry] = (), fallback: Entry | None = None):
        table: dict[Op, Entry] = {}
        for entry in entries:
            for op in entry.ops:
                if op in table:
                    raise errors.DuplicateRuleError(op, table[op], entry)
                table[op] = entry
        self._table = MappingProxyType(table)
        self._fallback = fallback
        self._hash = hash((frozenset(table.items()), fallback))

    @classmethod
    def collect(cls, *modules: ModuleType, fallback: Entry | None = None) -> Rules:
        """Gather every rule that the modules define, alone or in tuples."""
        return cls((entry for module in modules for entry in _entries_of(module)), fallback)

    def override(self, replacements: Mapping[Any, Rule | Callable[..., Any]]) -> Rules:
        """Return new rules in which `replacements` take the place of what was there.

        Args:
          replacements: from op (primitive, ``funcgrad.op``, jitted or custom function) to a rule.
            For a function the operands are its traced array arguments in order.

        Raises:
          errors.NotAnOpError: a key is neither a primitive nor a function.
        """
        table = dict(self._table)
        for op, rule in replacements.items():
            key = op_key(op)
            table[key] = _replacement(key, rule, table.get(key))
        return Rules((replace(entry, ops=(op,)) for op, entry in table.items()), self._fallback)

    def extend(self, *entries: Entry) -> Rules:
        """Return new rules with `entries` added.

        Raises:
          errors.DuplicateRuleError: an op has a rule already; use :meth:`override` to replace it.
        """
        return Rules((*self._unique(), *entries), self._fallback)

    def strict(self) -> Rules:
        """Return new rules that never fall back on JAX for primitives of third-party packages."""
        if self._fallback is None:
            return self
        return _strict(self)

    def find(self, op: Op) -> Entry | None:
        """Return the entry of `op`, or None; for a third-party primitive, the fallback."""
        entry = self._table.get(op)
        if entry is None and self._fallback and isinstance(op, _jax.Primitive):
            return self._fallback if _jax.is_foreign(op) else None
        return entry

    def _unique(self) -> tuple[Entry, ...]:
        return tuple(replace(entry, ops=(op,)) for op, entry in self._table.items())

    def __getitem__(self, op: Any) -> Entry:
        return self._table[op_key(op)]

    def __iter__(self) -> Iterator[Op]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rules) and (
            self is other
            or (
                self._hash == other._hash
                and self._table == other._table
                and self._fallback == other._fallback
            )
        )

    def __repr__(self) -> str:
        return shown_rules(self, self._fallback)


@functools.lru_cache(maxsize=64)
def _strict(rules: Rules) -> Rules:
    return Rules(rules._unique())


def _replacement(key: Op, rule: Rule | Callable[..., Any], old: Entry | None) -> Rule:
    """An override keeps the op's broadcasting; it is given summed cotangents unless it asks."""
    if isinstance(rule, Rule):
        return replace(rule, ops=(key,))
    broadcasts = isinstance(old, Rule) and old.broadcasts
    return Rule(rule, (key,), broadcasts=broadcasts)


def _entries_of(module: ModuleType) -> Iterator[Entry]:
    for value in vars(module).values():
        candidates = value if isinstance(value, tuple) else (value,)
        yield from (c for c in candidates if isinstance(c, Entry))
