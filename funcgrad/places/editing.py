"""A traced function run again, with taps, edits and overrides at places in it.

Each tapped value passes :func:`taps.tap`, with a sink: an input of zeros whose cotangent is the value's.
Sinks go into the calls around the place as operands, and the tapped values come out as results. A call
that has no place to change inside is run as it is.

    call around it     a sink goes in as           a value comes out as
    jit, checkpoint    an operand                  a result
    scan               an `xs`                     a `ys`
    while              a carry                     a carry, from the last step
    cond               an operand of all branches  a result; zeros, not present, in the other branches
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from funcgrad import _jax, errors
from funcgrad._jax import Value, Var
from funcgrad.calls.scan import ScanSettings
from funcgrad.places.on_shards import shard_map_edited
from funcgrad.places.program import Block, Place
from funcgrad.places.selectors import Site
from funcgrad.places.taps import Measure, sink_of_step, tap, with_cotangent_changed

Key = tuple[int, ...]
"""What a tap or an edit is known by: its number, and that of an operand of it."""


@dataclass(frozen=True)
class Action:
    """What is done with one value.

    Attributes:
      key: by which its sink, its operands and its value are known.
      tapped: the value is tapped.
      measure: what is returned of a tapped value, and of its cotangent, instead of all of it.
      of_value: it is changed by this function of itself and the operands.
      of_cotangent: its cotangent is changed by this function.
      operands: how many operands `of_value` is given besides.
      asked: the edit in words, for messages.
      found: of a tapped value, whether the value comes out too, and not its cotangent alone.
    """

    key: Key
    tapped: bool = False
    of_value: Callable[..., Any] | None = None
    of_cotangent: Callable[..., Any] | None = None
    operands: int = 0
    asked: str = ""
    found: bool = True
    measure: Measure | None = None

    @property
    def keys(self) -> list[Key]:
        """The keys of the inputs that the action reads."""
        return [self.key] if self.tapped else [(*self.key, i) for i in range(self.operands)]


@dataclass(frozen=True, eq=False)
class Original:
    """What is replaced: the function from the values that enter a site to those that leave it."""

    site: Site
    around: Mapping[Var, Value]

    def __call__(self, *operands: Value) -> Any:
        """What leaves: one array, or a list."""
        return self._run(self.site.own, dict(zip(self.site.entering, operands, strict=True)))

    def after(self, place: Place, result: Value, *operands: Value) -> Any:
        """What leaves, if an operation of the site that all later ones follow gave `result`."""
        known = dict(zip(self.site.entering, operands, strict=True))
        later = self.site.own[self.site.own.index(place) + 1 :]
        return self._run(later, {**known, place.equation.outvars[0]: result})

    def _run(self, places: Sequence[Place], known: Mapping[Var, Value]) -> Any:
        eqns = [place.equation for place in places]
        outs = _jax.eval_equations(eqns, {**self.around, **known}, self.site.variables)
        return outs[0] if len(outs) == 1 else outs

    @property
    def __name__(self) -> str:
        return str(self.site)


@dataclass(frozen=True, eq=False)
class Replacement:
    """Operations of one block that are computed in another way."""

    site: Site
    by: Callable[..., Any]

    @property
    def last(self) -> Place:
        """The operation in whose place all of them are computed."""
        return self.site.own[-1]

    @property
    def skipped(self) -> list[Place]:
        """The operations before it, which are not run."""
        return self.site.own[:-1]

    def __call__(self, known: Mapping[Var, Value]) -> dict[Var, Value]:
        """The values that leave, by the function of those that enter."""
        variables, original = self.site.variables, Original(self.site, known)
        operands = [known[v] for v in self.site.entering]
        names = ["original", *(f"x{i}" for i in range(len(operands)))]
        errors.check_takes(self.by, names, f"The replacement of {self.site}")
        outs = self.by(original, *operands)
        several = outs if isinstance(outs, (list, tuple)) else [outs]
        if len(several) != len(variables):
            raise errors.EditError(
                f"The replacement of {self.site} returned {len(several)} value(s). Return one for each "
                f"of the {len(variables)} that leave it."
            )
        asked = f"The replacement of {self.site} must return"
        return {v: of_type(v.aval, y, asked) for v, y in zip(variables, several, strict=True)}


Inputs = Mapping[Key, Value]
Found = dict[Key, tuple[Value, Value]]
"""Of each tap, the value, and whether it is present."""


@dataclass(frozen=True, eq=False)
class Editor:
    """Runs the blocks of a program with actions on values and other rules for operations.

    Attributes:
      actions: by block and variable, in the order in which they are done.
      placed: by place, how the operation is run with another rule.
      opened: places whose call is replaced by the operations of its function.
      taps: the keys of all taps.
      replaced: what is computed in another way, by the last place of it.
      uses: by place and operand, or by block and result, a tap of the value for that reader alone.
      beside: calls that are run as they are, and of which the function is run too, for the values in it.
    """

    actions: Mapping[tuple[Block, Var], list[Action]]
    placed: Mapping[Place, Callable[..., list[Value]]]
    opened: frozenset[Place]
    taps: frozenset[Key]
    replaced: Mapping[Place, Replacement] = field(default_factory=dict)
    uses: Mapping[tuple[Place | Block, int], Action] = field(default_factory=dict)
    beside: frozenset[Place] = frozenset()
    concerned: dict[Block, bool] = field(default_factory=dict)

    def concerns(self, block: Block) -> bool:
        """Whether anything is changed in a block, or in one inside it."""
        if block not in self.concerned:
            own = any(True for _ in self.actions_in(block))
            changed = (self.placed, self.opened, self.replaced)
            places = any(p in where for p in block.places for where in changed)
            inner = any(self.concerns(b) for blocks in block.inner.values() for b in blocks)
            self.concerned[block] = own or places or inner
        return self.concerned[block]

    def actions_in(self, block: Block) -> Iterator[Action]:
        """All actions on values of a block, and on their uses there."""
        for v in block.variables:
            yield from self.actions.get((block, v), ())
        if self.uses:
            for reader, atoms in block.uses:
                yield from (
                    self.uses[reader, i] for i in range(len(atoms)) if (reader, i) in self.uses
                )

    def keys(self, block: Block) -> list[Key]:
        """The keys of all inputs that are read in a block."""
        own = [key for action in self.actions_in(block) for key in action.keys]
        return own + [k for blocks in block.inner.values() for b in blocks for k in self.keys(b)]

    def run(self, block: Block, args: Sequence[Value], inputs: Inputs) -> tuple[list[Value], Found]:
        """The block's results, and what is tapped in the block."""
        jaxpr = block.jaxpr
        known = dict(zip(jaxpr.constvars, block.consts, strict=True))
        known |= dict(zip(jaxpr.invars, args, strict=True))
        found: Found = {}
        for v in block.given:
            known[v] = self.acted(block, v, known[v], inputs, found)
        replaced = [self.replaced[place] for place in block.places if place in self.replaced]
        skipped = {place for replacement in replaced for place in replacement.skipped}
        for i, place in enumerate(block.places):
            if place in skipped:
                continue
            with _jax.in_place_of(place.equation):
                if place in self.replaced:
                    made = self.replaced[place](known)
                else:
                    operands = _jax.read(place.equation.invars, known)
                    operands = self.used(place, operands, inputs, found)
                    outs, inside = self.apply(place, block.inner.get(i, []), operands, inputs)
                    made = dict(zip(place.equation.outvars, outs, strict=True))
                    found |= inside
                for v, y in made.items():
                    known[v] = self.acted(block, v, y, inputs, found)
        return self.used(block, _jax.read(jaxpr.outvars, known), inputs, found), found

    def acted(self, block: Block, v: Var, y: Value, inputs: Inputs, found: Found) -> Value:
        """A variable's value, once everything is done with it that was asked for."""
        for action in self.actions.get((block, v), ()):
            y = act(action, y, inputs, found)
        return y

    def used(
        self, reader: Place | Block, values: list[Value], inputs: Inputs, found: Found
    ) -> list[Value]:
        """The values that an operation reads or a block returns, as they are for this reader alone."""
        if not self.uses:
            return values
        actions = [self.uses.get((reader, i)) for i in range(len(values))]
        pairs = zip(actions, values, strict=True)
        return [y if action is None else act(action, y, inputs, found) for action, y in pairs]

    def apply(
        self, place: Place, blocks: Sequence[Block], operands: Sequence[Value], inputs: Inputs
    ) -> tuple[list[Value], Found]:
        """Run one operation: by another rule, opened, with changes inside, or as it is."""
        if place in self.placed:
            return self.placed[place](operands), {}
        if place in self.opened:
            return self.run(blocks[0], operands, inputs)
        if any(map(self.concerns, blocks)):
            run = run_beside if place in self.beside else CALLS.get(place.op, custom_edited)
            return run(self, place, blocks, operands, inputs)
        return _jax.bind_equation(place.equation, operands), {}

    def inputs_of(self, block: Block, inputs: Inputs) -> dict[Key, Value]:
        """The inputs that are read in a block; a tapped integer has none."""
        return {key: inputs[key] for key in self.keys(block) if key in inputs}


def act(action: Action, y: Value, inputs: Inputs, found: Found) -> Value:
    """Tap or change one value."""
    if action.tapped:
        measure = action.measure
        y = tap(y, inputs[action.key], measure) if action.key in inputs else y
        if action.found:  # what goes on, so that the walk back may read what is returned
            tapped = y if measure is None else measure(lax.stop_gradient(y))
            found[action.key] = (tapped, jnp.bool_(True))
        return y
    if action.of_cotangent is not None:
        changed = checked(action, action.of_cotangent, "cotangent")
        takes_value = _number_of_parameters(action.of_cotangent) > 1
        return with_cotangent_changed(y, changed, takes_value)
    assert action.of_value is not None
    return checked(action, action.of_value, "value")(y, *(inputs[key] for key in action.keys))


def checked(action: Action, change: Callable[..., Any], of: str) -> Callable[..., Any]:
    """A user's function that must return what it was given: one array of the same type."""

    def run(x: Value, *others: Value) -> Value:
        asked, aval = f"The edit of a {of} at {action.asked}", _jax.typeof(x)
        errors.check_takes(change, [of, *(f"x{i}" for i in range(len(others)))], asked)
        return of_type(aval, change(x, *others), f"{asked} was given")

    return run


def of_type(aval: Any, y: Any, asked: str) -> Value:
    """What a user's function returned in the place of a value of this type.

    Raises:
      errors.EditError: it has another type.
    """
    found = _jax.typeof(_jax.canonicalize(y)) if _jax.is_array_type(y) else None
    if found is None or (found.shape, found.dtype) != (aval.shape, aval.dtype):
        shown = "no array" if found is None else found.str_short()
        raise errors.EditError(
            f"{asked} {aval.str_short()} and returned {shown}. Return an array of the same shape and "
            "dtype."
        )
    return _jax.as_array(y)


def _number_of_parameters(change: Callable[..., Any]) -> int:
    try:
        parameters = inspect.signature(change).parameters.values()
    except (TypeError, ValueError):
        return 1
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds and p.default is p.empty for p in parameters)


# --- calls


def jit_edited(
    editor: Editor, place: Place, blocks: Sequence[Block], operands: Sequence[Value], inputs: Inputs
) -> tuple[list[Value], Found]:
    """A jitted function, with its own settings for what were its operands and results."""
    given = editor.inputs_of(blocks[0], inputs)
    leaves, tree = jax.tree.flatten(given)
    trees: list[Any] = []

    def run(*flat: Value) -> list[Value]:
        given = jax.tree.unflatten(tree, flat[: len(leaves)])
        outs, found = editor.run(blocks[0], flat[len(leaves) :], given)
        more, found_tree = jax.tree.flatten(found)
        trees[:] = [found_tree]
        return [*outs, *more]

    args = [*leaves, *operands]
    name = place.params.get("name", "edited")
    jaxpr, consts = _jax.stage(run, [_jax.typeof(x) for x in args], name)
    results = _jax.bind_jit(_jax.close(jaxpr), [*consts, *args], place.params, shared=True)
    count = len(place.equation.outvars)
    return results[:count], jax.tree.unflatten(trees[0], results[count:])


def checkpoint_edited(
    editor: Editor, place: Place, blocks: Sequence[Block], operands: Sequence[Value], inputs: Inputs
) -> tuple[list[Value], Found]:
    """A checkpointed function; what is tapped is kept, as a result."""

    def run(args: Sequence[Value], given: Inputs) -> tuple[list[Value], Found]:
        return editor.run(blocks[0], args, given)

    params = place.params
    again = jax.checkpoint(run, policy=params["policy"], prevent_cse=params["prevent_cse"])
    return again([*operands], editor.inputs_of(blocks[0], inputs))


def call_edited(
    editor: Editor, place: Place, blocks: Sequence[Block], operands: Sequence[Value], inputs: Inputs
) -> tuple[list[Value], Found]:
    """A call that means nothing besides."""
    return editor.run(blocks[0], operands, inputs)


def scan_edited(
    editor: Editor, place: Place, blocks: Sequence[Block], operands: Sequence[Value], inputs: Inputs
) -> tuple[list[Value], Found]:
    """A scan; inputs and what is tapped have a leading axis for its steps."""
    settings = ScanSettings(*_jax.scan_settings(place.params))
    parts = settings.divide(operands)
    count = settings.num_carry

    def step(carry: Sequence[Value], x: Any) -> tuple[Any, Any]:
        of_step, given = x
        outs, found = editor.run(blocks[0], [*parts.consts, *carry, *of_step], given)
        return outs[:count], (outs[count:], found)

    xs = ([*parts.xs], editor.inputs_of(blocks[0], inputs))
    carry, (ys, found) = settings.run(step, [*parts.carries], xs)
    return [*carry, *ys], found


def while_edited(
    editor: Editor, place: Place, blocks: Sequence[Block], operands: Sequence[Value], inputs: Inputs
) -> tuple[list[Value], Found]:
    """A while loop; what is tapped is that of the last step, and sinks are carried.

    The operands of edits are the same in each step.
    """
    (block,) = blocks
    num_tests, num_consts = place.params["cond_nconsts"], place.params["body_nconsts"]
    of_test, of_body = operands[:num_tests], operands[num_tests : num_tests + num_consts]
    init = [*operands[num_tests + num_consts :]]
    given = editor.inputs_of(block, inputs)
    sinks = {key: given[key] for key in given if key in editor.taps}
    others = {key: given[key] for key in given if key not in editor.taps}

    def body(carry: Sequence[Value], of_step: Inputs) -> tuple[list[Value], Found]:
        return editor.run(block, [*of_body, *carry], {**others, **of_step})

    def test(loop: Any) -> Value:
        (going,) = _jax.eval_closed_jaxpr(place.params["cond_jaxpr"], [*of_test, *loop[0]])
        return going

    def step(loop: Any) -> Any:
        carry, _, carried = loop
        split = {key: sink_of_step(*both) for key, both in carried.items()}
        outs, found = body(carry, {key: sink for key, (sink, *_) in split.items()})
        return outs, found, {key: (*on,) for key, (_, *on) in split.items()}

    found = _blank(jax.eval_shape(body, init, sinks)[1])
    arrived = jnp.zeros((), jnp.float32)
    start = (init, found, {key: (sink, arrived) for key, sink in sinks.items()})
    outs, found, _ = lax.while_loop(test, step, start)
    return outs, found


def _blank(structs: Any) -> Any:
    """Zeros of these types."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), structs)


def cond_edited(
    editor: Editor, place: Place, blocks: Sequence[Block], operands: Sequence[Value], inputs: Inputs
) -> tuple[list[Value], Found]:
    """A cond or a switch; what is tapped in a branch that was not taken is zeros, and not present."""
    index, *args = operands
    given = {k: x for block in blocks for k, x in editor.inputs_of(block, inputs).items()}

    def branch(block: Block) -> Callable[..., Any]:
        return lambda args, given: editor.run(block, args, given)

    structures = [jax.eval_shape(branch(block), args, given)[1] for block in blocks]
    every = {key: struct for found in structures for key, struct in found.items()}

    def filled(block: Block) -> Callable[..., Any]:
        def run(args: Sequence[Value], given: Inputs) -> tuple[list[Value], Found]:
            outs, found = editor.run(block, args, given)
            missing = {key: struct for key, struct in every.items() if key not in found}
            both = {**found, **_blank(missing)}
            return outs, {key: both[key] for key in every}

        return run

    platforms = place.params.get("branches_platforms")
    outs, found = _jax.switch(index, [filled(block) for block in blocks], (args, given), platforms)
    return [*outs], found


def custom_edited(
    editor: Editor, place: Place, blocks: Sequence[Block], operands: Sequence[Value], inputs: Inputs
) -> tuple[list[Value], Found]:
    """A function with a derivative of its own, which leads to a call that is opened here."""
    if place.op not in _jax.FUNCTIONS:
        raise errors.EditError(
            f"An override by place was asked for inside `{place.op}`{place.in_brackets}, which is not "
            "entered. Override the function that is called there."
        )
    (block,) = blocks

    def run(*args: Value) -> list[Value]:
        return editor.run(block, args, inputs)[0]

    name = _jax.FUNCTIONS[place.op]
    avals = [v.aval for v in block.jaxpr.invars]
    closed = _jax.stage_closed(run, avals, unnamed(place.function))
    params = {**place.params, name: closed}
    return _jax.bind_equation(place.equation.replace(params=params), operands), {}


def run_beside(
    editor: Editor, place: Place, blocks: Sequence[Block], operands: Sequence[Value], inputs: Inputs
) -> tuple[list[Value], Found]:
    """A call as it is, with a derivative of its own, and the values that its function computes.

    No cotangent arrives at these: the derivative is not that of the operations inside.
    """
    (block,) = blocks
    outs = _jax.bind_equation(place.equation, operands)
    found = editor.run(block, [lax.stop_gradient(x) for x in operands], {})[1]
    return outs, found


def unnamed(function: str | None) -> str:
    """A function's name without its place."""
    return (function or "edited").split(" at ")[0]


CALLS: dict[Any, Callable[..., tuple[list[Value], Found]]] = {
    _jax.jit_p: jit_edited,
    _jax.remat_p: checkpoint_edited,
    lax.scan_p: scan_edited,
    lax.while_p: while_edited,
    lax.cond_p: cond_edited,
    _jax.shard_map_p: shard_map_edited,
    **dict.fromkeys(_jax.PLAIN_CALLS, call_edited),
}
"""How each call is run that is changed inside: those of `program.ENTERED`, and shard_map for graphs."""
