"""Which axes of a program's values run side by side, and whether the rows along them keep apart.

Two axes are *aligned* if row i of the one goes into row i of the other, and into no other row. The
table of `links.py` says so for each primitive. What it does not say mixes rows: a sum over the axis, an
operation that is not in the table of `links.py`.

    y = x * w[None, :]      axis 0 of x with axis 0 of y, axis 1 of x and axis 0 of w with axis 1 of y
    z = y @ v               axis 0 of y with axis 0 of z; axis 1 of y is mixed

A reshape may merge axes. The first of them is then the *major* of the merged axis, whose blocks are its
rows: a vmapped convolution has its examples among the features so.

A vmapped program keeps its examples apart, unless a collective over the vmapped axis mixes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise, takewhile
from typing import Any

from jax import lax

from funcgrad import _jax
from funcgrad._jax import Atom, Aval, Equation, Var
from funcgrad.partition.links import each, links_of

Place = tuple[int | None, ...]
"""Which of a value's axes is each of the axes that were asked for."""


def rows_apart(closed: _jax.ClosedJaxpr, rows: Sequence[tuple[int, int]]) -> list[Place] | None:
    """For each input of a program, which of its axes are aligned with these axes of inputs.

    Args:
      rows: numbers of inputs, each with one of its axes.

    Returns:
      The places, or None if the program may mix rows along one of these axes.
    """
    axes = Axes()
    given = [axes.new(aval) for aval in closed.in_avals]
    axes.visit(closed, given)
    wanted = [axes.find(given[i][axis]) for i, axis in rows]
    if len({*wanted}) < len(wanted) or not axes.broken().isdisjoint(wanted):
        return None
    for value in axes.values:
        found = [part for axis in value for part in axes.parts(axis) if part in wanted]
        if len({*found}) < len(found):
            return None
    groups = [[axes.find(axis) for axis in value] for value in given]
    for value, group in zip(given, groups, strict=True):
        majors = {part for axis in value for part in axes.parts(axis)} - {*group}
        if not majors.isdisjoint(wanted):
            return None
    return [
        tuple(group.index(axis) if axis in group else None for axis in wanted) for group in groups
    ]


class Axes:
    """The axes of a program's values, in groups of aligned ones.

    Attributes:
      leader: from an axis to one that stands for its group, or to one nearer to that.
      majors: from a merged axis that stands for its group to its first axis.
      sizes: of each axis.
      mixed: axes whose rows are mixed.
      divided: merged axes that a reshape parts, or an operation reads in blocks: only the rows of
        their majors keep apart.
      values: the axes of each value.
    """

    def __init__(self) -> None:
        self.leader: dict[int, int] = {}
        self.majors: dict[int, int] = {}
        self.sizes: list[Any] = []
        self.mixed: list[int] = []
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
        known |= {v: self.new(v.aval) for v in jaxpr.constvars}

        def read(atoms: Sequence[Atom]) -> list[list[int]]:
            return [self.new(v.aval) if _jax.is_literal(v) else known[v] for v in atoms]

        for eqn in jaxpr.eqns:
            visit_call = CALLS.get(eqn.primitive, Axes.visit_operation)
            known.update(zip(eqn.outvars, visit_call(self, eqn, read(eqn.invars)), strict=True))
        return read(jaxpr.outvars)

    def visit_operation(self, eqn: Equation, given: Sequence[list[int]]) -> list[list[int]]:
        """An operation, whose links the table has."""
        outs = [self.new(v.aval) for v in eqn.outvars]
        linked: set[tuple[int, int]] = set()
        for operand, axis, out_axis in links_of(eqn):
            linked.add((operand, axis))
            for out in outs:
                self.align([given[operand][axis]], [out[out_axis]])
        if outs:
            self.mixed += [
                axis
                for i, value in enumerate(given)
                for k, axis in enumerate(value)
                if (i, k) not in linked
            ]
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
        return outs[0]

    def visit_scan(self, eqn: Equation, given: Sequence[list[int]]) -> list[list[int]]:
        """A scan: the carries mix its steps. Without carries, each step is a row by itself."""
        num_consts, num_carry, *_ = _jax.scan_settings(eqn.params)
        carries, xs = given[num_consts : num_consts + num_carry], given[num_consts + num_carry :]
        if num_carry:
            self.mixed += [x[0] for x in xs]
        inside = [*given[: num_consts + num_carry], *(x[1:] for x in xs)]
        outs = self.visit(_jax.close(eqn.params["jaxpr"]), inside)
        self.align_all(carries, outs[:num_carry])
        ys = [[self.new_axis(eqn.params["length"]), *y] for y in outs[num_carry:]]
        self.values += ys
        if not num_carry:
            for some, others in pairwise([*xs, *ys]):
                self.align(some[:1], others[:1])
        return [*outs[:num_carry], *ys]

    def visit_while(self, eqn: Equation, given: Sequence[list[int]]) -> list[list[int]]:
        """A loop. The axes of its test, if it has any, are its carries' first."""
        num_tests, num_consts = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        carries = given[num_tests + num_consts :]
        outs = self.visit(eqn.params["body_jaxpr"], given[num_tests:])
        self.align_all(carries, outs)
        (going,) = self.visit(eqn.params["cond_jaxpr"], [*given[:num_tests], *carries])
        for carry in carries:
            self.align(going, carry[: len(going)])
        return outs

    def visit_solve(self, eqn: Equation, given: Sequence[list[int]]) -> list[list[int]]:
        """A linear solve, whose solution has the axes of the right-hand side and of its product."""
        lengths, jaxprs = eqn.params["const_lengths"], eqn.params["jaxprs"]
        consts, start = {}, 0
        for name, length in lengths._asdict().items():
            consts[name] = given[start : start + length]
            start += length
        outs = self.visit(jaxprs.solve, [*consts["solve"], *given[start:]])
        products = self.visit(jaxprs.matvec, [*consts["matvec"], *outs[: len(given) - start]])
        self.align_all(products, given[start:])
        return outs

    def visit_barrier(self, eqn: Equation, given: Sequence[list[int]]) -> list[list[int]]:
        """Each output is an operand."""
        return list(given)

    def align_all(self, some: Sequence[list[int]], others: Sequence[list[int]]) -> None:
        for a, b in zip(some, others, strict=True):
            self.align(a, b)


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
    **each((lax.optimization_barrier_p, lax.device_put_p, _jax.shard_alike_p), Axes.visit_barrier),
}
"""Primitives of which no table of links can tell: they carry programs, or merge axes."""
