"""What to checkpoint: candidates in a traced function, each tried on its trace and measured."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
from jax import lax

from funcgrad import _jax
from funcgrad._jax import Equation, Value, Var, variables
from funcgrad.calls.checkpoint import RematProgram
from funcgrad.inspect.ledger.flat import Flat, Step, flat_program, is_of_user, short_line
from funcgrad.inspect.ledger.source import surroundings
from funcgrad.inspect.ledger.walk import Walk
from funcgrad.partition.costs import operations
from funcgrad.printing import size_of

TRIED = 3
"""The most candidates that are tried: those that promise to leave the fewest bytes alive."""

MOST_STEPS = 4_000
"""The most operations of a function in which suggestions are tried: each try traces it again."""

WORTHWHILE = 0.8
"""A suggestion leaves at most this share of the bytes alive."""


@dataclass(frozen=True)
class Measured:
    """What a gradient keeps and does, measured on its trace.

    Attributes:
      kept: the bytes that the pullback keeps, arguments and constants left out.
      alive: these and the most that one checkpoint computes again for its own way back.
      operations: of the value and the gradient together, about; of a while loop, those of one step.

    Example:
      >>> from funcgrad.inspect import Measured
      >>> before, after = Measured(4000, 4000, 1e6), Measured(1000, 1500, 1.3e6)
      >>> print(before.alive - after.alive)
      2500
    """

    kept: int
    alive: int
    operations: float


Measure = Callable[[Callable[..., Any]], Measured]
"""From a function to what its gradient keeps and does."""


@dataclass(frozen=True)
class Suggestion:
    """A way to keep less by ``jax.checkpoint``, which was tried on the traced function.

    Attributes:
      around: what to put ``jax.checkpoint`` around: ``layers_*``, ``block (model.py:12)``.
      count: how many times that is called.
      before: what the gradient keeps and does now.
      after: the same with the checkpoints.
      function: the function with the checkpoints, for arguments of the same types.

    Example:
      >>> import jax.numpy as jnp
      >>> from funcgrad.inspect import Measured, Suggestion
      >>> before, after = Measured(4000, 4000, 1e6), Measured(1000, 1500, 1.3e6)
      >>> print(str(Suggestion("layers_*", 4, before, after, jnp.sin)).split(":")[0])
      jax.checkpoint around layers_* (4 times)
    """

    around: str
    count: int
    before: Measured
    after: Measured
    function: Callable[..., Any] = field(repr=False)

    @property
    def repeated(self) -> float:
        """The share of the operations of value and gradient that come on top."""
        return self.after.operations / max(1.0, self.before.operations) - 1.0

    def __str__(self) -> str:
        times = f" ({self.count} times)" if self.count > 1 else ""
        return (
            f"jax.checkpoint around {self.around}{times}: keeps {self.after.kept:,} B instead of "
            f"{self.before.kept:,} B, at most {self.after.alive:,} B alive, "
            f"{self.repeated:+.0%} operations"
        )


def suggestions_for(
    closed: Any, fun: Callable[..., Any], run: Callable[..., Any], measure: Measure
) -> tuple[list[Suggestion], list[str]]:
    """The candidates that leave the fewest bytes alive, the best first; and those that failed.

    Args:
      closed: the traced function, of at most `MOST_STEPS` operations.
      fun: the function itself.
      run: makes a function of the user's arguments of one of flat arrays.
      measure: says what the gradient of a function of the user's arguments keeps and does.
    """
    flat = flat_program(closed, is_opened=_is_users_call)
    now = measure(fun)
    ranked = sorted(candidates(flat), key=lambda candidate: candidate.promise(flat))
    found, failed = [], []
    for candidate in ranked[:TRIED]:
        function = run(_evaluator(flat, candidate))
        try:
            after = measure(function)
        except Exception as problem:  # not everything can be computed again: effects, for one
            failed.append(f"{candidate.around} ({type(problem).__name__})")
            continue
        if after.alive <= WORTHWHILE * now.alive:
            found.append(Suggestion(candidate.around, len(candidate.regions), now, after, function))
    return sorted(found, key=lambda each: (each.after.alive, each.after.operations)), failed


def _is_users_call(eqn: Equation) -> bool:
    return is_of_user(_jax.called_function(eqn) or "")


# --- candidates


@dataclass(frozen=True)
class Candidate:
    """Regions of a program that one edit of the source would checkpoint.

    Attributes:
      around: what the edit would be around.
      regions: of each region, the numbers of its steps.
      of_bodies: the regions are scans, of which the bodies would be checkpointed.
    """

    around: str
    regions: tuple[range, ...]
    of_bodies: bool = False

    def promise(self, flat: Flat) -> int:
        """About how many bytes would be alive, if every value were kept that no region computes."""
        inside = {i for region in self.regions for i in region}
        sizes = [sum(size_of(v.aval) for v in e.outvars) for e in flat.equations]
        entering = {v for region in self.regions for v in inputs_of(flat, region)}
        entering -= {*flat.inputs, *flat.constants}
        outside = sum(size for i, size in enumerate(sizes) if i not in inside)
        largest = max(sum(sizes[i] for i in region) for region in self.regions)
        return outside + sum(size_of(v.aval) for v in entering) + largest


def candidates(flat: Flat) -> list[Candidate]:
    """Name scopes, functions and bodies of scans of which there may be several, in that order."""
    found: dict[Any, Candidate] = {}
    for around, regions in (*_by_scope(flat), *_by_function(flat)):
        spans = tuple(regions)
        whole = len(spans) == 1 and len(spans[0]) >= 0.9 * len(flat.steps)
        if not whole and any(len(span) > 1 for span in spans):
            found.setdefault(spans, Candidate(around, spans))
    return [*found.values(), *_bodies_of_scans(flat)]


def _by_scope(flat: Flat) -> Iterator[tuple[str, list[range]]]:
    """Name scopes that differ by numbers alone, each time that one is entered a region."""
    paths = [_scopes_of(step) for step in flat.steps]
    for depth in range(1, max(map(len, paths), default=0) + 1):
        keys = [
            tuple((id(scope), call) for scope, call in path[:depth]) if len(path) >= depth else None
            for path in paths
        ]
        groups: dict[str, list[range]] = {}
        for span in _spans(keys):
            name = "/".join(scope.name for scope, _ in paths[span[0]][:depth])
            groups.setdefault(re.sub(r"\d+", "*", name), []).append(span)
        for pattern, spans in groups.items():
            one = "/".join(scope.name for scope, _ in paths[spans[0][0]][:depth])
            yield (pattern if len(spans) > 1 else one), spans


def _scopes_of(step: Step) -> list[tuple[Any, int | None]]:
    """The name scopes around a step, from the outside in, each with the jitted call that it is in.

    A jitted function is traced once: its scopes are the same objects in each call.
    """
    found: list[tuple[Any, int | None]] = []
    call = None
    for eqn in (*step.calls, step.equation):
        found += [(scope, call) for scope in _jax.scopes_of_equation(eqn)]
        call = id(eqn)
    return found


def _by_function(flat: Flat) -> Iterator[tuple[str, list[range]]]:
    """The user's functions, each call a region; and bodies of their loops, each iteration a region."""
    stacks = [_frames(step) for step in flat.steps]
    for depth in range(_common(stacks) + 1, max(map(len, stacks), default=0) + 1):
        keys = [_call_at(stack, depth) for stack in stacks]
        groups: dict[str, list[range]] = {}
        for span in _spans(keys):
            points = {i: stacks[i][depth - 1].point for i in span}
            file, name = stacks[span[0]][depth - 1].function
            for around, regions in _calls_and_loops(file, name.split(".<locals>.")[-1], points):
                groups.setdefault(around, []).extend(regions)
        yield from groups.items()


Point = tuple[int, int]
"""Line and column."""


def _calls_and_loops(
    file: str, name: str, points: dict[int, Point]
) -> Iterator[tuple[str, list[range]]]:
    """The calls of a function in a run of steps, and the iterations of its loops.

    Where the function's first point comes again, the function is called again, unless a loop in it is
    around that point. Each call begins there only if no branch is around that point. Without the source
    none of this is known, and nothing is found.
    """
    span = [*points]
    loops: dict[int, list[int]] = {}
    try:
        first = surroundings(file, points[span[0]][0])
        for i, (line, _) in points.items():
            loop = surroundings(file, line).loop
            if loop is not None:
                loops.setdefault(loop, []).append(i)
        branched = {
            loop: surroundings(file, points[steps[0]][0]).branched for loop, steps in loops.items()
        }
    except OSError:
        return
    if name.startswith("<") and name != "<lambda>":  # a comprehension, which is called for its loop
        return
    if not first.branched:
        calls = _returns(span, points) if first.loop is None else [range(span[0], span[-1] + 1)]
        yield f"{name} ({short_line(f'{file}:{min(points.values())[0]}')})", calls
    for loop, steps in loops.items():
        if not branched[loop]:
            regions = [r for run in _runs(steps) for r in _returns(run, points)]
            yield f"the body of the loop at {short_line(f'{file}:{loop}')}", regions


def _returns(span: Sequence[int], points: dict[int, Point]) -> list[range]:
    """A region from each return to the first point up to the next one."""
    first = points[span[0]]
    starts = [i for i in span if points[i] == first and (i == span[0] or points[i - 1] != first)]
    return [range(a, b) for a, b in zip(starts, [*starts[1:], span[-1] + 1], strict=True)]


def _runs(steps: Sequence[int]) -> Iterator[list[int]]:
    """Runs of consecutive numbers."""
    for span in _spans([i - k for k, i in enumerate(steps)]):
        yield [steps[k] for k in span]


class Frame(NamedTuple):
    """A call of a function of the user's, and where in it the way to an operation goes on.

    Attributes:
      function: its file and name.
      call: the jitted call by which it was called; None for an ordinary call.
      point: line and column.
    """

    function: tuple[str, str]
    call: int | None
    point: tuple[int, int]


def _frames(step: Step) -> list[Frame]:
    """The user's frames around a step, from the outside in.

    A jitted function is traced once, with the frames of its first caller. Of an operation in it only the
    frames from that function on are those of the call.
    """
    found: list[Frame] = []
    call: Equation | None = None
    for eqn in (*step.calls, step.equation):
        points = reversed(_jax.user_points(eqn.source_info))
        key = None if call is None else id(call)
        frames = [Frame((file, name), key, point) for file, point, name in points]
        if call is not None:
            called = (_jax.called_function(call) or "").partition(" at ")[0]
            names = [frame.function[1].rpartition(".")[2] for frame in frames]
            frames = frames[names.index(called) :] if called in names else []
        found += frames
        call = eqn
    return found


def _common(stacks: Sequence[list[Frame]]) -> int:
    """How many frames all stacks begin with."""
    shortest = min(stacks, key=len, default=[])
    pairs = enumerate(shortest)
    return next(
        (i for i, frame in pairs if any(stack[i] != frame for stack in stacks)), len(shortest)
    )


def _call_at(stack: Sequence[Frame], depth: int) -> Any:
    """What the steps of one call have in common: the callers with their lines, and the function."""
    if len(stack) < depth:
        return None
    return tuple(stack[: depth - 1]), stack[depth - 1][:2]


def _bodies_of_scans(flat: Flat) -> Iterator[Candidate]:
    """The bodies of scans in which there are no checkpoints yet."""
    for i, step in enumerate(flat.steps):
        if step.equation.primitive is lax.scan_p:
            body = step.equation.params["jaxpr"].jaxpr
            if all(eqn.primitive is not _jax.remat_p for eqn in body.eqns):
                around = f"the body of the scan at {step.spot.line or 'an unknown line'}"
                yield Candidate(around, (range(i, i + 1),), of_bodies=True)


def _spans(keys: Sequence[Any]) -> Iterator[range]:
    """The runs of equal keys that are not None."""
    start = 0
    for i in range(1, len(keys) + 1):
        if i == len(keys) or keys[i] != keys[start]:
            if keys[start] is not None:
                yield range(start, i)
            start = i


# --- trying them


def inputs_of(flat: Flat, region: Iterable[int]) -> list[Var]:
    """The variables that the steps of a region read and do not make."""
    eqns = [flat.steps[i].equation for i in region]
    made = {v for eqn in eqns for v in eqn.outvars}
    return [*dict.fromkeys(v for eqn in eqns for v in variables(eqn.invars) if v not in made)]


def _evaluator(flat: Flat, candidate: Candidate) -> Callable[..., list[Value]]:
    """A function of flat arrays that runs the program, with a candidate's checkpoints."""
    starting = {region.start: region for region in candidate.regions}
    last_read = {v: i for i, eqn in enumerate(flat.equations) for v in variables(eqn.invars)}
    last_read |= dict.fromkeys(variables(flat.results), len(flat.steps))

    def run(*args: Value) -> list[Value]:
        known = {**flat.constants, **dict(zip(flat.inputs, args, strict=True))}
        i = 0
        while i < len(flat.steps):
            region, eqn = starting.get(i), flat.steps[i].equation
            if region is None:
                known |= _jax.values_of([eqn], known)
            elif candidate.of_bodies:
                known |= _jax.values_of([_with_checkpointed_body(eqn)], known)
            else:
                known |= _checkpointed(flat, region, known, last_read)
            i = i + 1 if region is None else region.stop
        return _jax.read(flat.results, known)

    return run


def _checkpointed(
    flat: Flat, region: range, known: dict[Var, Value], last_read: dict[Var, int]
) -> dict[Var, Value]:
    """The values that a region makes and later steps read, under a checkpoint."""
    eqns = [flat.steps[i].equation for i in region]
    inputs = inputs_of(flat, region)
    made = [v for eqn in eqns for v in eqn.outvars]
    outputs = [v for v in made if last_read.get(v, 0) >= region.stop]

    def run(*values: Value) -> list[Value]:
        return _jax.eval_equations(eqns, dict(zip(inputs, values, strict=True)), outputs)

    results = jax.checkpoint(run)(*(known[v] for v in inputs))
    return dict(zip(outputs, results, strict=True))


def _with_checkpointed_body(eqn: Equation) -> Equation:
    closed = eqn.params["jaxpr"]

    def body(*args: Value) -> list[Value]:
        return jax.checkpoint(
            lambda *args: _jax.eval_closed_jaxpr(closed, args), prevent_cse=False
        )(*args)

    checkpointed = _jax.stage_closed(body, closed.in_avals, "body")
    return eqn.replace(params={**eqn.params, "jaxpr": checkpointed})


# --- measuring


def measured(jaxpr: Any, num_kept: int, walk: Walk) -> Measured:
    """What a gradient keeps and does.

    Args:
      jaxpr: the value and the gradient; its first results are the arrays that the pullback keeps.
      num_kept: how many these are.
      walk: the way back.
    """
    alive_anyway = {*jaxpr.invars, *jaxpr.constvars}
    results = {*variables(jaxpr.outvars[:num_kept])}
    kept = sum(size_of(v.aval) for v in results - alive_anyway)
    again = [0]
    for visit in walk.all():
        program = visit.node.pullback
        if isinstance(program, RematProgram):
            estimate, everything = program.estimates
            again.append(everything.kept - estimate.kept)
    return Measured(kept, kept + max(again), operations(jaxpr.eqns))
