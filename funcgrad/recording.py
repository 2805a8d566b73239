"""A function run once under a tape, as a transform asks: with auxiliary data, taps and edits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.tree_util import keystr, tree_flatten, tree_leaves_with_path, tree_unflatten

from funcgrad import _jax, errors
from funcgrad._jax import Cotangent, Slot, Value
from funcgrad.arguments import check_output, check_pair
from funcgrad.calls.references import NO_CONTENTS, Contents
from funcgrad.nested import holding
from funcgrad.places.asked import NOTHING, Asked, Edited, edited
from funcgrad.places.taps import Tapped
from funcgrad.registry import Rules
from funcgrad.tape import Tape, record
from funcgrad.unused import Report


def on_arguments(
    fun: Callable[..., Any], positions: Sequence[int], args: Sequence[Any], kwargs: dict[str, Any]
) -> Callable[..., Any]:
    """`fun` as a function of its arguments at `positions`, the others as in the call."""

    def on_dynamic(*dynamic: Any) -> Any:
        filled = list(args)
        for i, arg in zip(positions, dynamic, strict=True):
            filled[i] = arg
        return fun(*filled, **kwargs)

    return on_dynamic


@dataclass(frozen=True)
class Run:
    """A function run once on flat leaves, with its tape.

    Attributes:
      outs: the output's leaves.
      slots: of each of these, None where no gradient leads.
      tape: the tape. Its first slots are those of the differentiated leaves, then those of sinks.
      tape_inputs: which leaves are differentiated.
      out_tree: the output's structure.
      aux: auxiliary data.
      content_slots: of each reference among the leaves, the slot of what it holds at the end.
      edited: the traced function with taps and edits, if there were any.
      found: what was tapped.
    """

    outs: list[Value]
    slots: tuple[Slot | None, ...]
    tape: Tape
    tape_inputs: tuple[int, ...]
    out_tree: Any
    aux: Any
    content_slots: tuple[Slot | None, ...]
    edited: Edited | None = None
    found: Any = None

    @property
    def inputs(self) -> range:
        """The slots of the differentiated leaves and of the sinks."""
        return range(len(self.tape_inputs) + len(self.edited.sinks if self.edited else ()))

    def tapped(self, cts: Sequence[Cotangent]) -> dict[str, Tapped]:
        """What is returned for taps, from the cotangents of all inputs."""
        assert self.edited is not None
        return self.edited.collector(self.found, cts[len(self.tape_inputs) :])


def run_recorded(
    on_leaves: Callable[..., Any],
    leaves: Sequence[Value],
    has_aux: bool,
    rules: Rules,
    strict: bool,
    name: str,
    report: Report,
    wanted: Sequence[bool] | None = None,
    contents: Contents = NO_CONTENTS,
    asked: Asked | None = None,
) -> Run:
    """Run the function under a tape; auxiliary data comes out without tracers of it.

    With taps, edits or overrides by place, the function is traced first, and its trace is run.
    """
    trees: dict[str, Any] = {}

    def flat(*args: Any) -> list[Any]:
        out = on_leaves(*args)
        aux = None
        if has_aux:
            check_pair(out, name)
            out, aux = out
        outs, trees["out"] = tree_flatten(out)
        aux_leaves, trees["aux"] = tree_flatten(aux)
        for path, y in tree_leaves_with_path(out):
            check_output(y, name, keystr(path))
        trees["num_outs"] = len(outs)
        return [*outs, *aux_leaves, *contents.leaving()]

    differentiated = [_jax.is_inexact(_jax.typeof(x)) for x in leaves]
    if wanted is not None:
        differentiated = [a and b for a, b in zip(differentiated, wanted, strict=True)]
    inputs = tuple(i for i, there in enumerate(differentiated) if there)
    rules = rules.strict() if strict else rules
    by_place = asked or (NOTHING if rules.placed else None)
    marked = () if by_place is None else by_place.functions_with(rules)
    program, found = None, None
    with holding(rules, name, marked) as seen:
        run, args = flat, [*leaves]
        if by_place is not None:
            run, program, args = _edited(flat, leaves, by_place, rules, name, strict, trees)
            differentiated += [True] * len(program.sinks)
        results, slots, tape = record(run, args, differentiated, rules, name)
        report.of(tape, seen)
    if program is not None:
        count = len(results) - trees["found"].num_leaves
        found = tree_unflatten(trees["found"], results[count:])
        results, slots = results[:count], slots[:count]
    num_outs, num_values = trees["num_outs"], len(results) - len(contents.places)
    return Run(
        results[:num_outs],
        tuple(slots[:num_outs]),
        tape,
        inputs,
        trees["out"],
        tree_unflatten(trees["aux"], results[num_outs:num_values]),
        tuple(slots[num_values:]),
        program,
        found,
    )


def _edited(
    flat: Callable[..., list[Value]],
    leaves: Sequence[Value],
    asked: Asked,
    rules: Rules,
    name: str,
    strict: bool,
    trees: dict[str, Any],
) -> tuple[Callable[..., list[Value]], Edited, list[Value]]:
    """The function traced, with what was asked for: to be run on its leaves and on sinks."""
    try:
        closed = _jax.stage_closed(flat, [_jax.typeof(x) for x in leaves], name)
    except jax.errors.ConcretizationTypeError as problem:
        raise errors.EditError(
            f"Taps, edits and overrides by place trace `{name}`, as jax.jit does, since a place is "
            "found in the whole program. The function reads a traced value in Python: write lax.cond or "
            "jnp.where there, or, if the value is no array that is differentiated, close over it "
            f"(functools.partial). {problem}"
        ) from problem
    program = edited(closed, asked, rules, name, strict)
    count = len(leaves)

    def run(*args: Value) -> list[Value]:
        results, found = program.run(args[:count], args[count:])
        more, trees["found"] = tree_flatten(found)
        return [*results, *more]

    return run, program, [*leaves, *(program.inputs[key] for key in program.sinks)]


def filled(
    cts: Sequence[Cotangent], like: Sequence[Value], places: Sequence[int]
) -> list[Cotangent]:
    """Cotangents of all leaves: zeros where none arrived, float0 zeros for integers."""
    found = dict(zip(places, cts, strict=True))
    return [
        ct if (ct := found.get(i)) is not None else _jax.zero_cotangent(x)
        for i, x in enumerate(like)
    ]
