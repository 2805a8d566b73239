"""What another process finds by its name: functions, primitives, and rules made of them."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from funcgrad import errors
from funcgrad.default import DEFAULT
from funcgrad.entries import GivenOriginal
from funcgrad.keys import FunctionId, Op, underlying
from funcgrad.registry import Rule, Rules

PLAIN = (bool, int, float, complex, str, bytes, type(None))


@dataclass(frozen=True)
class Named:
    """Where a function or a primitive is: its module, and its name there."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"

    def found(self) -> Any:
        """What is there now.

        Raises:
          errors.PickleError: there is nothing.
        """
        try:
            found: Any = sys.modules.get(self.module) or importlib.import_module(self.module)
            for part in self.name.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError) as problem:
            raise errors.PickleError(
                f"A saved pullback asks for `{self}`, and there is none: {problem}. Load it where this "
                "name can be imported, as it could when the pullback was saved."
            ) from problem
        return found


@dataclass(frozen=True)
class Partial:
    """A function with some arguments fixed, which are no arrays: a ``functools.partial``."""

    function: Named
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]

    def found(self) -> Any:
        return functools.partial(self.function.found(), *self.args, **dict(self.kwargs))


def named(fun: Any, what: str) -> Named | Partial:
    """Where another process finds a function.

    Args:
      fun: the function.
      what: what it is, for the message: ``the function``.

    Raises:
      errors.PickleError: it has no name there.
    """
    if isinstance(fun, functools.partial):
        if not _is_plain((fun.args, tuple(fun.keywords.values()))):
            raise errors.PickleError(
                f"{what}, a functools.partial of {_shown(fun.func)}, fixes more than numbers and "
                "strings. Pass the others as arguments, or define a function at the top of a module."
            )
        function = named(fun.func, what)
        if isinstance(function, Named):
            return Partial(function, fun.args, tuple(sorted(fun.keywords.items())))
    module, name = getattr(fun, "__module__", None), getattr(fun, "__qualname__", None)
    if module and name and _is_there(fun, module, name):
        return Named(module, name)
    raise errors.PickleError(
        f"{what}, {_shown(fun)}, cannot be found by its name. Define it with `def` at the top of a "
        "module, and pass as arguments what it closes over."
    )


def _shown(fun: Any) -> str:
    name = getattr(fun, "__qualname__", None)
    return f"a {type(fun).__name__}" if name is None else f"`{fun.__module__}.{name}`"


def _is_plain(x: Any) -> bool:
    return isinstance(x, PLAIN) or (isinstance(x, tuple) and all(map(_is_plain, x)))


def _is_there(fun: Any, module: str, name: str) -> bool:
    """Whether this name leads to the function, to a wrapper that JAX sees through, or to its rule."""
    if "<" in name:  # in another function, or a lambda
        return False
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if isinstance(found, Rule):
        found = own_fn(found)
    return found is not None and (found is fun or underlying(found)[0] is fun)


# --- rules


@dataclass(frozen=True)
class NamedRules:
    """Rules, as what was changed of ``DEFAULT``.

    Attributes:
      overridden: ops and their rules.
      placed: ops, their rules at some places, and the selectors of these.
      strict: there is no fallback for primitives of third-party packages.
    """

    overridden: tuple[tuple[Any, NamedRule], ...] = ()
    placed: tuple[tuple[Any, NamedRule, Any], ...] = ()
    strict: bool = False

    def found(self) -> Rules:
        """The rules, made again."""
        rules = DEFAULT
        if self.overridden:
            rules = rules.override({op.found(): rule.found() for op, rule in self.overridden})
        for op, rule, selector in self.placed:
            rules = rules.override({op.found(): rule.found()}, at=selector)
        return rules.strict() if self.strict else rules


@dataclass(frozen=True)
class NamedRule:
    """A rule whose function is found by name, with what was declared of the rule."""

    fn: Named | Partial
    declared: tuple[tuple[str, Any], ...]

    def found(self) -> Rule:
        fn = self.fn.found()
        return Rule(own_fn(fn) if isinstance(fn, Rule) else fn, (), **dict(self.declared))


def named_rules(rules: Rules) -> NamedRules:
    """How another process makes these rules.

    Raises:
      errors.PickleError: it cannot: a rule or an op has no name, or a tool observes them.
    """
    found = NamedRules(
        tuple((_named_op(op), _named_rule(rules.find(op))) for op in rules.overridden),
        tuple((_named_op(p.op), _named_rule(p.rule), p.selector) for p in rules.placed),
        rules == rules.strict(),
    )
    if found.found() != rules:
        raise errors.PickleError(
            "its rules cannot be made again by DEFAULT.override with the same rules, once for each op. "
            "Make them so; rules that were added by extend, or that a tool observes, cannot be saved."
        )
    return found


def _named_op(op: Op) -> Named | Partial:
    if not isinstance(op, FunctionId):
        return _named_primitive(op)
    function: Callable[..., Any] | None = op.function
    if function is not None and op.fixed is not None:
        function = functools.partial(function, *op.fixed.args, **dict(op.fixed.kwargs))
    return named(function, "the overridden function")


def _named_primitive(primitive: Any) -> Named:
    for module in ("jax.lax", *sorted(sys.modules)):
        for name, value in list(vars(sys.modules[module] or object).items()):
            if value is primitive:
                return Named(module, name)
    raise errors.PickleError(f"the primitive `{primitive}`, whose rule is overridden, has no name.")


def _named_rule(entry: Any) -> NamedRule:
    if not isinstance(entry, Rule):
        raise errors.PickleError(f"its rules have an entry that is no rule: {entry!r}.")
    fields = ("broadcasts", "late", "elementwise", "optional", "forward", "saves")
    declared = {name: getattr(entry, name) for name in fields}
    return NamedRule(named(own_fn(entry), "the rule"), tuple(declared.items()))


def own_fn(rule: Rule) -> Callable[..., Any]:
    """The user's function of a rule, which may have been given the original's."""
    return rule.fn.fn if isinstance(rule.fn, GivenOriginal) else rule.fn
