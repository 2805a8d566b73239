"""A program run in parts, of which equal ones are compiled once, as the layers of a deep network are.

A stretch of operations that occurs several times in a row is found by the operations alone: at which lag
they are the same as before. Each time is a part, and so is each stretch between. Two parts share a
compiled program if the operations are the same and read from one another in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from funcgrad import _jax
from funcgrad._jax import Atom, Equation, Value, Var

LEAST_SAVED = 64
"""Of how many operations the compilation must be saved before a program is parted."""

LONGEST = 4096
"""Of how many operations a repeated stretch may be."""

RUNS_PER_OPERATION = 4
"""How many parts are run in about the time in which one operation is compiled."""


def run_in_parts(closed: Any, args: Sequence[Value]) -> list[Value]:
    """The results of a closed jaxpr, compiled in parts and run once."""
    jaxpr = _jax.prune_keeping_inputs(closed.jaxpr)
    known = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    known.update(zip(jaxpr.invars, args, strict=True))
    programs: dict[Any, Callable[..., list[Value]]] = {}
    for part in parts_of(jaxpr):
        if part.key not in programs:
            programs[part.key] = part.compiled()
        values = programs[part.key](*(known[v] for v in part.reads))
        for v in part.reads_last:
            del known[v]
        known.update(zip(part.gives, values, strict=True))
    return _jax.read(jaxpr.outvars, known)


@dataclass(frozen=True)
class Part:
    """Some operations that follow one another.

    Attributes:
      eqns: the operations.
      reads: the variables that they read and do not make.
      reads_last: those of them that nothing reads later.
      gives: the variables that they make and something later reads.
      key: equal for parts that one program can run.
    """

    eqns: list[Equation]
    reads: list[Var]
    reads_last: list[Var]
    gives: list[Var]
    key: Any

    def compiled(self) -> Callable[..., list[Value]]:
        """The program of the part, from the values of `reads` to those of `gives`."""

        def run(*values: Value) -> list[Value]:
            known = dict(zip(self.reads, values, strict=True))
            return _jax.eval_equations(self.eqns, known, self.gives)

        return jax.jit(run, compiler_options=_jax.quick_compilation())


def parts_of(jaxpr: Any) -> list[Part]:
    """The parts of a program: repeated stretches, and what is between them."""
    kinds = _kinds(jaxpr.eqns)
    last: dict[Var, float] = {}
    for i, eqn in enumerate(jaxpr.eqns):
        last.update(dict.fromkeys(_jax.variables(eqn.invars), i))
    last.update(dict.fromkeys(_jax.variables(jaxpr.outvars), np.inf))
    return [
        _part(jaxpr.eqns[start:stop], kinds[start:stop], last, stop)
        for start, stop in _spans(kinds)
    ]


def _part(eqns: list[Equation], kinds: np.ndarray, last: dict[Var, float], stop: int) -> Part:
    numbers: dict[Var, int] = {}
    links = _links(eqns, numbers)
    made = {v: None for eqn in eqns for v in eqn.outvars}
    reads = [v for v in numbers if v not in made]
    gives = [v for v in made if last.get(v, -1) >= stop]
    key = kinds.tobytes(), links, tuple(numbers[v] for v in gives)
    return Part(eqns, reads, [v for v in reads if last[v] < stop], gives, key)


# --- which operations are the same


def _kinds(eqns: Sequence[Equation]) -> np.ndarray:
    """A number for each operation, the same for those that compute the same of what they read."""
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(_kind(eqn), len(numbers)) for eqn in eqns], np.int32)


def _kind(eqn: Equation) -> Any:
    operands = tuple(map(_type_or_number, eqn.invars))
    results = tuple((v.aval, _jax.is_dropped(v)) for v in eqn.outvars)
    params = tuple((name, _known_by(value)) for name, value in sorted(eqn.params.items()))
    return eqn.primitive, params, operands, results, eqn.ctx


def _type_or_number(v: Atom) -> Any:
    """What an operand is in itself: its type and, if it is a literal, its bits."""
    return v.aval, _jax.by_bits(np.asarray(v.val)) if _jax.is_literal(v) else None


def _links(eqns: Sequence[Equation], numbers: dict[Var, int]) -> tuple[int, ...]:
    """What reads what: of each operand its number; each variable has one when it is first met."""
    links = []
    for eqn in eqns:
        links += [numbers.setdefault(v, len(numbers)) for v in _jax.variables(eqn.invars)]
        for v in eqn.outvars:
            numbers.setdefault(v, len(numbers))
    return tuple(links)


def _structure(jaxpr: Any) -> Any:
    """A function that a call carries, the same for two that were traced from the same operations."""
    inputs = [*jaxpr.constvars, *jaxpr.invars]
    numbers = {v: i for i, v in enumerate(inputs)}
    links = _links(jaxpr.eqns, numbers)
    results = tuple(_type_or_number(v) if _jax.is_literal(v) else numbers[v] for v in jaxpr.outvars)
    return tuple(v.aval for v in inputs), tuple(map(_kind, jaxpr.eqns)), links, results


def _known_by(value: Any) -> Any:
    """By what a param is compared.

    `_jax.known` compares programs for another end, and more strictly: by the lines and name scopes too,
    which differ between layers that are written one below the other.
    """
    if isinstance(value, _jax.ClosedJaxpr):
        return _structure(value.jaxpr), *map(id, value.consts)
    if isinstance(value, _jax.Jaxpr):
        return _structure(value)
    if isinstance(value, (tuple, list)):
        return type(value), *map(_known_by, value)
    if isinstance(value, (bool, int, float, complex, np.generic)):
        return _jax.by_bits(value)
    return type(value), value if _jax.is_hashable(value) else id(value)


# --- which stretches are repeated


def _spans(kinds: np.ndarray) -> list[tuple[int, int]]:
    """Where the parts of a sequence begin and end, one after the other."""
    found, todo = [], [(0, len(kinds))]
    while todo:
        first, last = todo.pop()
        saved, length, start, times = _best_repeat(kinds[first:last])
        if saved < LEAST_SAVED:
            found.append((first, last))
            continue
        start += first
        stop = start + length * times
        found += [(i, i + length) for i in range(start, stop, length)]
        todo += [(first, start), (stop, last)]
    return sorted((first, last) for first, last in found if first < last)


def _best_repeat(kinds: np.ndarray) -> tuple[float, int, int, int]:
    """How much is saved by the repeat that saves most, how long it is, where it begins, how often it is.

    If all of a stretch is as it was `length` before, the stretch and what is before are a repeat.
    """
    best = (0.0, 0, 0, 0)
    for length in range(1, min(len(kinds) // 2, LONGEST) + 1):
        ends = np.flatnonzero(kinds[length:] != kinds[:-length])
        bounds = np.concatenate([[-1], ends, [len(kinds) - length]])
        same = np.diff(bounds) - 1
        longest = int(same.argmax())
        times = int(same[longest]) // length + 1
        saved = length * (times - 1) - times / RUNS_PER_OPERATION
        if saved > best[0]:
            best = saved, length, int(bounds[longest]) + 1, times
    return best
