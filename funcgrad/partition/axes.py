"""Which axes of a program's values run side by side, and whether the rows along them keep apart.

Two axes are *aligned* if row i of the one goes into row i of the other, and into no other row. The
table of `links.py` says so for each primitive. An axis that the table links with no other is mixed: a
sum goes over it. A primitive that is not in the table is read as the program that JAX runs for it. Where
there is no such program, whether the rows keep apart is not known.

    y = x * w[None, :]      axis 0 of x with axis 0 of y, axis 1 of x and axis 0 of w with axis 1 of y
    z = y @ v               axis 0 of y with axis 0 of z; axis 1 of y is mixed

A reshape may merge axes. The first of them is then the *major* of the merged axis, whose blocks are its
rows: a vmapped convolution has its examples among the features so.

A vmapped program keeps its examples apart, unless a collective over the vmapped axis mixes them. Random
keys of the kind `rbg` mix them too: JAX draws for all of a vmap's keys by the first of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise, takewhile
from typing import Any, NamedTuple

import jax
from jax import lax

from funcgrad import _jax
from funcgrad._jax import Atom, Aval, Equation, Mask, Value, Var
from funcgrad.masks import select
from funcgrad.partition.links import each, links_of

Place = tuple[int | None, ...]
"""Which of a value's axes is each of the axes that were asked for."""


class Rows(NamedTuple):
    """What is known of the rows of a program.

    Attributes:
      places: for each input, which of its axes are aligned with those that were asked for. None if the
        rows are mixed, or if that is not known.
      unknown: the operation of which it is not known.
    """

    places: list[Place] | None
    unknown: Equation | None = None


class Fixed(list[int]):
    """The axes of a value that is the same whatever the rows are: a constant, or made of constants."""


def rows_apart(closed: _jax.ClosedJaxpr, rows: Sequence[tuple[int, int]], fixed: Mask = ()) -> Rows:
    """For each input of a program, which of its axes are aligned with these axes of inputs.

    Args:
      rows: numbers of inputs, each with one of its axes.
      fixed: which inputs stay as they are; none of these has a place. By default none does.
    """
    axes = Axes()
    fixed = fixed or (False,) * len(closed.in_avals)
    given = [axes.new(aval) for aval in closed.in_avals]
    inputs = zip(given, fixed, strict=True)
    axes.visit(closed, [Fixed(value) if is_fixed else value for value, is_fixed in inputs])
    wanted = [axes.find(given[i][axis]) for i, axis in rows]
    if len({*wanted}) < len(wanted) or not axes.broken().isdisjoint(wanted):
        return Rows(None)
    for value in axes.values:
        found = [part for axis in value for part in axes.parts(axis) if part in wanted]
        if len({*found}) < len(found):
            return Rows(None)
    for axis, eqn in axes.unknown:
        if not {*axes.parts(axis)}.isdisjoint(wanted):
            return Rows(None, eqn)
    groups = [[axes.find(axis) for axis in value] for value in given]
    for value, group, is_fixed in zip(given, groups, fixed, strict=True):
        majors = {part for axis in value for part in axes.parts(axis)} - {*group}
        if not is_fixed and not majors.isdisjoint(wanted):
            return Rows(None)

    def place(group: list[int]) -> Place:
        return tuple(group.index(axis) if axis in group else None for axis in wanted)

    pairs = zip(groups, fixed, strict=True)
    return Rows([place([] if is_fixed else group) for group, is_fixed in pairs])


class Axes:
    """The axes of a program's values, in groups of aligned ones.

    Attributes:
      leader: from an axis to one that stands for its group, or to one nearer to that.
      majors: from a merged axis that stands for its group to its first axis.
      sizes: of each axis.
      mixed: axes whose rows are mixed.
      unknown: axes of which that is not known, each with the operation that reads it.
      divided: merged axes that a reshape parts, or an operation reads in blocks: only the rows of
        their majors keep apart.
      values: the axes of each value.
    """

    def __init__(self) -> None:
        self.leader: dict[int, int] = {}
        self.majors: dict[int, int] = {}
        self.sizes: list[Any] = []
        self.mixed: list[int] = []
        self.unknown: list[tuple[int, Equation]] = []
        self.divided: list[int] = []
        self.values: list[list[int]] = []

    def new(self, aval: Aval) -> list[int]:
        """A value's axes, each in a group of its own."""
        found = [self.new_axis(size) for size in getattr(aval, "shape", ())]
        self.values.append(found)
        return found

    def new_axis(self, size: Any) -> int:
        """One more axis."""
        self.sizes.append(size)
        return len(self.sizes) - 1

    def find(self, axis: int) -> int:
        """The axis that stands for the group."""
        while axis in self.leader:
            axis = self.leader[axis]
        return axis

    def parts(self, axis: int) -> list[int]:
        """The axis, its major, the major of that, and so on: those that stand for their groups."""
        found = [self.find(axis)]
        while found[-1] in self.majors:
            found.append(self.find(self.majors[found[-1]]))
        return found

    def part_of_size(self, axis: int, size: Any) -> int | None:
        """The axis or the major that has so many rows."""
        return next((part for part in self.parts(axis) if self.sizes[part] == size), None)

    def broken(self) -> set[int]:
        """The groups of which some axis has rows that are mixed."""
        mixed = {part for axis in self.mixed for part in self.parts(axis)}
        return mixed | {self.find(axis) for axis in self.divided}

    def align(self, some: Sequence[int], others: Sequence[int]) -> None:
        """Put the axes of two values into the same groups, one by one."""
        for a, b in zip(some, others, strict=True):
            a, b = self.find(a), self.find(b)
            if a == b:
                continue
            self.leader[a] = b
            major = self.majors.pop(a, None)
            if major is None:
                continue
            other = self.majors.setdefault(b, major)
            if self.sizes[self.find(other)] == self.sizes[self.find(major)]:
                self.align([major], [other])
            else:  # merged of other axes
                self.mixed += [major, other]

    def visit(self, closed: _jax.ClosedJaxpr, given: Sequence[list[int]]) -> list[list[int]]:
        """Go through a program with these inputs; return the axes of its outputs."""
        jaxpr = closed.jaxpr
        known: dict[Var, list[int]] = dict(zip(jaxpr.invars, given, strict=True))
        known |= {v: Fixed(self.new(v.aval)) for v in jaxpr.constvars}

        def read(atoms: Sequence[Atom]) -> list[list[int]]:
            return [Fixed(self.new(v.aval)) if _jax.is_literal(v) else known[v] for v in atoms]

        for eqn in equations_used(jaxpr):
            given = read(eqn.invars)
            if all(isinstance(value, Fixed) for value in given):
                outs: list[list[int]] = [Fixed(self.new(v.aval)) for v in eqn.outvars]
            else:
                outs = CALLS.get(eqn.primitive, Axes.visit_operation)(self, eqn, given)
            known.update(zip(eqn.outvars, outs, strict=True))
        return read(jaxpr.outvars)

    def visit_operation(self, eqn: Equation, given: Sequence[list[int]]) -> list[list[int]]:
        """An operation: its links in the table, or the program that JAX runs for it."""
        links = links_of(eqn)
        if links is None and (program := program_behind(eqn)) is not None:
            return [list(out) for out in self.visit(program, given)]
        outs = [self.new(v.aval) for v in eqn.outvars]
        linked: set[tuple[int, int]] = set()
        for operand, axis, out_axis in links or ():
            linked.add((operand, axis))
            for out in outs:
                self.align([given[operand][axis]], [out[out_axis]])
        others = [
            axis
            for i, value in enumerate(given)
            for k, axis in enumerate(value)
            if (i, k) not in linked and not isinstance(value, Fixed)
        ]
        if outs and links is None:
            self.unknown += [(axis, eqn) for axis in others]
        elif outs:
            self.mixed += others
        return outs

    def visit_reshape(self, eqn: Equation, given: Sequence[list[int]]) -> list[list[int]]:
        """A reshape: from the left and from the right as far as the sizes agree, and what it merges."""
        order = eqn.params.get("dimensions")
        value = given[0] if order is None else [given[0][axis] for axis in order]
        out = self.new(eqn.outvars[0].aval)
        if 0 in (self.sizes[axis] for axis in value):
            self.mixed += value
            return [out]
        first = self.align_alike(value, out)
        last = self.align_alike(value[first:][::-1], out[first:][::-1])
        old, new = value[first : len(value) - last], out[first : len(out) - last]
        if len(old) > 1 and len(new) == 1:
            self.majors[self.find(new[0])] = old[0]
            old = old[1:]
        elif len(old) == 1 and len(new) > 1:
            major = self.part_of_size(old[0], self.sizes[new[0]])
            if major is not None:
                self.align([major], [new[0]])
                self.divided += old
                old = []
        self.mixed += old
        return [out]

    def align_alike(self, some: Sequence[int], others: Sequence[int]) -> int:
        """Align axes one by one as long as they have the same size; return how many have."""
        pairs = zip(some, others, strict=False)
        alike = [*takewhile(lambda pair: self.sizes[pair[0]] == self.sizes[pair[1]], pairs)]
        for a, b in alike:
            self.align([a], [b])
        return len(alike)

    def visit_convolution(self, eqn: Equation, given: Sequence[list[int]]) -> list[list[int]]:
        """A convolution. Each group of its features may be an example's, or some groups."""
        x, kernel = given
        out = self.new(eqn.outvars[0].aval)
        numbers, groups = eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
        (batch, feature, *_), (out_batch, out_feature, *_) = numbers.lhs_spec, numbers.out_spec
        of_kernel = kernel[numbers.rhs_spec[0]]
        kept = [of_kernel]
        self.align([of_kernel], [out[out_feature]])
        if eqn.params["batch_group_count"] == 1:
            kept.append(x[batch])
            self.align([x[batch]], [out[out_batch]])
        for part in self.parts(x[feature]) if groups > 1 else []:
            major = self.part_of_size(of_kernel, self.sizes[part])
            if major is not None and groups % self.sizes[part] == 0:
                kept.append(x[feature])
                if part != self.find(x[feature]):
                    self.divided.append(x[feature])
                self.align([part], [major])
                break
        self.mixed += [axis for axis in (*x, *kernel) if axis not in kept]
        return [out]

    # --- operations that carry a program

    def visit_call(self, eqn: Equation, given: Sequence[list[int]]) -> list[list[int]]:
        """A jitted function and the like."""
        return self.visit(_jax.close(eqn.params[_jax.jaxpr_param(eqn.params)]), given)

    def visit_cond(self, eqn: Equation, given: Sequence[list[int]]) -> list[list[int]]:
        """A switch: its outputs are those of each branch."""
        outs = [self.visit(_jax.close(branch), given[1:]) for branch in eqn.params["branches"]]
        for other in outs[1:]:
            self.align_all(outs[0], other)
        return [list(out) for out in outs[0]]

    def visit_scan(self, eqn: Equation, given: Sequence[list[int]]) -> list[list[int]]:
        """A scan: the carries mix its steps. Without carries, each step is a row by itself."""
        num_consts, num_carry, *_ = _jax.scan_settings(eqn.params)
        carries = [list(x) for x in given[num_consts : num_consts + num_carry]]
        xs = given[num_consts + num_carry :]
        if num_carry:
            self.mixed += [x[0] for x in xs if not isinstance(x, Fixed)]
        inside = [*given[:num_consts], *carries, *(type(x)(x[1:]) for x in xs)]
        outs = self.visit(_jax.close(eqn.params["jaxpr"]), inside)
        self.align_all(carries, outs[:num_carry])
        ys = [[self.new_axis(eqn.params["length"]), *y] for y in outs[num_carry:]]
        self.values += ys
        if not num_carry:
            for some, others in pairwise([*xs, *ys]):
                self.align(some[:1], others[:1])
        return [*carries, *ys]

    def visit_while(self, eqn: Equation, given: Sequence[list[int]]) -> list[list[int]]:
        """A loop. The axes of its test, if it has any, are its carries' first."""
        num_tests, num_consts = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        carries = [list(x) for x in given[num_tests + num_consts :]]
        consts = given[num_tests : num_tests + num_consts]
        self.align_all(carries, self.visit(eqn.params["body_jaxpr"], [*consts, *carries]))
        (going,) = self.visit(eqn.params["cond_jaxpr"], [*given[:num_tests], *carries])
        for carry in carries:
            self.align(going, carry[: len(going)])
        return carries

    def visit_solve(self, eqn: Equation, given: Sequence[list[int]]) -> list[list[int]]:
        """A linear solve, whose solution has the axes of the right-hand side and of its product."""
        given = [list(x) for x in given]
        lengths, jaxprs = eqn.params["const_lengths"], eqn.params["jaxprs"]
        consts, start = {}, 0
        for name, length in lengths._asdict().items():
            consts[name] = given[start : start + length]
            start += length
        outs = self.visit(jaxprs.solve, [*consts["solve"], *given[start:]])
        products = self.visit(jaxprs.matvec, [*consts["matvec"], *outs[: len(given) - start]])
        self.align_all(products, given[start:])
        return outs

    def visit_shard_map(self, eqn: Equation, given: Sequence[list[int]]) -> list[list[int]]:
        """A function of each device's part. An axis of which each device has all is the same inside."""
        program = _jax.close(eqn.params["jaxpr"])
        parts = [type(x)(self.new(aval)) for x, aval in zip(given, program.in_avals, strict=True)]
        outs = [self.new(v.aval) for v in eqn.outvars]
        found = self.visit(program, parts)
        for whole, part in zip([*given, *outs], [*parts, *found], strict=True):
            alike = [self.sizes[a] == self.sizes[b] for a, b in zip(whole, part, strict=True)]
            self.align(select(whole, alike), select(part, alike))
            if not isinstance(whole, Fixed):
                self.mixed += select(whole, [not same for same in alike])
        return outs

    def visit_barrier(self, eqn: Equation, given: Sequence[list[int]]) -> list[list[int]]:
        """Each output is an operand."""
        return list(given)

    def align_all(self, some: Sequence[list[int]], others: Sequence[list[int]]) -> None:
        for a, b in zip(some, others, strict=True):
            self.align(a, b)


def equations_used(jaxpr: _jax.Jaxpr) -> list[Equation]:
    """The operations on which an output depends: what nobody reads mixes nothing."""
    used, found = {*_jax.variables(jaxpr.outvars)}, list[Equation]()
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or not used.isdisjoint(eqn.outvars):
            used.update(_jax.variables(eqn.invars))
            found.append(eqn)
    return found[::-1]


def program_behind(eqn: Equation) -> _jax.ClosedJaxpr | None:
    """The program that JAX runs for a primitive that we do not know; None if there is none to read."""
    run = function_behind(eqn)
    if run is None or eqn.effects or not eqn.outvars:
        return None
    try:
        program = _jax.stage_closed(run, [v.aval for v in eqn.invars], str(eqn.primitive))
    except Exception:  # it is a function of arrays, not of tracers
        return None
    names_itself = any(inner.primitive is eqn.primitive for inner in program.jaxpr.eqns)
    return None if names_itself or len(program.out_avals) != len(eqn.outvars) else program


def function_behind(eqn: Equation) -> Callable[..., list[Value]] | None:
    """A primitive's outputs as a function of its operands; None if JAX has none."""
    if eqn.primitive is _jax.hi_call_p:
        prim = _jax.hi_primitive(eqn.params)
        return lambda *operands: _jax.hi_expand(prim, operands)
    found = _jax.implementation_of(eqn.primitive)
    return found and (lambda *operands: jax.tree.leaves(found(*operands, **eqn.params)))


CALLS: dict[Any, Callable[[Axes, Equation, Sequence[list[int]]], list[list[int]]]] = {
    **each(
        (
            *(*_jax.FUNCTIONS, _jax.remat_p, _jax.eval_jaxpr_p, _jax.remat_opt_p, _jax.composite_p),
            *(_jax.compute_on_p, _jax.scheduling_group_call_p, _jax.xla_metadata_call_p),
            *(_jax.program_order_p, _jax.fused_p),
        ),
        Axes.visit_call,
    ),
    lax.reshape_p: Axes.visit_reshape,
    lax.conv_general_dilated_p: Axes.visit_convolution,
    lax.cond_p: Axes.visit_cond,
    lax.scan_p: Axes.visit_scan,
    lax.while_p: Axes.visit_while,
    lax.linear_solve_p: Axes.visit_solve,
    _jax.shard_map_p: Axes.visit_shard_map,
    **each((lax.optimization_barrier_p, lax.device_put_p, _jax.shard_alike_p), Axes.visit_barrier),
}
"""Primitives of which no table of links can tell: they carry programs, or merge axes."""
