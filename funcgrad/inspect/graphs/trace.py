"""A function traced for its graph, with what the rules make of each operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from funcgrad import _jax, errors
from funcgrad._jax import Value
from funcgrad.arguments import name_of, names_of_arguments, names_of_leaves
from funcgrad.called import INLINED, CalledFunction, leads_to_in, rule_of
from funcgrad.functions import mark_of, unmarked
from funcgrad.keys import FunctionId
from funcgrad.nested import holding
from funcgrad.places.asked import overrides_in
from funcgrad.places.on_shards import is_looked_into
from funcgrad.places.program import Block, Place, is_entered, program_of
from funcgrad.places.selectors import Selector
from funcgrad.registry import Entry, Rule, Rules


@dataclass(frozen=True, eq=False)
class Traced:
    """A function as a program of places.

    Attributes:
      fun: the function.
      args: its arguments: arrays, or types.
      rules: the backward rules.
      program: the places.
      out_tree: the structure of the results.
      placed: the rules of operations that are overridden by place.
      opened: the calls that are replaced by the operations of their function, by an override elsewhere.
    """

    fun: Callable[..., Any]
    args: tuple[Any, ...]
    rules: Rules
    program: Block
    out_tree: Any
    placed: Mapping[Place, Rule]
    opened: frozenset[Place]

    @property
    def name(self) -> str:
        """The function's name."""
        return name_of(self.fun).split(" at ")[0]

    @property
    def names(self) -> list[str]:
        """The names of the arguments' leaves: ``params['w']``."""
        return names_of_leaves(names_of_arguments(self.fun, len(self.args)), self.args)

    @property
    def leaves(self) -> list[Any]:
        """The arguments' leaves."""
        return jax.tree.leaves(self.args)

    def places_of(self, selector: Selector) -> Block:
        """The places, in which those of the selector's functions have a name scope of their own."""
        if not selector.functions:
            return self.program
        return traced(self.fun, self.args, self.rules, selector.functions).program

    def entry_of(self, place: Place) -> tuple[Any, Entry | None, bool]:
        """What an operation is: its op, what the rules have for it, and whether the call is entered."""
        if place in self.placed:
            return place.op, self.placed[place], False
        entered = is_entered(place.equation) or is_looked_into(place) or place in self.opened
        if place.function is None or place in self.opened:
            return place.op, self.rules.find(place.op), entered
        caught = self._caught_by(place.function)
        if caught is not None:
            return *caught, False
        (jaxpr, *_) = _jax.inner_jaxprs(place.params)
        called = CalledFunction(place.function, lambda: None, leads_to_in(jaxpr))
        try:
            op, rule = rule_of(called, self.rules, len(place.operands))
        except errors.Unlocated as problem:
            raise problem.at(place.where) from problem.cause
        if rule is None or rule is INLINED:
            return place.op, self.rules.find(place.op), entered
        return op, rule, False

    def _caught_by(self, function: str) -> tuple[FunctionId, Rule] | None:
        """The overridden function that a call is, as its mark says, and the rule."""
        name, mark = unmarked(function)
        same = [(op, rule) for op, rule, _ in self.rules.functions if op.description == name]
        known = [(op, rule) for op, rule in same if mark_of(op, rule) == mark]
        return known[-1] if known else None


def traced(
    fun: Callable[..., Any], args: tuple[Any, ...], rules: Rules, marked: Sequence[Any] = ()
) -> Traced:
    """Trace a function, so that overridden functions and those in `marked` are seen.

    Raises:
      errors.SelectorError: an override by place means no place of the function.
    """
    leaves, tree = jax.tree.flatten(args)
    trees: list[Any] = []

    def flat(*leaves: Value) -> list[Value]:
        outs, out_tree = jax.tree.flatten(fun(*jax.tree.unflatten(tree, leaves)))
        trees[:] = [out_tree]
        return outs

    avals = jax.make_jaxpr(lambda *leaves: None)(*leaves).in_avals
    name = name_of(fun)
    known = [f for placed in rules.placed for f in placed.selector.functions]
    with holding(rules, name, [*known, *marked]):
        closed = _jax.stage_closed(flat, avals, name)
    program = program_of(closed)
    placed, opened = overrides_in(program, rules, name)
    return Traced(fun, args, rules, program, trees[0], placed, opened)
