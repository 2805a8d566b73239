"""Which backward rule belongs to which op: immutable, replaceable from outside.

An *op* is a JAX primitive, a function made with ``funcgrad.op``, or any jitted,
``custom_jvp`` or ``custom_vjp`` function. A *rule* is a pure function from output cotangents to
input cotangents; it says nothing about residuals, about which operands need a gradient, or about
broadcasting, all of which are derived.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType, ModuleType
from typing import Any

from funcgrad import _jax, errors
from funcgrad.entries import CallRule as CallRule
from funcgrad.entries import Deferred as Deferred
from funcgrad.entries import Entry as Entry
from funcgrad.entries import Observer as Observer
from funcgrad.entries import Placed as Placed
from funcgrad.entries import Rule as Rule
from funcgrad.entries import ZeroRule as ZeroRule
from funcgrad.entries import defrecord as defrecord
from funcgrad.entries import defvjp as defvjp
from funcgrad.entries import partials as partials
from funcgrad.entries import with_original as with_original
from funcgrad.entries import zero as zero
from funcgrad.keys import FunctionId, Op, op_key
from funcgrad.printing import shown_rules


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
        placed: Sequence[Placed] = (),
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
        self.placed = tuple(placed)
        own = (self.functions, self.placed, self._deferred)
        settings = (fallback, self.overridden, observer, *own)
        self._key = (frozenset(table.items()), *settings)
        self._hash = hash(self._key)

    @functools.cached_property
    def functions(self) -> tuple[tuple[FunctionId, Rule, bool], ...]:
        """The functions whose calls are caught: op, rule, and whether at some places alone."""
        known = [(op, self._table[op]) for op in self.caught if op.function is not None]
        everywhere = [(op, rule, False) for op, rule in known if isinstance(rule, Rule)]
        somewhere = [
            (placed.op, placed.rule, True)
            for placed in self.placed
            if isinstance(placed.op, FunctionId)
        ]
        return (*everywhere, *somewhere)

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
            "placed": self.placed,
        }
        return Rules(self._unique() if entries is None else entries, **{**same, **settings})

    def override(
        self, replacements: Mapping[Any, Rule | Callable[..., Any]], *, at: Any = None
    ) -> Rules:
        """Return new rules in which `replacements` take the place of what was there.

        A function's rule is given the arrays among the call's arguments by position, and all other
        arguments by name, defaults included. A rule that takes the keyword ``original`` is given the
        function of the rule that it replaces. An override that never applies while a function is
        differentiated is reported (:class:`funcgrad.errors.UnusedOverrideWarning`; an error with
        ``strict=True``; nothing for a rule made with ``optional=True``). Of several for one op the last
        holds.

        Args:
          replacements: from op (a primitive, or any function: plain, jitted, with a custom
            derivative, or a ``funcgrad.op``) to a rule.
          at: the places where they hold, a selector made with :func:`funcgrad.at`; None for all.

        Raises:
          errors.NotAnOpError: a key is neither a primitive nor a function.
          errors.NotARuleError: `replacements` is not a mapping, or a value is not a rule.
          errors.SelectorError: `at` is no selector.

        Example:
          >>> import jax, jax.numpy as jnp, funcgrad
          >>> def twice_vjp(ct, x, *, original, **kwargs):
          ...     return 2 * original(ct, x, **kwargs)
          >>> def model(x):
          ...     with jax.named_scope("first"):
          ...         y = jnp.sin(x)
          ...     return jnp.sin(y)
          >>> rules = funcgrad.DEFAULT.override({jax.lax.sin_p: twice_vjp}, at=funcgrad.at("first"))
          >>> print(funcgrad.grad(model, rules=rules)(0.0))
          2.0
        """
        if not isinstance(replacements, Mapping):
            raise errors.NotARuleError(
                f"rules.override was given {replacements!r}, a {type(replacements).__name__}. It takes "
                "a mapping from op to rule, such as {jax.lax.sin_p: sin_vjp}."
            )
        if at is not None:
            return self._overridden_at(replacements, at)
        table = dict(self._table)
        for op, rule in replacements.items():
            key = op_key(op)
            old = table.pop(
                key, None
            )  # so that the new key, which knows its function, takes its place
            table[key] = _replacement(key, rule, old)
        keys = _numbered([op_key(op) for op in replacements], self._seen)
        entries = (replace(entry, ops=(op,)) for op, entry in table.items())
        kept = [op for op in self.overridden if op not in keys]
        caught = [op for op in self.caught if op not in keys]
        caught += [op for op in keys if isinstance(op, FunctionId)]
        placed = [one for one in self.placed if one.op not in keys]
        return self._changed(entries, overridden=(*kept, *keys), caught=caught, placed=placed)

    def _overridden_at(self, replacements: Mapping[Any, Any], at: Any) -> Rules:
        if not hasattr(at, "functions"):  # selectors stand above this module
            raise errors.SelectorError(
                f"rules.override was given at={at!r}, a {type(at).__name__}. It takes a selector, such "
                'as funcgrad.at("layers_1").'
            )
        placed = list(self.placed)
        for op, rule in replacements.items():
            (key,) = _numbered([op_key(op)], [*self._seen, *_functions(placed)])
            old = self.find(key)
            entry = _replacement(key, rule, old, bind=isinstance(key, FunctionId))
            if not isinstance(entry, Rule):
                raise errors.NotARuleError(
                    f"rules.override was given {rule!r} for `{key}` with at={at}. An override at some "
                    "places is a rule: a function (ct, *operands, out, **params)."
                )
            placed.append(Placed(key, entry, at))
        return self._changed(placed=placed)

    @property
    def _seen(self) -> list[FunctionId]:
        """The functions with an override, for telling apart those of one definition."""
        return [*self.caught, *_functions(self.placed)]

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
        keys = _numbered([op for entry in entries for op in entry.ops], self._seen)
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

    def with_call(self, call: CallRule) -> Rules:
        """Return the rules in which calls of some primitives are differentiated otherwise."""
        return _with_call(self, call)

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
            raise KeyError(
                f"`{key}` has no rule of its own. funcgrad.inspect.coverage(f, *args) lists the rules "
                "of the operations of f."
            )
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
def _with_call(rules: Rules, call: CallRule) -> Rules:
    others = [entry for entry in rules._unique() if entry.ops[0] not in call.ops]
    return rules._changed([*others, call])


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


def _functions(placed: Sequence[Placed]) -> list[FunctionId]:
    return [one.op for one in placed if isinstance(one.op, FunctionId)]


def _replacement(key: Op, rule: Any, old: Entry | None, bind: bool = True) -> Entry:
    """An override keeps the op's broadcasting; it is given summed cotangents unless it asks.

    It is given the rule that it replaces, if it takes that; without `bind`, that is left for later.
    """
    if isinstance(rule, Rule):
        entry = replace(rule, ops=(key,))
        return with_original(entry, old, key) if bind else entry
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
    entry = Rule(rule, (key,), broadcasts=broadcasts)
    return with_original(entry, old, key) if bind else entry


def no_gradient_vjp(ct: Any, *operands: Any, **_: Any) -> tuple[None, ...]:
    """The rule of an op that was declared to have none."""
    return (None,) * len(operands)


def _entries_of(module: ModuleType) -> Iterator[Entry]:
    for value in vars(module).values():
        candidates = value if isinstance(value, tuple) else (value,)
        yield from (c for c in candidates if isinstance(c, Entry))
