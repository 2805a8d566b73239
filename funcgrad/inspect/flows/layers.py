"""Which values of a traced function are the rows of its flow, and what each row is called."""

from __future__ import annotations

import itertools
import linecache
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from funcgrad import _jax, errors
from funcgrad._jax import Var
from funcgrad.catching import CALL
from funcgrad.places.asked import sites_meant
from funcgrad.places.program import Block, Place, is_entered, is_vmapped_loop
from funcgrad.places.selectors import Selector, Site

ROWS = 100
"""At most so many rows are chosen without being asked for."""
STEPS = 64
"""Of a longer scan, so many steps are rows, evenly spaced."""


@dataclass(frozen=True, eq=False)
class Group:
    """One site of the program, which is one row for each step of the scans around it.

    Attributes:
      name: what its rows are called.
      where: the line, in words.
      site: the values; None for parameters that belong to no layer.
      position: where it ends in the order of the program.
    """

    name: str
    where: str
    site: Site | None
    position: float

    @property
    def within(self) -> tuple[float, int]:
        """By which groups are sorted: where they end; of those that end together, the inner first."""
        return self.position, 0 if self.site is None else len(self.site.places)

    @property
    def sizes(self) -> list[int]:
        """How many elements each of its values has, in one step."""
        return [] if self.site is None else [math.prod(shape_of(v)) for v in self.site.variables]

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths of the scans around it."""
        scans = [] if self.site is None else scans_around(self.site.block)
        return tuple(scan.params["length"] for scan in scans)

    @property
    def steps(self) -> list[int]:
        """The numbers of the steps that are rows, the axes of all scans as one."""
        count = math.prod(self.lengths)
        return sorted({round(i * (count - 1) / max(STEPS - 1, 1)) for i in range(STEPS)})[:count]

    @property
    def rows(self) -> list[str]:
        """The names of its rows."""
        return [self.name + "".join(f"[{i}]" for i in step) for step in self._by_scan]

    @property
    def order(self) -> list[tuple[float, ...]]:
        """By which its rows are sorted among all: the steps of a scan one after the other."""
        scans = [] if self.site is None else scans_around(self.site.block)
        signs = [-1 if scan.params["reverse"] else 1 for scan in scans]

        def key(step: tuple[int, ...]) -> tuple[float, ...]:
            of_scans = zip(scans, signs, step, strict=True)
            steps = [x for scan, sign, i in of_scans for x in (scan.position, sign * i)]
            return (*steps, *self.within)

        return [key(step) for step in self._by_scan]

    @property
    def _by_scan(self) -> list[tuple[int, ...]]:
        """The rows' steps, by the numbers that they have in each scan."""
        every = [*itertools.product(*map(range, self.lengths))]
        return [every[step] for step in self.steps]


@dataclass(frozen=True)
class Chosen:
    """The layers of a function.

    Attributes:
      groups: the layers, in the order of the program.
      how: in words, how they were chosen.
      left_out: those that are no rows, since there would be too many.
    """

    groups: list[Group]
    how: str
    left_out: frozenset[Group] = frozenset()


def selectors_of(places: Any, function: str) -> Mapping[str, Selector]:
    """The selectors that a user gave, by the user's names; one without a name has the empty name.

    Raises:
      errors.SelectorError: these are no selectors.
    """
    named = {"": places} if isinstance(places, Selector) else places
    if isinstance(named, Mapping) and all(isinstance(one, Selector) for one in named.values()):
        return named
    raise errors.SelectorError(
        f"The flow of `{function}` was asked for places={places!r}. Its rows are those of a selector, "
        'or of a mapping from a name to a selector: places={"h": funcgrad.at("encoder")}.'
    )


def chosen(
    program: Block,
    places: Mapping[str, Selector] | None,
    depth: int | None,
    function: str,
) -> Chosen:
    """The sites that are rows: those of the user's selectors, or name scopes, or lines.

    Raises:
      errors.SelectorError: a selector means no place of the function.
      errors.EditError: a place is inside a call that is not entered.
    """
    if places is not None:
        groups = [
            _group(name or _short(site.label), replace(site, variables=variables))
            for name, selector in places.items()
            for site in sites_meant(selector, program, function, "The flow")
            if (variables := tuple(v for v in site.variables if is_measured(v.aval)))
        ]
        return Chosen(in_order(groups), "rows: what leaves the places that were given")
    deepest = max((len(named_scopes(place)) for place in program.walk()), default=0)
    if not deepest:
        groups = by_line(program)
        left_out, how = _skipped(groups)
        how = f"rows: what leaves each line of code{how}, as there are no name scopes"
        return Chosen(groups, how, left_out)
    reached, groups = depth or 1, []
    for reached in range(deepest, 0, -1) if depth is None else [depth]:
        groups = by_scope(program, reached)
        if sum(len(group.steps) for group in groups) <= ROWS:
            break
    left_out, how = _skipped(groups) if depth is None else (frozenset(), "")
    of = "" if reached >= deepest else f" of {deepest} (depth= shows more)"
    how = f"rows: what leaves each name scope{how}, to depth {min(reached, deepest)}{of}"
    return Chosen(groups, how, left_out)


def scans_around(block: Block) -> list[Place]:
    """The scans around a block, from the outside in."""
    if block.call is None:
        return []
    around = scans_around(block.call.block)
    return [*around, block.call] if block.kind == "scan" else around


def _skipped(groups: Sequence[Group]) -> tuple[frozenset[Group], str]:
    """The groups that are left out so that evenly spaced ones are few enough, and that in words."""
    every = math.ceil(sum(len(group.steps) for group in groups) / ROWS)
    if every <= 1:
        return frozenset(), ""
    left_out = frozenset(group for i, group in enumerate(groups) if i % every)
    return left_out, f" (one in {every} of {len(groups)})"


# --- by name scope


def named_scopes(place: Place) -> list[tuple[int, str]]:
    """The name scopes around an operation, each with the number of the object that it is."""
    return [(id(s), s.name) for s in place.scopes if not s.name.startswith(CALL)]


def by_scope(program: Block, depth: int) -> list[Group]:
    """Each time that a name scope is entered, down to a depth.

    What is inside a custom derivative cannot be tapped: its call is the row of all scopes there.
    """
    regions: dict[Any, tuple[Block, str, list[Place]]] = {}
    for place in program.walk():
        scopes, sealed = named_scopes(place), place.sealed
        if sealed is not None:
            if len(named_scopes(sealed)) < min(len(scopes), depth):
                name = _in_words(sealed)
                around = [named for _, named in named_scopes(sealed)]
                regions[sealed] = (sealed.block, "/".join([*around, name]), [sealed])
            continue
        for k in range(1, min(depth, len(scopes)) + 1):
            key = (home := _home(place, k), *(scope for scope, _ in scopes[:k]))
            name = "/".join(name for _, name in scopes[:k])
            regions.setdefault(key, (home, name, []))[2].append(place)
    return _groups(regions.values())


def _home(place: Place, depth: int) -> Block:
    """The outermost block in which the name scope stands that is around a place at a depth."""
    while (call := place.block.call) is not None and len(named_scopes(call)) >= depth:
        place = call
    return place.block


def _in_words(call: Place) -> str:
    """A call that is not entered: ``relu (custom derivative)``."""
    if call.function is None or call.op not in _jax.FUNCTIONS:
        return "vmapped while" if is_vmapped_loop(call.equation) else str(call.op)
    return f"{call.function.split(' at ')[0]} (custom derivative)"


# --- by line


def by_line(program: Block) -> list[Group]:
    """Stretches of operations that come from one line; a line that is begun again is another row."""
    regions = [
        (block, f"{_base(line[0])}:{line[1]}", places)
        for block, line, places in _stretches(program)
    ]
    groups = _groups(regions)
    arrays = [group for group in groups if max(group.sizes) > 1]
    return arrays or groups


def _stretches(block: Block) -> Iterator[tuple[Block, tuple[str, int], list[Place]]]:
    current, begins = None, None
    for i, place in enumerate(block.places):
        line = line_of(place)
        inner = block.inner.get(i, []) if is_entered(place.equation) else []
        inside = [p for b in inner for p in b.walk()]
        if any(line_of(p) not in (None, line) for p in inside):
            yield from () if current is None else [current]
            current = None
            for b in inner:
                yield from _stretches(b)
            continue
        if line is None:
            continue
        comes_from = (place.op, _jax.user_positions(place.equation))
        if current is None or current[1] != line or comes_from == begins:
            yield from () if current is None else [current]
            current, begins = (block, line, []), comes_from
        current[2].extend([place, *inside])
    yield from () if current is None else [current]


def line_of(place: Place) -> tuple[str, int] | None:
    """The user's innermost line outside installed packages, or else inside one."""
    lines = [(file, line) for file, line, _ in place.lines]
    own = (line for line in lines if "site-packages" not in line[0])
    return next(own, lines[0] if lines else None)


# --- what both have in common


def _groups(regions: Any) -> list[Group]:
    """The rows of regions that a floating-point value leaves; of two that are the same, the inner."""
    found: dict[Any, Group] = {}
    for block, name, places in regions:
        own = [place for place in places if place.block is block]
        variables = tuple(v for v in block.leaving(own) if is_measured(v.aval))
        if variables:
            same = tuple(_computed(block, v) for v in variables)
            found[same] = _group(name, Site(tuple(places), block, variables, name))
    return in_order(found.values())


def _group(name: str, site: Site) -> Group:
    file, line = next((line for p in site.places if (line := line_of(p))), ("", 0))
    source = linecache.getline(file, line).strip()
    where = f"{_base(file)}:{line} {source}" if file else ""
    last = " (last step)" if _in_while(site.block) else ""
    return Group(name + last, where, site, max(place.position for place in site.places))


def _computed(block: Block, v: Var) -> tuple[Block, Var]:
    """The value that a variable is, inside the call that returns it if that is no loop and no branch."""
    call = block.makers.get(v)
    inner = [] if call is None else block.inner_of(call)
    if call is None or len(inner) != 1 or inner[0].kind not in ("jit", "checkpoint", "call"):
        return block, v
    returned = inner[0].jaxpr.outvars[call.equation.outvars.index(v)]
    return (block, v) if _jax.is_literal(returned) else _computed(inner[0], returned)


def _base(file: str) -> str:
    return file.rsplit("/", 1)[-1]


def _short(label: str) -> str:
    """A site's label without its line: ``encoder/tanh``."""
    return label.split(" (")[0].replace(": ", "/")


def _in_while(block: Block) -> bool:
    return block.call is not None and (block.kind == "while" or _in_while(block.call.block))


def is_measured(aval: Any) -> bool:
    """Whether numbers of values of a type are taken: arrays of floating-point numbers."""
    return _jax.has_numbers(aval) and aval.size > 0


def shape_of(v: Var) -> tuple[int, ...]:
    """The shape of an array."""
    return getattr(v.aval, "shape", ())


def in_order(groups: Iterable[Group]) -> list[Group]:
    """The groups in the order of the program."""
    return sorted(groups, key=lambda group: group.within)


def numbered(groups: Sequence[Group]) -> list[Group]:
    """The groups, in which names that occur more than once have a number: ``Linear#1``."""
    often = Counter(group.name for group in groups)
    seen: dict[str, int] = defaultdict(int)
    renamed = []
    for group in groups:
        if often[group.name] > 1:
            seen[group.name] += 1
            group = replace(group, name=f"{group.name}#{seen[group.name]}")
        renamed.append(group)
    return renamed
