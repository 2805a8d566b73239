"""Which operations of a function are layers: found by what depends on the function's input.

A *layer* is a product of a value that depends on the input with one that does not (a weight), the bias
that is added to the product, and a batch normalisation in evaluation, which scales and shifts by
constants. A layer is one region, whatever library wrote it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jax import lax

from funcgrad import _jax, errors
from funcgrad._jax import Var
from funcgrad.calls.scan import ScanSettings
from funcgrad.places.program import Block, Place, is_entered
from funcgrad.places.selectors import OfPlaces, Selector, Site

PRODUCTS = frozenset({lax.dot_general_p, lax.conv_general_dilated_p})
"""The operations that multiply and sum."""

MOVES = frozenset(
    {
        lax.reshape_p,
        lax.transpose_p,
        lax.squeeze_p,
        lax.broadcast_in_dim_p,
        lax.convert_element_type_p,
    }
)
"""What may stand between a product and its bias."""

SHIFTS = frozenset({lax.add_p, lax.sub_p})
SCALES = frozenset({lax.mul_p, lax.div_p})
"""What a batch normalisation in evaluation does with constants."""


# --- what depends on the input

Dependent = Mapping[Block, Collection[Var]]
"""By block, the variables that depend on the function's input."""


def dependent(program: Block, constants: Collection[str] = ()) -> Dependent:
    """Which variables of a traced function depend on its arguments.

    Args:
      program: the function.
      constants: names of operations, besides ``stop_gradient``, whose results count as independent.
    """
    found: dict[Block, set[Var]] = {}
    _follow(program, program.jaxpr.invars, {"stop_gradient", *constants}, found)
    return found


def _follow(
    block: Block,
    given: Collection[Var],
    constants: Collection[str],
    found: dict[Block, set[Var]],
) -> None:
    """Add the variables of a block, and of those inside, that depend on the given ones."""
    known = found.setdefault(block, set())
    known.update(given)
    for i, place in enumerate(block.places):
        eqn = place.equation
        reads = [not _jax.is_literal(v) and v in known for v in eqn.invars]
        blocks = block.inner.get(i, [])
        if not any(reads) or place.op.name in constants:
            continue
        if blocks and is_entered(eqn):
            results = [_results(place, inner, reads, constants, found) for inner in blocks]
            known.update(v for v, *of in zip(eqn.outvars, *results, strict=True) if any(of))
        else:
            known.update(eqn.outvars)


def _results(
    call: Place,
    block: Block,
    reads: Sequence[bool],
    constants: Collection[str],
    found: dict[Block, set[Var]],
) -> list[bool]:
    """Which results of a call depend on the operands that do."""
    invars, outvars = block.jaxpr.invars, block.jaxpr.outvars
    of_block = reads[
        len(reads) - len(invars) :
    ]  # before them: a cond's index, a loop's test's constants
    given = {v for v, there in zip(invars, of_block, strict=True) if there}
    carries = _carries(call, invars)
    while True:
        _follow(block, given, constants, found)
        results = [not _jax.is_literal(v) and v in found[block] for v in outvars]
        carried = {v for v, there in zip(carries, results, strict=False) if there}
        if carried <= given:
            return results
        given |= carried


def _carries(call: Place, invars: Sequence[Var]) -> Sequence[Var]:
    """The variables of a loop's body that are its first results in the step before."""
    if call.op is lax.scan_p:
        settings = ScanSettings(*_jax.scan_settings(call.params))
        return invars[settings.num_consts :][: settings.num_carry]
    return invars[call.params["body_nconsts"] :] if call.op is lax.while_p else ()


# --- selectors


def _blocks(block: Block) -> Iterator[Block]:
    yield block
    for inner in block.inner.values():
        for one in inner:
            yield from _blocks(one)


@dataclass(frozen=True, eq=False)
class Layer(Site):
    """A layer.

    Attributes:
      product: the product, the first of the operations.
      scaled: whether constants multiply the result, as in a batch normalisation.
    """

    product: Place = field(kw_only=True)
    scaled: bool = field(kw_only=True)


@dataclass(frozen=True)
class Layers(Selector):
    """The layers of a function: products with a weight, each with what scales and shifts it.

    What enters a layer is the value that depends on the input, the weight, and the other constants.

    Attributes:
      chosen: the places in which layers are meant; None for all.
      without: places in which they are not.
    """

    chosen: Selector | None = None
    without: tuple[Selector, ...] = ()

    def sites(self, program: Block) -> list[Site]:
        sites = _layers(program)
        if self.chosen is not None:
            chosen = set(self.chosen.places(program))
            known, sites = sites, [site for site in sites if chosen.issuperset(site.places)]
            if not sites:
                listed = "".join(f"\n- {site}" for site in known) or " none."
                raise errors.SelectorError(
                    f"Layers were asked for in {self.chosen}, where there is none. There are:{listed}"
                )
        excluded = {place for selector in self.without for place in selector.places(program)}
        return [site for site in sites if excluded.isdisjoint(site.places)]

    def places(self, program: Block) -> list[Place]:
        return [place for site in self.sites(program) for place in site.places]

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        selectors = (*([] if self.chosen is None else [self.chosen]), *self.without)
        return tuple(f for selector in selectors for f in selector.functions)

    def __str__(self) -> str:
        return "layers" if self.chosen is None else f"layers in {self.chosen}"


def _layers(program: Block) -> list[Site]:
    """All layers of a function, in the order of the program."""
    found = dependent(program)
    sites = [
        _layer(place, found)
        for block in _blocks(program)
        for place in block.places
        if place.sealed is None and _is_layer(place, found)
        if not any(map(is_product, place.calls))
    ]
    return sorted(sites, key=lambda site: site.position)


def dependent_operands(place: Place, found: Dependent) -> list[Var]:
    known = found.get(place.block, ())
    return [v for v in _jax.variables(place.equation.invars) if v in known]


def _is_layer(place: Place, found: Dependent) -> bool:
    return is_product(place) and len(dependent_operands(place, found)) == 1


def is_product(place: Place) -> bool:
    """Whether an operation is a product, or a call of a jitted function that is one of its operands."""
    if place.op is not _jax.jit_p:
        return place.op in PRODUCTS
    (inner,) = place.block.inner[place.block.places.index(place)]
    others = [p for p in inner.places if not is_product(p)]
    if inner.consts:  # a weight that is hidden in the call
        return False
    return len(inner.places) - len(others) == 1 and all(p.op in MOVES for p in others)


def _with_those_inside(place: Place) -> list[Place]:
    """An operation, and what is in it if the operation is a call."""
    inner = place.block.inner.get(place.block.places.index(place), [])
    return [place, *(p for block in inner for p in block.walk())]


def _layer(product: Place, found: Dependent) -> Layer:
    """The region of a product, what moves its result, and what shifts and scales it."""
    block = product.block
    (x,) = dependent_operands(product, found)
    places = [product, *_until_last_shift(product, found)]
    if len(places) == 1:
        _check_no_bias_outside(product, found)
    (y,) = places[-1].equation.outvars
    ordered = tuple(dict.fromkeys((x, *block.entering(places))))
    scope = f"{product.scope}: " if product.scope else ""
    label = f"{scope}layer of {product.op}{product.in_brackets}"
    everything = [p for place in places for p in _with_those_inside(place)]
    scaled = any(place.op in SCALES for place in places)
    return Layer(tuple(everything), block, (y,), label, ordered, product=product, scaled=scaled)


def _check_no_bias_outside(product: Place, found: Dependent) -> None:
    """A bias that is added to a jitted function's result would not be seen to belong to a layer."""
    call = product.block.call
    if call is None or call.op is not _jax.jit_p or len(call.outputs) != 1:
        return
    bias = _until_last_shift(call, found)
    if bias:
        raise errors.EditError(
            f"A rule was asked for of the layer {product}. Its bias is added outside of the jitted "
            f"function that computes the product: {bias[-1]}. Jit both together, or neither."
        )


def _until_last_shift(product: Place, found: Dependent) -> list[Place]:
    """The operations from a product's only reader to the last constant that is added, if there is one.

    Scaling alone changes no relevance, so what comes after the last shift is no part of the layer.
    """
    block, places, count = product.block, [], 0
    (v,) = product.equation.outvars
    while v not in block.jaxpr.outvars:
        readers = [place for place in block.places if v in place.reads]
        if len(readers) != 1 or not _is_affine(readers[0], v, found):
            break
        places += readers
        if readers[0].op in SHIFTS:
            count = len(places)
        (v,) = readers[0].equation.outvars
    return places[:count]


def _is_affine(place: Place, v: Var, found: Dependent) -> bool:
    """Whether an operation moves a value's elements, or scales and shifts them by constants."""
    if dependent_operands(place, found) != [v]:
        return False
    if place.op is lax.div_p:
        return place.equation.invars[0] is v
    return place.op in MOVES | SHIFTS | SCALES


@dataclass(frozen=True)
class Outermost(Selector):
    """The sites of a selector that do not lie within another of its sites."""

    among: Selector

    def sites(self, program: Block) -> list[Site]:
        sites = self.among.sites(program)
        places = [set(site.places) for site in sites]
        return [
            site
            for site, own in zip(sites, places, strict=True)
            if not any(own < other for other in places)
        ]

    def places(self, program: Block) -> list[Place]:
        return [place for site in self.sites(program) for place in site.places]

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        return self.among.functions

    def __str__(self) -> str:
        return str(self.among)


@dataclass(frozen=True)
class Operations(OfPlaces):
    """Operations of some primitives with a number of operands that depend on the function's input.

    Attributes:
      ops: the primitives.
      count: the number of operands.
      constants: names of operations whose results count as independent of the input.
    """

    ops: frozenset[object]
    count: int
    constants: tuple[str, ...] = ()

    def places(self, program: Block) -> list[Place]:
        found = dependent(program, self.constants)
        return [
            place
            for place in program.walk()
            if place.op in self.ops
            and place.sealed is None
            and len(dependent_operands(place, found)) == self.count
        ]

    def __str__(self) -> str:
        return f"{'/'.join(sorted(map(str, self.ops)))} of {self.count} dependent values"
