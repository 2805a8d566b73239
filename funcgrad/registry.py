"""Which backward rule belongs to which op: immutable, replaceable from outside.

An *op* is a JAX primitive, a function made with ``funcgrad.op``, or any jitted,
``custom_jvp`` or ``custom_vjp`` function. A *rule* is a pure function from output cotangents to
input cotangents; it says nothing about residuals, about which operands need a gradient, or about
broadcasting, all of which are derived.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType, ModuleType
from typing import Any, Protocol

from funcgrad import _jax, errors
from funcgrad.keys import FunctionId, Op, op_key
from funcgrad.printing import shown_call, shown_rule, shown_rules, shown_zero


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
        outside other transforms, if that is quicker than the primitive; None for the primitive.
    """

    fn: Callable[..., Any]
    ops: tuple[Op, ...]
    broadcasts: bool = False
    late: bool = False
    elementwise: bool = False
    optional: bool = False
    forward: Callable[..., Any] | None = None

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

    @property
    def is_own(self) -> bool:
        """Whether the rule is one of this package's."""
        module = getattr(inspect.unwrap(self.fn), "__module__", None) or ""
        return module.startswith("funcgrad.rules.")

    def __repr__(self) -> str:
        return shown_rule(self)


@dataclass(frozen=True)
class ZeroRule:
    """Marks ops that pass no gradient: integer, boolean or piecewise constant results."""

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
    """

    def recorded(self, node: Any, outs: Any) -> None:
        """Called with a node and its outputs, before the outputs are used."""
        ...

    def pulled(self, node: Any, cts: Any, results: Any) -> Any:
        """Called with output cotangents and operand cotangents; returns the latter, or others."""
        ...


def defvjp(
    *ops: Any, elementwise: bool = False, optional: bool = False
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
        return Rule(fn, keys, **promise, optional=optional)

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
    """Declare ops whose derivative is zero or undefined by nature; ``None`` is ignored."""
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


@_jax.cache()
def _deferred_table(deferred: Deferred) -> Mapping[Op, Entry]:
    modules = map(importlib.import_module, deferred.rules)
    return {op: entry for m in modules for entry in _entries_of(m) for op in entry.ops}


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

    def __init__(
        self,
        entries: Iterable[Entry] = (),
        fallback: Entry | None = None,
        overridden: Iterable[Op] = (),
        caught: Iterable[FunctionId] = (),
        observer: Observer | None = None,
        deferred: Sequence[Deferred] = (),
    ):
        table: dict[Op, Entry] = {}
        for entry in entries:
            for op in entry.ops:
                if op in table:
                    raise errors.DuplicateRuleError(op, table[op], entry)
                table[op] = entry
        self._table = MappingProxyType(table)
        self._fallback = fallback
        self.overridden = tuple(overridden)
        self.caught = tuple(caught)
        self.observer = observer
        self._deferred = tuple(deferred)
        settings = (fallback, self.overridden, self.functions, observer, self._deferred)
        self._key = (frozenset(table.items()), *settings)
        self._hash = hash(self._key)

    @functools.cached_property
    def functions(self) -> tuple[tuple[Any, FunctionId], ...]:
        """The functions with a rule of the user's, whose calls are caught, with their ops."""
        return tuple((op.function, op) for op in self.caught if op.function is not None)

    @classmethod
    def collect(
        cls,
        *modules: ModuleType,
        fallback: Entry | None = None,
        deferred: Sequence[Deferred] = (),
    ) -> Rules:
        """Gather every rule that the modules define, alone or in tuples."""
        entries = (entry for module in modules for entry in _entries_of(module))
        return cls(entries, fallback, deferred=deferred)

    def _changed(self, entries: Iterable[Entry] | None = None, **settings: Any) -> Rules:
        """New rules that differ from these in some of the arguments from which they are made."""
        same = {
            "fallback": self._fallback,
            "overridden": self.overridden,
            "caught": self.caught,
            "observer": self.observer,
            "deferred": self._deferred,
        }
        return Rules(self._unique() if entries is None else entries, **{**same, **settings})

    def override(self, replacements: Mapping[Any, Rule | Callable[..., Any]]) -> Rules:
        """Return new rules in which `replacements` take the place of what was there.

        A function's rule is given the arrays among the call's arguments by position, and all other
        arguments by name, defaults included. An override that never applies while a function is
        differentiated is reported (:class:`funcgrad.errors.UnusedOverrideWarning`; an error with
        ``strict=True``; nothing for a rule made with ``optional=True``).

        Args:
          replacements: from op (a primitive, or any function: plain, jitted, with a custom
            derivative, or a ``funcgrad.op``) to a rule.

        Raises:
          errors.NotAnOpError: a key is neither a primitive nor a function.
          errors.NotARuleError: `replacements` is not a mapping, or a value is not a rule.
        """
        if not isinstance(replacements, Mapping):
            raise errors.NotARuleError(
                f"rules.override was given {replacements!r}, a {type(replacements).__name__}. It takes "
                "a mapping from op to rule, such as {jax.lax.sin_p: sin_vjp}."
            )
        table = dict(self._table)
        for op, rule in replacements.items():
            key = op_key(op)
            table.pop(key, None)  # so that the new key, which knows its function, takes its place
            table[key] = _replacement(key, rule, self._table.get(key))
        keys = _numbered([op_key(op) for op in replacements], self.caught)
        entries = (replace(entry, ops=(op,)) for op, entry in table.items())
        kept = [op for op in self.overridden if op not in keys]
        caught = [op for op in self.caught if op not in keys]
        caught += [op for op in keys if isinstance(op, FunctionId)]
        return self._changed(entries, overridden=(*kept, *keys), caught=caught)

    def extend(self, *entries: Entry) -> Rules:
        """Return new rules with `entries` added.

        Raises:
          errors.DuplicateRuleError: an op has a rule already; use :meth:`override` to replace it.
          errors.NotARuleError: an entry is not what ``defvjp``, ``partials`` or ``zero`` return.
        """
        for entry in entries:
            if not isinstance(entry, Entry):
                raise errors.NotARuleError(
                    f"rules.extend was given {entry!r}, a {type(entry).__name__}. Make a rule of a "
                    "function with @funcgrad.defvjp(op)."
                )
            for op in entry.ops:
                if (old := self._deferred_entry(op)) is not None:
                    raise errors.DuplicateRuleError(op, old, entry)
        keys = _numbered([op for entry in entries for op in entry.ops], self.caught)
        caught = (*self.caught, *(op for op in keys if isinstance(op, FunctionId)))
        return self._changed((*self._unique(), *entries), caught=caught)

    def strict(self) -> Rules:
        """Return new rules that never fall back on JAX for primitives of third-party packages."""
        return self if self._fallback is None else _strict(self)

    def quietly(self) -> Rules:
        """Return the same rules, of which nothing is reported that never applies."""
        if not self.overridden:
            return self
        return self._changed(overridden=())

    def observed_by(self, observer: Observer | None) -> Rules:
        """Return new rules whose differentiations tell `observer` of each node."""
        return self._changed(observer=observer)

    def within(self, scope: str) -> Rules:
        """Return the rules for a call in this name scope, whose program is cached by them.

        A program is traced once for all scopes in which a function is called. What depends on the
        enclosing scope must therefore be part of these rules: an observer that has a method
        ``within(scope)`` is replaced by what that returns. Without one, these are the same rules.
        """
        if not scope or not hasattr(self.observer, "within"):
            return self
        return _within(self, scope)

    def in_checkpoint(self) -> Rules:
        """Return the rules for a function that ``jax.checkpoint`` computes again."""
        return _in_checkpoint(self)

    def find(self, op: Op) -> Entry | None:
        """Return the entry of `op`, or None; for a third-party primitive, the fallback."""
        entry = self._table.get(op)
        if entry is None and isinstance(op, _jax.Primitive):
            entry = self._deferred_entry(op)
            if entry is None and self._fallback and _jax.is_foreign(op):
                return self._fallback
        return entry

    def _deferred_entry(self, op: Op) -> Entry | None:
        """The entry of an op in a module of rules that is imported late."""
        loaded = (_deferred_table(d) for d in self._deferred if d.ops in sys.modules)
        return next((table[op] for table in loaded if op in table), None)

    def _unique(self) -> tuple[Entry, ...]:
        return tuple(replace(entry, ops=(op,)) for op, entry in self._table.items())

    def __getitem__(self, op: Any) -> Entry:
        key = op_key(op)
        entry = self._table.get(key) or self._deferred_entry(key)
        if entry is None:
            raise KeyError(key)
        return entry

    def __iter__(self) -> Iterator[Op]:
        """All ops; this imports the modules of rules that were put off."""
        deferred = [_deferred_table(d) for d in self._deferred]
        return iter({**self._table, **{op: None for table in deferred for op in table}})

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rules) and (
            self is other or (self._hash == other._hash and self._key == other._key)
        )

    def __repr__(self) -> str:
        return shown_rules(self, self._fallback)


@_jax.cache()
def _strict(rules: Rules) -> Rules:
    return rules._changed(fallback=None)


@_jax.cache()
def _in_checkpoint(rules: Rules) -> Rules:
    entries = [
        CallRule(entry.in_checkpoint, entry.ops)
        if isinstance(entry, CallRule) and entry.in_checkpoint is not None
        else entry
        for entry in rules._unique()
    ]
    return rules._changed(entries)


@_jax.cache()
def _within(rules: Rules, scope: str) -> Rules:
    observer: Any = rules.observer
    return rules.observed_by(observer.within(scope))


def check_rules(rules: Any) -> None:
    """What a transform was given as `rules` must be Rules.

    Raises:
      errors.NotARuleError: it is something else.
    """
    if not isinstance(rules, Rules):
        raise errors.NotARuleError(
            f"rules={rules!r} was given, a {type(rules).__name__}. Pass funcgrad.Rules: "
            "rules=funcgrad.DEFAULT.override({op: rule}) replaces single rules."
        )


def _numbered(keys: list[Op], caught: Sequence[FunctionId]) -> list[Op]:
    """Ops in which several functions of one definition are told apart."""
    counts = Counter(op.description for op in caught)
    found: list[Op] = []
    for op in keys:
        if isinstance(op, FunctionId):
            counts[op.description] += 1
            op = replace(op, serial=counts[op.description] - 1)
        found.append(op)
    return found


def _replacement(key: Op, rule: Any, old: Entry | None) -> Entry:
    """An override keeps the op's broadcasting; it is given summed cotangents unless it asks."""
    if isinstance(rule, Rule):
        return replace(rule, ops=(key,))
    if isinstance(rule, ZeroRule):
        return Rule(no_gradient_vjp, (key,))
    if isinstance(rule, CallRule):
        return replace(rule, ops=(key,))
    if not callable(rule):
        raise errors.NotARuleError(
            f"rules.override was given {rule!r}, a {type(rule).__name__}, as the rule of `{key}`. A "
            "rule is a function (ct, *operands, out, **params) that returns the operands' cotangents."
        )
    broadcasts = isinstance(old, Rule) and old.broadcasts
    return Rule(rule, (key,), broadcasts=broadcasts)


def no_gradient_vjp(ct: Any, *operands: Any, **_: Any) -> tuple[None, ...]:
    """The rule of an op that was declared to have none."""
    return (None,) * len(operands)


def _entries_of(module: ModuleType) -> Iterator[Entry]:
    for value in vars(module).values():
        candidates = value if isinstance(value, tuple) else (value,)
        yield from (c for c in candidates if isinstance(c, Entry))
