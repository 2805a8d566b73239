"""Programs run with a look at each of their variables: which hold NaNs, and which infinities."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr

from funcgrad._jax.jaxprs import cache, is_literal, read, type_of, values_of, variables
from funcgrad._jax.types import Atom, Equation, Value, Var
from funcgrad._jax.values import Tracer, has_numbers, is_inexact, typeof

NAN, INF = "nan", "inf"

CHUNK = 2**30
"""Bytes of results that are kept at once."""


def marks_in(x: Value) -> tuple[Any, Any]:
    """Whether a value holds a NaN, and whether it holds an infinity."""
    if not may_be_bad(typeof(x)):
        return False, False
    if isinstance(x, Tracer):
        return jnp.isnan(x).any(), jnp.isinf(x).any()
    array = np.asarray(x)
    if np.isfinite(array).all():
        return False, False
    return bool(np.isnan(array).any()), bool(np.isinf(array).any())


def may_be_bad(aval: Any) -> bool:
    """Whether values of this type can be NaN."""
    return has_numbers(aval) and is_inexact(aval)


def all_finite(values: Sequence[Value]) -> Any:
    """Whether all numbers among some values are finite, as a scalar array of a bool."""
    finite = [jnp.isfinite(x).all() for x in values if may_be_bad(typeof(x))]
    return jnp.stack([jnp.array(True), *finite]).all()


@dataclass(frozen=True)
class Chunk:
    """Some equations of a jaxpr, one after the other, and what the equations before gave them."""

    eqns: Sequence[Equation]
    inputs: Mapping[Var, Value]

    @property
    def results(self) -> list[Var]:
        """The variables that the equations compute."""
        return [v for eqn in self.eqns for v in eqn.outvars]

    @cached_property
    def compiled(self) -> Callable[..., list[Value]]:
        """The equations as one compiled call, from the inputs to the results."""

        def compute(*args: Value) -> list[Value]:
            return read(
                self.results, values_of(self.eqns, dict(zip(self.inputs, args, strict=True)))
            )

        return compiled_rounded(compute, list(self.inputs.values()))

    def run(self) -> dict[Var, Value]:
        """What the equations compute."""
        return dict(zip(self.results, self.compiled(*self.inputs.values()), strict=True))


class MarkedRun:
    """A run of a jaxpr without constants on values, with marks for each of its variables.

    The jaxpr is run in chunks, so that not all values are there at once. A chunk is run again for the
    values of an equation in it.
    """

    def __init__(self, jaxpr: Jaxpr, args: Sequence[Value]):
        self.jaxpr = jaxpr
        known = dict(zip(jaxpr.invars, args, strict=True))
        self.marks = {v: marks_in(x) for v, x in known.items()}
        self.chunks: list[tuple[int, Chunk]] = []
        for start, stop in chunks_of(jaxpr):
            eqns = jaxpr.eqns[start:stop]
            made = {v for eqn in eqns for v in eqn.outvars}
            wanted = {v: None for eqn in eqns for v in variables(eqn.invars) if v not in made}
            chunk = Chunk(eqns, {v: known[v] for v in wanted})
            results = chunk.run()
            self.marks |= {v: marks_in(x) for v, x in results.items()}
            self.chunks.append((start, chunk))
            later = {v for eqn in jaxpr.eqns[stop:] for v in variables(eqn.invars)}
            known = {v: x for v, x in {**known, **results}.items() if v in later}

    def has(self, v: Atom, kind: str) -> bool:
        """Whether an operand or a result holds a value of this kind."""
        nan, inf = marks_in(v.val) if is_literal(v) else self.marks[v]
        return nan if kind == NAN else inf

    def is_bad(self, v: Atom) -> bool:
        """Whether an operand or a result holds a value that is not finite."""
        return self.has(v, NAN) or self.has(v, INF)

    def around(self, index: int) -> tuple[list[Value], list[Value]]:
        """The operands and the outputs of one equation."""
        _, chunk = next((start, c) for start, c in reversed(self.chunks) if start <= index)
        known = {**chunk.inputs, **chunk.run()}
        eqn = self.jaxpr.eqns[index]
        operands = [
            np.asarray(v.val, type_of(v).dtype) if is_literal(v) else known[v] for v in eqn.invars
        ]
        return operands, read(eqn.outvars, known)


def chunks_of(jaxpr: Jaxpr) -> Iterator[tuple[int, int]]:
    """Ranges of a jaxpr's equations whose results fit into ``CHUNK`` bytes, or of one equation."""
    start, size = 0, 0
    for index, eqn in enumerate(jaxpr.eqns):
        own = sum(_size_in_bytes(type_of(v)) for v in eqn.outvars)
        if size + own > CHUNK and index > start:
            yield start, index
            start, size = index, 0
        size += own
    if start < len(jaxpr.eqns):
        yield start, len(jaxpr.eqns)


def _size_in_bytes(aval: Any) -> int:
    itemsize = getattr(getattr(aval, "dtype", None), "itemsize", 0)
    return itemsize * int(np.prod(getattr(aval, "shape", ())))


def compiled_rounded(run: Callable[..., Any], args: Sequence[Value]) -> Callable[..., Any]:
    """Compile a function for such arguments, with each number rounded to its dtype as outside jit."""
    lowered = jax.jit(run).lower(*args)
    places = tuple(getattr(x, "sharding", None) for x in args)
    return _compiled(_Program(lowered.as_text(), places, lowered.out_tree, lowered))


@dataclass(frozen=True)
class _Program:
    """A lowered program, known by its text: the same program need not be compiled again."""

    text: str
    places: tuple[Any, ...]
    out_tree: Any
    lowered: Any = field(compare=False)


@cache()
def _compiled(program: _Program) -> Callable[..., Any]:
    return program.lowered.compile({"xla_allow_excess_precision": False})
