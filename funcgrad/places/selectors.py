"""Selectors: which places of a traced function are meant.

A selector of a name scope or of a function means *regions*: each time that the scope is entered or the
function called is one, and its value is what leaves the region. Any other selector means single
operations, and their values are the operations' results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from funcgrad import _jax, errors
from funcgrad._jax import Var
from funcgrad.places.program import Block, Place
from funcgrad.places.taps import Measure


@dataclass(frozen=True, eq=False)
class Site:
    """Values that a selector means, and where they are computed.

    Attributes:
      places: the operations of the region, or the one operation.
      block: the jaxpr in which the values are computed.
      variables: the values.
      label: where the site is, in words.
      ordered: the values that enter, if a selector has an order for them.
    """

    places: tuple[Place, ...]
    block: Block
    variables: tuple[Var, ...]
    label: str
    ordered: tuple[Var, ...] = ()

    @property
    def own(self) -> list[Place]:
        """The operations of the region that stand in the block itself."""
        return [place for place in self.places if place.block is self.block]

    @property
    def entering(self) -> tuple[Var, ...]:
        """The values that the operations read and do not compute."""
        return self.ordered or self.block.entering(self.own)

    @property
    def position(self) -> int:
        """The number of the operation after which all values are known, or that reads them."""
        made = [p for p in self.places if any(v in self.variables for v in p.equation.outvars)]
        return (made or self.places)[-1].position

    def __str__(self) -> str:
        types = ", ".join(v.aval.str_short() for v in self.variables)
        return f"{self.label} -> {types}"


class Selector:
    """A choice of places in a function; made with :func:`funcgrad.at`.

    ``a & b`` means places that both mean, ``a | b`` those that either means, ``~a`` all others, ``a[i]``
    one of them by its number in the order of the program, ``a[i:j]`` some of them.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> sines = funcgrad.at(op="sin")
      >>> twice = lambda x: jnp.sin(jnp.sin(x))
      >>> gradient, tapped = funcgrad.grad(twice, taps={"all": sines, "last": sines[-1]})(0.0)
      >>> print(len(tapped["all"].values), len(tapped["last"].values))
      2 1
    """

    measure: Measure | None = None
    """What a tap returns of each value and cotangent, instead of all of it."""
    optional = False
    """Whether a tap may mean no place."""

    def places(self, program: Block) -> list[Place]:
        """The operations that are meant, in the order of the program."""
        raise NotImplementedError

    def sites(self, program: Block) -> list[Site]:
        """The values that are meant, in the order of the program."""
        return [site for place in self.places(program) for site in _site_of(place)]

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        """The Python functions whose calls must be seen in the trace."""
        return ()

    def __and__(self, other: Selector) -> Selector:
        return Both(self, _selector(other))

    def __or__(self, other: Selector) -> Selector:
        return Either(self, _selector(other))

    def __invert__(self) -> Selector:
        return Not(self)

    def __getitem__(self, index: int | slice) -> Selector:
        if isinstance(index, slice):
            return Numbered(self, None, (index.start, index.stop, index.step))
        return Numbered(self, index)

    __iter__ = None  # else Python would iterate by a[0], a[1], ... without an end

    def value(self, change: Callable[..., Any], *operands: Any) -> Edit:
        """Change the values that are meant, on the way forward.

        Args:
          change: a function of the value, and of `operands` if there are any, that returns another
            value of the same shape and dtype. The derivative goes through `change`.
          *operands: arrays for it, each with the value's leading axes for the steps of the scans around
            it, so that each step has its own; another run's ``Tapped.value`` has that form.

        Example:
          >>> import jax.numpy as jnp, funcgrad
          >>> edit = [funcgrad.at(op="exp").value(lambda y: 2 * y)]
          >>> print(funcgrad.grad(jnp.exp, edit=edit)(0.0))
          2.0
        """
        return Edit(self, change, None, operands)

    def cotangent(self, change: Callable[..., Any]) -> Edit:
        """Change the cotangents of the values that are meant, on the way back.

        Args:
          change: a function of the cotangent, and of the value if it takes two arguments, that returns
            another cotangent of the same shape and dtype.

        Example:
          >>> import jax.numpy as jnp, funcgrad
          >>> edit = [funcgrad.at(op="exp").cotangent(lambda ct: jnp.clip(ct, -1.0, 1.0))]
          >>> print(funcgrad.grad(lambda x: 5 * jnp.exp(x), edit=edit)(0.0))
          1.0
        """
        return Edit(self, None, change)

    def measured(self, measure: Measure, *, optional: bool = False) -> Measured:
        """Tap some numbers of the values that are meant, and of their cotangents, not all of them.

        Args:
          measure: a function from an array to one floating-point array. It runs where the value is, in
            each step of a scan, so that the value itself does not leave the program.
          optional: return empty lists where the selector means no place.

        Returns:
          A selector for `taps`. ``Tapped.values`` and ``Tapped.cotangents`` are what `measure` returns;
          a measured cotangent is zeros where no cotangent arrived.

        Example:
          >>> import jax.numpy as jnp, funcgrad
          >>> taps = {"e": funcgrad.at(op="exp").measured(jnp.max)}
          >>> f = lambda x: jnp.sum(3 * jnp.exp(x))
          >>> gradient, tapped = funcgrad.grad(f, taps=taps)(jnp.zeros(5))
          >>> print(tapped["e"].value, tapped["e"].cotangent)
          1.0 3.0
        """
        return Measured(self, measure, optional)

    def replaced(self, by: Callable[..., Any], *, optional: bool = False) -> Edit:
        """Compute what is meant in another way, and differentiate that.

        Args:
          by: a function ``(original, *operands)``: `operands` are the arrays that enter the scope, the
            call or the operation, in the order in which they are read, and ``original(*operands)``
            computes what leaves it: one array, or a list. `by` returns values of the same types. The
            name of `original` says where it is.
          optional: say nothing where the selector means no place.

        Example:
          >>> import jax, jax.numpy as jnp, funcgrad
          >>> def straight_through(original, x):
          ...     return x + jax.lax.stop_gradient(original(x) - x)
          >>> edit = [funcgrad.at(op="round").replaced(straight_through)]
          >>> print(funcgrad.value_and_grad(jnp.round, edit=edit)(1.7))
          (Array(2., dtype=float32, weak_type=True), Array(1., dtype=float32, weak_type=True))
        """
        return Edit(self, None, None, by=by, optional=optional)


@dataclass(frozen=True, eq=False)
class Edit:
    """A change of values or of cotangents at the places of a selector, or another way to compute.

    Made by :meth:`Selector.value`, :meth:`Selector.cotangent` and :meth:`Selector.replaced`.

    Attributes:
      selector: the places.
      of_value: from a value to another of its shape and dtype; None where values are left alone.
      of_cotangent: the same of a cotangent.
      operands: further arrays that the change reads.
      by: what is called in the place of the operation or the function; None for a change.
      optional: nothing is said where the selector means no place.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> edit = funcgrad.at(op="sin").cotangent(lambda ct: 10 * ct)
      >>> print(funcgrad.grad(lambda x: jnp.sin(x), edit=edit)(0.0))
      10.0
    """

    selector: Selector
    of_value: Callable[..., Any] | None
    of_cotangent: Callable[..., Any] | None
    operands: tuple[Any, ...] = ()
    by: Callable[..., Any] | None = None
    optional: bool = False


# --- single operations


class OfPlaces(Selector):
    """A condition on single operations."""

    def holds(self, place: Place) -> bool:
        """Whether a place is meant."""
        raise NotImplementedError

    def places(self, program: Block) -> list[Place]:
        return [place for place in program.walk() if self.holds(place)]


def _site_of(place: Place) -> list[Site]:
    """The results of one operation that something reads: the floating-point ones if there are any."""
    read = tuple(v for v in place.equation.outvars if not _jax.is_dropped(v))
    variables = tuple(v for v in read if _jax.is_inexact(v.aval)) or read
    return [Site((place,), place.block, variables, _label(place))] if variables else []


def _label(place: Place) -> str:
    scope = f"{place.scope}: " if place.scope else ""
    return f"{scope}{place.op}{place.in_brackets}"


# --- regions

Key = tuple[Any, ...]


class Regions(Selector):
    """Stretches of the program, each with the values that leave it."""

    def key(self, place: Place) -> tuple[Key, str] | None:
        """Which region an operation is in by itself, and its name; the operations around it apart."""
        raise NotImplementedError

    def region_of(self, place: Place) -> tuple[Block, Key, str] | None:
        """The outermost region that an operation is in, and the block that the region stands in."""
        for around in (*place.calls, place):
            found = self.key(around)
            if found is not None:
                return around.block, *found
        return None

    def places(self, program: Block) -> list[Place]:
        return [place for place in program.walk() if self.region_of(place) is not None]

    def sites(self, program: Block) -> list[Site]:
        regions: dict[Any, tuple[Block, str, list[Place]]] = {}
        for place in program.walk():
            found = self.region_of(place)
            if found is not None:
                block, key, name = found
                regions.setdefault((block, key), (block, name, []))[2].append(place)
        sites = []
        for block, name, places in regions.values():
            own = [place for place in places if place.block is block]
            variables = block.leaving(own)
            if variables:
                sites.append(Site(tuple(places), block, variables, name))
        return sorted(sites, key=lambda site: site.position)


# --- combinations


@dataclass(frozen=True)
class Pair(Selector):
    """Two selectors that are combined."""

    left: Selector
    right: Selector

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        return (*self.left.functions, *self.right.functions)


class Both(Pair):
    """Places that two selectors mean."""

    def places(self, program: Block) -> list[Place]:
        right = set(self.right.places(program))
        return [place for place in self.left.places(program) if place in right]

    def sites(self, program: Block) -> list[Site]:
        """The sites of each that lie within the other's; of regions, the inner ones."""
        within = [
            site
            for one, other in ((self.left, self.right), (self.right, self.left))
            if not (isinstance(one, Regions) and not isinstance(other, Regions))
            for site in _inside(one.sites(program), set(other.places(program)))
        ]
        return _in_order(within)

    def __str__(self) -> str:
        return f"({self.left} & {self.right})"


class Either(Pair):
    """Places that one of two selectors means."""

    def places(self, program: Block) -> list[Place]:
        both = {*self.left.places(program), *self.right.places(program)}
        return sorted(both, key=lambda place: place.position)

    def sites(self, program: Block) -> list[Site]:
        return _in_order([*self.left.sites(program), *self.right.sites(program)])

    def __str__(self) -> str:
        return f"({self.left} | {self.right})"


@dataclass(frozen=True)
class Not(Selector):
    """All operations that a selector does not mean."""

    other: Selector

    def places(self, program: Block) -> list[Place]:
        meant = set(self.other.places(program))
        return [place for place in program.walk() if place not in meant]

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        return self.other.functions

    def __str__(self) -> str:
        return f"~{self.other}"


@dataclass(frozen=True)
class Numbered(Selector):
    """One of the sites of a selector, by its number, or a slice of them."""

    among: Selector
    index: int | None
    part: tuple[int | None, int | None, int | None] = (None, None, None)

    def places(self, program: Block) -> list[Place]:
        return [place for site in self.sites(program) for place in site.places]

    def sites(self, program: Block) -> list[Site]:
        found = self.among.sites(program)
        if self.index is None:
            return found[slice(*self.part)]
        return found[self.index :][:1] if -len(found) <= self.index < len(found) else []

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        return self.among.functions

    def __str__(self) -> str:
        part = ":".join("" if x is None else str(x) for x in self.part[:2])
        return f"{self.among}[{part if self.index is None else self.index}]"


@dataclass(frozen=True)
class Measured(Selector):
    """What another selector means, of which a tap returns a measure."""

    of: Selector
    measure: Measure | None
    optional: bool = False

    def places(self, program: Block) -> list[Place]:
        return self.of.places(program)

    def sites(self, program: Block) -> list[Site]:
        return self.of.sites(program)

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        return self.of.functions

    def __str__(self) -> str:
        return str(self.of)


def _inside(sites: Sequence[Site], places: set[Place]) -> list[Site]:
    return [site for site in sites if places.issuperset(site.places)]


def _in_order(sites: Sequence[Site]) -> list[Site]:
    """Sites in the order of the program, each once."""
    once = {(site.block, site.variables): site for site in sites}
    return sorted(once.values(), key=lambda site: site.position)


def _selector(other: Any) -> Selector:
    if not isinstance(other, Selector):
        raise errors.SelectorError(
            f"A selector was combined with {other!r}, a {type(other).__name__}. Combine selectors made "
            "with funcgrad.at."
        )
    return other
