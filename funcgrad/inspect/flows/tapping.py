"""What is tapped of a function for its flow, and the flow that is made of what the taps return."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp

from funcgrad.inspect.flows.activations import SATURATING, Activation, activations_of
from funcgrad.inspect.flows.flags import Thresholds
from funcgrad.inspect.flows.flow import Flow, Layer, by_row
from funcgrad.inspect.flows.layers import STEPS, Group, chosen, numbered
from funcgrad.inspect.flows.measures import (
    MOMENTS,
    dead_units,
    moments,
    shares_together,
    together,
)
from funcgrad.inspect.flows.parameters import Parameter, parameters_of
from funcgrad.places.program import Block, Place
from funcgrad.places.selectors import Selector, Site
from funcgrad.places.taps import Measure, Tapped

Places = Selector | Mapping[str, Selector]


@dataclass(frozen=True)
class Plan:
    """What is tapped of one traced function.

    Attributes:
      groups: the layers.
      how: how they were chosen, in words.
      parameters: the parameters of each.
      activations: the activations in them.
    """

    groups: list[Group]
    how: str
    parameters: dict[Group, list[Parameter]]
    activations: list[Activation]

    def sites(self, kind: str) -> list[Site]:
        """The sites of one tap."""
        if kind == "moments":
            return [group.site for group in self.groups if group.site is not None]
        return [activation.site for activation in self.activations if activation.kind == kind]


@dataclass(eq=False)
class Tapping:
    """Chooses what is tapped when the function is traced, and makes a flow of what the taps return.

    Attributes:
      places: the user's selectors.
      depth: how many name scopes deep.
      unit_axis: the axis of units.
      thresholds: from where on a number is flagged.
      names: the names of the differentiated leaves.
      plans: what was chosen, by traced function.
    """

    places: Places | None
    depth: int | None
    unit_axis: int
    thresholds: Thresholds
    names: list[str]
    plans: dict[Block, Plan] = field(default_factory=dict)

    @property
    def taps(self) -> dict[str, Selector]:
        """One tap for each measure."""
        measures: dict[str, Measure] = {
            "moments": moments,
            "dead": dead_units(self.unit_axis),
            **{measure.__name__: measure for measure in SATURATING.values()},
        }
        return {
            kind: OfPlan(self, kind).measured(measure, optional=True)
            for kind, measure in measures.items()
        }

    def plan(self, program: Block) -> Plan:
        """What is tapped of a traced function."""
        if program not in self.plans:
            rows = chosen(program, self.places, self.depth)
            groups, parameters = parameters_of(program, rows.groups, self.names)
            batch = self.thresholds.batch
            activations = activations_of(program, groups, self.unit_axis, batch)
            self.plans[program] = Plan(groups, rows.how, parameters, activations)
        return self.plans[program]

    def flow(
        self, tapped: Mapping[str, Tapped], primals: Sequence[Any], cts: Sequence[Any], name: str
    ) -> Flow:
        """The flow, from what was tapped and the leaves of parameters and gradients."""
        (plan,) = self.plans.values()
        groups = plan.groups
        layers = tuple(
            _layer(group, plan.parameters.get(old, ()))
            for old, group in zip(groups, numbered(groups), strict=True)
        )
        values, cotangents = _moments(plan, tapped["moments"])
        return Flow(
            _rows(groups, values, MOMENTS),
            _rows(groups, cotangents, MOMENTS),
            by_row(layers, cts),
            by_row(layers, primals),
            None,
            _rows(groups, _shares(plan, tapped), 4),
            layers,
            self.thresholds,
            name.split(" at ")[0],
            plan.how + _sampled(groups),
        )


@dataclass(frozen=True, eq=False)
class OfPlan(Selector):
    """The sites that a plan has for one tap."""

    tapping: Tapping
    kind: str

    def places(self, program: Block) -> list[Place]:
        return [place for site in self.sites(program) for place in site.places]

    def sites(self, program: Block) -> list[Site]:
        return self.tapping.plan(program).sites(self.kind)

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        places = self.tapping.places or {}
        selectors = [places] if isinstance(places, Selector) else places.values()
        return tuple(f for selector in selectors for f in selector.functions)

    def __str__(self) -> str:
        return f"the flow's {self.kind}"


def _sampled(groups: Sequence[Group]) -> str:
    """In words, that some steps of long scans are left out."""
    left_out = {math.prod(g.lengths) for g in groups if len(g.steps) < math.prod(g.lengths)}
    return "".join(f"; {STEPS} of {count} steps" for count in sorted(left_out))


def _layer(group: Group, parameters: Sequence[Parameter]) -> Layer:
    variables = () if group.site is None else group.site.variables
    size = sum(v.aval.size for v in variables)
    rows, steps, order = tuple(group.rows), tuple(group.steps), tuple(group.order)
    return Layer(rows, steps, order, group.where, size, tuple(parameters))


def _rows(groups: Sequence[Group], found: Mapping[Group, Any], width: int) -> Any:
    """The numbers of all rows, zeros for a layer without any."""
    each = [
        found[g].reshape(-1, width)[jnp.array(g.steps)]
        if g in found
        else jnp.zeros((len(g.steps), width))
        for g in groups
    ]
    return jnp.concatenate([jnp.zeros((0, width)), *each])


def _moments(plan: Plan, tapped: Tapped) -> tuple[dict[Group, Any], dict[Group, Any]]:
    """The moments of each layer's values, and of their cotangents."""
    of_values, of_cts = iter(tapped.values), iter(tapped.cotangents)
    found: tuple[dict[Group, Any], dict[Group, Any]] = {}, {}
    for group in plan.groups:
        if group.site is not None:
            sizes = [v.aval.size for v in group.site.variables]
            for of_group, numbers in zip(found, (of_values, of_cts), strict=True):
                of_group[group] = together([(size, next(numbers)) for size in sizes])
    return found


def _shares(plan: Plan, tapped: Mapping[str, Tapped]) -> dict[Group, Any]:
    """The shares of dead units and of saturated results in each layer, each with whether it is known."""
    found: dict[Group, Any] = {}
    for group, parts in _shares_by_group(plan, tapped).items():
        none = jnp.zeros((*group.lengths, 2))
        both = [shares_together(parts[kind]) if parts[kind] else none for kind in (True, False)]
        found[group] = jnp.concatenate(both, -1)
    return found


def _shares_by_group(
    plan: Plan, tapped: Mapping[str, Tapped]
) -> dict[Group, dict[bool, list[tuple[int, Any]]]]:
    """By layer, and by whether units can be dead, the sizes and shares of its activations."""
    numbers: dict[str, Iterator[Any]] = {k: iter(t.values) for k, t in tapped.items()}
    found: dict[Group, dict[bool, list[tuple[int, Any]]]] = {}
    for activation in plan.activations:
        parts = found.setdefault(activation.group, {True: [], False: []})
        share = next(numbers[activation.kind])
        parts[activation.kind == "dead"].append((activation.size, share))
    return found
