"""Activations that can die or saturate: which operations they are, and which layer each belongs to."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import numpy as np
from jax import lax

from funcgrad import _jax
from funcgrad._jax import Var
from funcgrad.functions import unmarked
from funcgrad.inspect.flows.layers import Group, is_measured, shape_of
from funcgrad.inspect.flows.measures import saturated_sigmoid, saturated_tanh
from funcgrad.inspect.flows.parameters import Reader
from funcgrad.keys import op_key
from funcgrad.places.program import Block, Place
from funcgrad.places.selectors import Site

SATURATING: dict[Any, Callable[[Any], Any]] = {
    lax.tanh_p: saturated_tanh,
    lax.logistic_p: saturated_sigmoid,
}


@cache
def _rectifiers() -> frozenset[str]:
    """The functions that are zero for what is negative."""
    return frozenset(op_key(f).description for f in (jax.nn.relu, jax.nn.relu6))


GATED = {"silu", "gelu", "mish", "glu", "softplus", "log_sigmoid"}
"""Functions of ``jax.nn`` with a sigmoid or a tanh inside, which have a slope where that saturates."""


@dataclass(frozen=True, eq=False)
class Activation:
    """An activation's result.

    Attributes:
      site: the result.
      kind: ``"dead"`` for a rectifier, else the name of the measure of saturation.
      group: the layer that it belongs to.
    """

    site: Site
    kind: str
    group: Group

    @property
    def size(self) -> int:
        """How many elements the result has, or units."""
        return math.prod(shape_of(self.site.variables[0]))


def is_rectifier(place: Place) -> bool:
    """Whether an operation is a ReLU: a call of ``jax.nn.relu``, or the maximum of a value and 0."""
    if place.function is not None:
        return unmarked(place.function)[0] in _rectifiers()
    literals = [v.val for v in place.equation.invars if _jax.is_literal(v)]
    return place.op is lax.max_p and any(np.ndim(x) == 0 and x == 0 for x in literals)


def kind_of(place: Place) -> str | None:
    """By which tap an operation is measured; None for one that is no activation."""
    around = {unmarked(call.function)[0] for call in place.calls if call.function is not None}
    gated = GATED & _jax.functions_of_nn(place.equation)
    if place.sealed is not None or gated or around & _rectifiers():
        return None
    if is_rectifier(place):
        return "dead"
    return SATURATING[place.op].__name__ if place.op in SATURATING else None


def activations_of(
    program: Block, groups: Sequence[Group], unit_axis: int, batch: int
) -> list[Activation]:
    """The activations of a function that belong to a layer, in the order of the program.

    An activation belongs to the innermost layer that it is in. If it is in none, or is computed of the
    value of a layer inside that one, it belongs to the layer of whose value it is computed. Units can be
    called dead only where enough elements of each are seen.
    """
    reader = Reader.of(groups)
    sites = [(group, group.site) for group in groups if group.site is not None]
    origin = Origins({(site.block, v): group for group, site in sites for v in site.variables})
    inner = {group: {reader.layer_of[p] for p in site.places} for group, site in sites}
    found = []
    for place in program.walk():
        kind = kind_of(place)
        if kind is None:
            continue
        v = place.equation.outvars[0]
        if _jax.is_dropped(v) or not is_measured(v.aval):
            continue
        if kind == "dead" and not _has_units(shape_of(v), unit_axis, batch):
            continue
        group, before = reader.layer_of.get(place), origin(place)
        if before is not None and (group is None or before in inner[group]):
            group = before
        site = Site((place,), place.block, (v,), str(place.op))
        if group is not None and group.lengths == Group("", "", site, 0).lengths:
            found.append(Activation(site, kind, group))
    return found


def _has_units(shape: tuple[int, ...], unit_axis: int, batch: int) -> bool:
    if not -len(shape) <= unit_axis < len(shape) or shape[unit_axis] < 2:
        return False
    return int(np.prod(shape)) // shape[unit_axis] >= batch


@dataclass(frozen=True, eq=False)
class Origins:
    """Finds the layer of whose value an operation is computed.

    Attributes:
      leaving: the layers, by the values that leave them.
    """

    leaving: dict[tuple[Block, Var], Group]

    def __call__(self, place: Place) -> Group | None:
        """The layer with the fewest operations between; None if there is none."""
        block = place.block
        made, ahead, seen = block.makers, [*place.reads], set()
        for v in ahead:
            if (block, v) in self.leaving:
                return self.leaving[block, v]
            if v in made and v not in seen:
                seen.add(v)
                ahead.extend(made[v].reads)
        return self(block.call) if block.call is not None else None
