"""Single statements of random programs: a word, and variables that fit it."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import numpy as np

from funcgrad.testing.fuzz.programs import NAMES, Statement, Type
from funcgrad.testing.fuzz.tastes import Taste
from funcgrad.testing.fuzz.vocabulary import CONSTANTS, Word


@dataclass(frozen=True)
class Place:
    """Where a block is, as far as it limits what can be in it."""

    depth: int
    batched: bool = False
    derived: bool = False  # its derivative is taken by jax.vjp or jax.jvp
    in_dual: bool = False  # in a custom_jvp function
    within: bool = False  # in a checkpoint or a custom rule


@dataclass
class Expressions:
    """Draws variables, and statements that read them."""

    random: Any
    taste: Taste
    count: int = 0
    order: int = 2
    batched: bool = True
    marks: set[str] = field(default_factory=set)

    def dtype(self) -> str:
        if self.chance(self.taste.narrow):
            return "float32"
        return "complex128" if self.chance(self.taste.complexes) else "float64"

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def name(self, letter: str = "v") -> str:
        self.count += 1
        return f"{letter}{self.count}"

    def some(self, scope: dict[str, Type], number: int, fits: Any) -> list[str]:
        """Variables that fit, recent ones rather; one at least where there is one."""
        known = [name for name, kind in reversed(scope.items()) if fits(kind)]
        chosen: list[str] = []
        for _ in range(number):
            left = [n for n in known if n not in chosen]
            if left:
                chosen.append(self.random.choice(left[:2] if self.chance(0.75) else left))
        return chosen

    def one(self, scope: dict[str, Type], fits: Any) -> str | None:
        return next(iter(self.some(scope, 1, fits)), None)

    def twin(self, name: str, scope: dict[str, Type]) -> str:
        """Any variable of the same type."""
        return self.random.choice([n for n, kind in scope.items() if kind == scope[name]])

    def expression(self, scope: dict[str, Type], place: Place) -> list[Statement]:
        """One statement of a word of the table; none if ten words did not fit."""
        weights = [w.weight for w in self.taste.words]
        for word in self.random.choices(self.taste.words, weights, k=10):
            if (place.batched and not word.batched) or (place.within and word.bare):
                continue
            made = self.apply(word, scope)
            if made is not None:
                self.order = min(self.order, word.order)
                self.batched &= word.batched
                if not word.smooth:
                    self.marks.add("not smooth by nature")
                return [made]
        return []

    def apply(self, word: Word, scope: dict[str, Type]) -> Statement | None:
        """A statement of `word`, or None if no variables in `scope` fit it."""
        reads: list[str] = []
        for hole in word.holes:
            first = scope[reads[0]] if reads else None
            found = self.one(scope, functools.partial(suits, hole, first))
            if found is None:
                return None
            reads.append(found)
        kinds = tuple(scope[name] for name in reads)
        if word.double and any(kind.dtype not in ("float64", "complex128") for kind in kinds):
            return None
        text = word.text
        for name, draw in CONSTANTS.items():
            if f"<{name}>" in text:
                text = text.replace(f"<{name}>", draw(self.random, kinds[0]))
        kind = type_of(text, kinds, self.taste.ranks)
        if kind is None or not self.is_small(kind):
            return None
        return Statement((self.name(),), (kind,), text, tuple(reads))

    def is_small(self, kind: Type) -> bool:
        size = math.prod(kind.shape)
        return (0 < size <= self.taste.values and len(kind.shape) <= 4) or self.chance(0.02)

    def of_type(self, kind: Type, scope: dict[str, Type], written: list[Statement]) -> str:
        """A variable of this type: there already, or made of another."""
        found = self.one(scope, lambda k: k == kind)
        if found is not None and self.chance(0.8):
            return found
        if kind.is_inexact:
            source = self.one(scope, lambda k: k.is_float) or self.one(
                scope, lambda k: k.is_inexact
            )
            text = f"like({{0}}.real, *{kind.shape}).astype('{kind.dtype}')"
        else:
            source = found or next(iter(scope))
            text = f"jnp.full({kind.shape}, jnp.sum({{0}}.real) > 0).astype('{kind.dtype}')"
        assert source is not None
        name = self.name()
        written.append(Statement((name,), (kind,), text, (source,)))
        scope[name] = kind
        return name


def suits(hole: str, first: Type | None, kind: Type) -> bool:
    """Does a variable of this type fit the hole, given the first operand's type?"""
    if hole in "fvm":
        return kind.is_float and len(kind.shape) >= "fvm".index(hole)
    if hole == "z":
        return kind.dtype.startswith("complex")
    if hole == "i":
        return kind.dtype.startswith("int")
    assert first is not None
    if hole == "s":
        return kind == first
    if hole == "b":
        return kind == Type(first.shape, "bool")
    return kind.dtype == first.dtype and broadcasts(kind.shape, first.shape)


def broadcasts(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    pairs = zip(reversed(a), reversed(b), strict=False)
    return all(m == n or 1 in (m, n) for m, n in pairs)


@functools.lru_cache(maxsize=20_000)
def type_of(
    text: str, kinds: tuple[Type, ...], ranks: Literal["allow", "raise"] = "allow"
) -> Type | None:
    """The type of an expression, or None if it is ill typed under a ``jax.numpy_rank_promotion``."""
    names = [f"x{i}" for i in range(len(kinds))]
    function = eval(f"lambda {', '.join(names)}: {text.format(*names)}", dict(NAMES))
    arguments = [jax.ShapeDtypeStruct(k.shape, np.dtype(k.dtype)) for k in kinds]
    try:
        with jax.numpy_rank_promotion(ranks):
            out = jax.eval_shape(function, *arguments)
    except (TypeError, ValueError, IndexError):
        return None
    if not hasattr(out, "shape") or not np.issubdtype(out.dtype, np.generic):
        return None
    return Type(tuple(out.shape), str(out.dtype))
