"""What a user asks for at places: taps, edits and overrides, found in a traced function."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from funcgrad import _jax, errors
from funcgrad._jax import Aval, Value, Var
from funcgrad.functions import mark_of, run_with_rule, unmarked
from funcgrad.keys import FunctionId
from funcgrad.places.editing import Action, Editor, Key, Replacement
from funcgrad.places.on_shards import copies
from funcgrad.places.program import SHARDS, Block, Place, is_vmapped_loop, program_of
from funcgrad.places.selectors import Edit, Selector, Site
from funcgrad.places.taps import Tapped, sink_for
from funcgrad.registry import Placed, Rule, Rules, with_original
from funcgrad.unused import mark_used, report_unused


@dataclass(frozen=True, eq=False)
class Asked:
    """Taps, by the user's names for them, and edits."""

    taps: Mapping[str, Selector]
    edits: tuple[Edit, ...]

    @classmethod
    def of(cls, taps: Any, edit: Any) -> Asked | None:
        """What a transform was given as `taps` and `edit`; None if there is neither.

        Raises:
          errors.SelectorError: one of these is something else.
        """
        if taps is None and edit is None:
            return None
        taps = {} if taps is None else taps
        if not isinstance(taps, Mapping) or not all(
            isinstance(selector, Selector) for selector in taps.values()
        ):
            raise errors.SelectorError(
                f"taps={taps!r} was given. Taps are a mapping from a name of yours to a selector: "
                'taps={"h": funcgrad.at("encoder")}.'
            )
        edit = () if edit is None else edit
        edits = tuple(edit) if isinstance(edit, Iterable) else (edit,)
        if not all(isinstance(one, Edit) for one in edits):
            given = f"funcgrad.at({edit})" if isinstance(edit, Selector) else repr(edit)
            raise errors.SelectorError(
                f"edit={given} was given. An edit is made by a selector: "
                'edit=[funcgrad.at("encoder").value(lambda h: 0 * h)], or .cotangent(...).'
            )
        return cls(dict(taps), edits)

    def functions_with(self, rules: Rules) -> tuple[Callable[..., Any], ...]:
        """The Python functions whose calls must be seen in the trace."""
        selectors = [
            *self.taps.values(),
            *(edit.selector for edit in self.edits),
            *(placed.selector for placed in rules.placed),
        ]
        return tuple(f for selector in selectors for f in selector.functions)


NOTHING = Asked({}, ())


@dataclass(frozen=True, eq=False)
class Edited:
    """A traced function that is run with what was asked for.

    Attributes:
      program: the function.
      editor: runs it.
      inputs: what it reads besides its arguments: sinks, and the operands of edits.
      tapped: by the user's name, the sites that are tapped, each with the keys of its values.
    """

    program: Block
    editor: Editor
    inputs: dict[Key, Value]
    tapped: dict[str, list[tuple[Site, list[Key]]]] = field(default_factory=dict)

    @property
    def sinks(self) -> list[Key]:
        """The keys of the inputs whose cotangents are tapped values'."""
        return [key for key in self.inputs if key in self.editor.taps]

    def run(self, args: Sequence[Value], sinks: Sequence[Value]) -> tuple[list[Value], Any]:
        """The function's results, and what is tapped."""
        given = {**self.inputs, **dict(zip(self.sinks, sinks, strict=True))}
        return self.editor.run(self.program, args, given)

    @property
    def collector(self) -> Collector:
        """What makes the results of the taps."""
        tapped = {
            name: tuple((str(site), key) for site, keys in sites for key in keys)
            for name, sites in self.tapped.items()
        }
        return Collector(tapped, {key: _jax.typeof(self.inputs[key]) for key in self.sinks})


@dataclass(frozen=True, eq=False)
class Collector:
    """Makes what is returned for taps of what was found, without arrays of its own.

    Attributes:
      tapped: by the user's name, the places that are tapped, each with the key of its value.
      sinks: the types of the sinks, in their order.
    """

    tapped: dict[str, tuple[tuple[str, Key], ...]]
    sinks: dict[Key, Any]

    def __call__(self, found: Any, cts: Sequence[Value | None]) -> dict[str, Tapped]:
        """The values that were found, with the cotangents of the sinks."""
        arrived = dict(zip(self.sinks, cts, strict=True))

        def ct(key: Key) -> Any:
            if key not in arrived:
                return None
            return _jax.zeros(self.sinks[key]) if arrived[key] is None else arrived[key]

        def of(places: Sequence[tuple[str, Key]]) -> Tapped:
            values, present = ([found[key][i] for _, key in places] for i in (0, 1))
            cts = [ct(key) for _, key in places]
            return Tapped(values, cts, present, tuple(place for place, _ in places))

        return {name: of(places) for name, places in self.tapped.items()}


def edited(closed: Any, asked: Asked, rules: Rules, name: str, strict: bool = False) -> Edited:
    """Find the places of what was asked for in a traced function.

    Raises:
      errors.SelectorError: a selector means no place of the function.
      errors.EditError: a place is inside a call that is not entered.
    """
    program = program_of(closed)
    actions: dict[tuple[Block, Var], list[Action]] = defaultdict(list)
    inputs: dict[Key, Value] = {}
    tapped: dict[str, list[tuple[Site, list[Key]]]] = {}
    overridden, opened = overrides_in(program, rules, name, strict)
    placed = {place: by_rule(place, rule) for place, rule in overridden.items()}
    count = 0
    replaced: dict[Place, Replacement] = {}
    for edit in asked.edits:
        for site in sites_meant(edit.selector, program, name, "An edit", edit.optional):
            if edit.by is not None:
                replacement = Replacement(site, edit.by)
                _check_replaced(replacement, replaced, {*placed, *opened}, name)
                replaced[replacement.last] = replacement
                continue
            for v in site.variables:
                action = _action_of_edit(edit, (count,), site)
                count += 1
                inputs.update(zip(action.keys, edit.operands, strict=True))
                actions[site.block, v].append(action)
    for of_user, selector in asked.taps.items():
        sites = sites_meant(selector, program, name, f"The tap {of_user!r}", selector.optional)
        tapped[of_user] = [(site, []) for site in sites]
        for site, keys in tapped[of_user]:
            for v in site.variables:
                key = (count,)
                count += 1
                keys.append(key)
                measure = selector.measure
                actions[site.block, v].append(Action(key, tapped=True, measure=measure))
                if _jax.is_inexact(v.aval):
                    inputs[key] = sink_for(v.aval, lengths_around(site.block, v.aval), measure)
    actions = {where: _in_order(of_value) for where, of_value in actions.items()}
    taps = frozenset(key for sites in tapped.values() for _, keys in sites for key in keys)
    for replacement in replaced.values():
        _check_nothing_inside(replacement, actions, name)
    return Edited(program, Editor(actions, placed, opened, taps, replaced), inputs, tapped)


def _action_of_edit(edit: Edit, key: Key, site: Site) -> Action:
    changes = (edit.of_value, edit.of_cotangent, len(edit.operands))
    return Action(key, False, *changes, asked=str(site))


def _in_order(actions: Sequence[Action]) -> list[Action]:
    """Changes of values, then changes of cotangents, and taps last, in the order of the operations.

    So a tap has the changed value, and the cotangent as it arrives. The walk back meets the operations
    from the last to the first, so the first of several changes of the cotangent comes last.
    """
    of_value = [a for a in actions if a.of_value is not None]
    of_cotangent = [a for a in actions if a.of_cotangent is not None]
    return [*of_value, *reversed(of_cotangent), *(a for a in actions if a.tapped)]


def lengths_around(block: Block, aval: Aval) -> list[int]:
    """The lengths of the leading axes of a tapped value of a block and a type, as `block.axes`."""
    if block.call is None:
        return []
    around, params = lengths_around(block.call.block, aval), block.call.params
    if block.kind == "scan":
        return [*around, params["length"]]
    return [*around, copies(aval, params)] if block.kind == SHARDS else around


def _check_replaced(
    replacement: Replacement, others: Mapping[Place, Replacement], overridden: set[Place], name: str
) -> None:
    """A region is replaced as one operation: once, and nothing else is done with its operations."""
    site = replacement.site
    places = set(site.places)
    overlapping = [other.site for other in others.values() if places & set(other.site.places)]
    if overlapping:
        raise errors.EditError(
            f"`{name}` was differentiated with {site} replaced, of which operations are replaced "
            f"already, by an edit of {overlapping[0]}. Narrow one of the selectors."
        )
    if places & overridden:
        raise errors.EditError(
            f"`{name}` was differentiated with {site} replaced, and an override by place means an "
            "operation in it. Narrow one of the selectors."
        )
    block, left = site.block, set(site.block.read_outside(site.own))
    early = [p for p in block.places if p.position < site.position and p not in places]
    if left != set(site.variables) or any(left.intersection(p.reads) for p in early):
        raise errors.EditError(
            f"`{name}` was differentiated with {site} replaced. Its values cannot be computed at once: "
            "one of them is an integer, or is read before the last is known. Select less."
        )


def _check_nothing_inside(replacement: Replacement, actions: Any, name: str) -> None:
    site = replacement.site
    made = ((p, v) for p in site.places for v in p.equation.outvars if v not in site.variables)
    inside = next((place for place, v in made if actions.get((place.block, v))), None)
    if inside is not None:
        raise errors.EditError(
            f"`{name}` was differentiated with {site} replaced, and a tap or an edit means {inside}, "
            "which is inside it and is not computed. Narrow one of the selectors."
        )


def sites_meant(
    selector: Selector, program: Block, name: str, what: str, optional: bool = False
) -> list[Site]:
    sites = selector.sites(program)
    if not sites and not optional:
        raise errors.SelectorError(no_place(selector, program, name, what))
    for site in sites:
        call = next((place.sealed for place in site.places if place.block is site.block), None)
        if call is not None:
            raise errors.EditError(_sealed(call, f"{what} of `{name}` at {selector} means {site}"))
    return sites


def _sealed(call: Place, asked: str) -> str:
    """What to do instead where something inside a call that is not entered was asked for."""
    function = (call.function or "").split(" at ")[0]
    named = f" of `{function}`" if function else ""
    if call.op.name == "shard_map":
        why = "Its values are parts of arrays, one on each device, and have no place outside"
        instead = "Return the value from the shard_map"
    elif is_vmapped_loop(call.equation):
        why = (
            "Its examples end at different steps, and the steps after an example's end mean nothing"
        )
        instead = "Tap or edit the loop of one example, before jax.vmap"
    else:
        why = "Its derivative is not that of the operations inside"
        instead = "Give the function another rule, DEFAULT.override({function: rule})"
    return (
        f"{asked}, which is inside the `{call.op}`{named}{call.in_brackets}. {why}, so nothing inside "
        "can be tapped or edited. Select what the call returns, by at(function=...) or by a name scope "
        f"around the call. {instead}, if that is not enough."
    )


def no_place(selector: Selector, program: Block, name: str, what: str) -> str:
    """The message of a selector that means no place, with near misses."""
    places = [*program.walk()]
    scopes = {place.scope for place in places if place.scope}
    lines = [
        ("scopes", _nearest(str(selector).strip("'"), scopes)),
        ("ops", _nearest(str(selector).removeprefix("op="), {place.op.name for place in places})),
        ("names", _nearest(str(selector), {place.name for place in places if place.name})),
    ]
    near = "".join(f"\n- {kind} there: {', '.join(found)}" for kind, found in lines if found)
    return (
        f"{what} of `{name}` was asked for at {selector}, which means no place of the function. "
        f"funcgrad.inspect.places lists what can be selected. Near misses:{near or ' none.'}"
    )


def _nearest(wanted: str, names: Iterable[str], most: int = 6) -> list[str]:
    known = sorted(names)
    close = difflib.get_close_matches(wanted, known, n=most, cutoff=0.3)
    ranked = [*dict.fromkeys([*close, *known])]
    more = [f"and {len(ranked) - most} more"] if len(ranked) > most else []
    return ranked[:most] + more


# --- overrides by place


def overrides_in(
    program: Block, rules: Rules, name: str, strict: bool = False
) -> tuple[dict[Place, Rule], frozenset[Place]]:
    """The places whose operations these rules override, by what, and those whose calls are opened."""
    by: dict[Place, Rule] = {}
    opened: set[Place] = set()
    unused: list[Placed] = []
    for override in rules.placed:
        meant = override.selector.places(program)
        if not meant:
            raise errors.SelectorError(
                no_place(override.selector, program, name, f"The override of `{override.op}`")
            )
        if isinstance(override.op, FunctionId):
            used = _open_elsewhere(override, program, set(meant), opened)
        else:
            fitting = [p for p in meant if p.op is override.op and p.sealed is None]
            if fitting:
                mark_used(override.op)
            for place in fitting:
                old = by.get(place) or rules.find(override.op)
                by[place] = with_original(override.rule, old, override.op)
            used = bool(fitting)
        if not (used or override.rule.optional):
            unused.append(override)
    if unused:
        occurred = {place.op for place in program.walk()}
        report_unused({override.op: override.rule for override in unused}, occurred, name, strict)
    return by, frozenset(opened)


def _open_elsewhere(
    override: Placed, program: Block, meant: set[Place], opened: set[Place]
) -> bool:
    """Open the calls of a function that are one node by an override for other places."""
    mark = mark_of(override.op, override.rule)
    calls = [p for p in program.walk() if p.function and unmarked(p.function)[1] == mark]
    opened.update(call for call in calls if call not in meant)
    return any(call in meant for call in calls)


def by_rule(place: Place, rule: Rule) -> Callable[[Sequence[Value]], list[Value]]:
    """How an operation is run so that it is one node with this rule."""
    equation = place.equation
    file, line, _ = (place.lines or [("<unknown>", 1, "")])[0]
    op = FunctionId(f"{place.op.name} at {file}:{line}")
    params = tuple(place.params.items())

    def run(operands: Any) -> Any:
        out = _jax.bind_equation(equation, operands)
        return tuple(out) if place.op.multiple_results else out[0]

    return lambda operands: run_with_rule(op, rule, params, run, operands, marked=False)
