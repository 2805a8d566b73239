"""What is tapped of a function for its flow, and the flow that is made of what the taps return."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np

from funcgrad.inspect.flows.activations import SATURATING, Activation, activations_of
from funcgrad.inspect.flows.flags import Thresholds
from funcgrad.inspect.flows.flow import Flow, Layer, of_parameters, rows_of
from funcgrad.inspect.flows.layers import STEPS, Group, chosen, numbered
from funcgrad.inspect.flows.measures import (
    Part,
    by_row,
    dead_units,
    moments,
    moments_by_row,
    norms,
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
      places: the user's selectors, by the user's names for them.
      depth: how many name scopes deep.
      unit_axis: the axis of units.
      thresholds: from where on a number is flagged.
      function: the function's name.
      names: the names of the differentiated leaves.
      plans: what was chosen, by traced function.
    """

    places: Mapping[str, Selector] | None
    depth: int | None
    unit_axis: int
    thresholds: Thresholds
    function: str
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
            rows = chosen(program, self.places, self.depth, self.function)
            groups, parameters = parameters_of(program, rows.groups, self.names)
            batch = self.thresholds.batch
            activations = activations_of(program, groups, self.unit_axis, batch)
            self.plans[program] = Plan(
                [group for group in groups if group not in rows.left_out],
                rows.how,
                parameters,
                [one for one in activations if one.group not in rows.left_out],
            )
        return self.plans[program]

    def flow(
        self, tapped: Mapping[str, Tapped], primals: Sequence[Any], cts: Sequence[Any]
    ) -> Flow:
        """The flow, from what was tapped and the leaves of parameters and gradients."""
        (plan,) = self.plans.values()
        groups = plan.groups
        layers = tuple(
            _layer(group, plan.parameters.get(old, ()))
            for old, group in zip(groups, numbered(groups), strict=True)
        )
        rows = dict(zip(groups, rows_of(layers), strict=True))
        count = sum(map(len, rows.values()))
        return Flow(
            moments_by_row(_of_values(plan, tapped["moments"].values, rows), count),
            moments_by_row(_of_values(plan, tapped["moments"].cotangents, rows), count),
            of_parameters(layers, cts, moments, 4),
            of_parameters(layers, primals, norms, 2),
            None,
            jnp.concatenate(
                [
                    by_row(_of_activations(plan, tapped, rows, dead), count, 2)
                    for dead in (True, False)
                ],
                1,
            ),
            layers,
            self.thresholds,
            self.function.split(" at ")[0],
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
        selectors = (self.tapping.places or {}).values()
        return tuple(f for selector in selectors for f in selector.functions)

    def __str__(self) -> str:
        return f"the flow's {self.kind}"


def _sampled(groups: Sequence[Group]) -> str:
    """In words, that some steps of long scans are left out."""
    left_out = {math.prod(g.lengths) for g in groups if len(g.steps) < math.prod(g.lengths)}
    return "".join(f"; {STEPS} of {count} steps" for count in sorted(left_out))


def _layer(group: Group, parameters: Sequence[Parameter]) -> Layer:
    rows, steps, order = tuple(group.rows), tuple(group.steps), tuple(group.order)
    return Layer(rows, steps, order, group.where, sum(group.sizes), tuple(parameters))


Rows = Mapping[Group, range]


def _part(group: Group, rows: Rows, size: int, numbers: Any) -> Part:
    """Numbers of one value in each step of the scans around it, of which some are rows."""
    flat = numbers.reshape(-1, numbers.shape[-1])
    return Part(rows[group], size, flat[np.array(group.steps, int)])


def _of_values(plan: Plan, numbers: Sequence[Any], rows: Rows) -> list[Part]:
    """The moments of what leaves each layer, or of the cotangents there."""
    leaving = [(group, size) for group in plan.groups for size in group.sizes]
    return [
        _part(group, rows, size, found)
        for (group, size), found in zip(leaving, numbers, strict=True)
    ]


def _of_activations(plan: Plan, tapped: Mapping[str, Tapped], rows: Rows, dead: bool) -> list[Part]:
    """The shares of dead units, or of saturated results, of the activations in each layer."""
    numbers = {kind: iter(found.values) for kind, found in tapped.items()}
    return [
        _part(activation.group, rows, activation.size, next(numbers[activation.kind]))
        for activation in plan.activations
        if (activation.kind == "dead") is dead
    ]
