"""Which axes of a program's values run side by side, and whether the rows along them keep apart.

Two axes are *aligned* if row i of the one goes into row i of the other, and into no other row. The
table below says so for each primitive. What it does not say mixes rows: a sum over the axis, an
operation that is not in the table.

    y = x * w[None, :]      axis 0 of x with axis 0 of y, axis 1 of x and axis 0 of w with axis 1 of y
    z = y @ v               axis 0 of y with axis 0 of z; axis 1 of y is mixed

A vmapped program keeps its examples apart, unless a collective over the vmapped axis mixes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count, pairwise
from typing import Any

from jax import lax

from funcgrad import _jax
from funcgrad._jax import Atom, Aval, Equation, Var

Place = tuple[int | None, ...]
"""Which of a value's axes is each of the axes that were asked for."""

Link = tuple[int, int, int]
"""An operand's number, its axis, and the axis of each output that this is aligned with."""


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
    if len({*wanted}) < len(wanted) or any(axes.find(axis) in wanted for axis in axes.mixed):
        return None
    for value in axes.values:
        found = [axis for axis in map(axes.find, value) if axis in wanted]
        if len({*found}) < len(found):
            return None
    groups = [[axes.find(axis) for axis in value] for value in given]
    return [
        tuple(group.index(axis) if axis in group else None for axis in wanted) for group in groups
    ]


class Axes:
    """The axes of a program's values, in groups of aligned ones."""

    def __init__(self) -> None:
        self.leader: dict[int, int] = {}
        self.mixed: list[int] = []
        self.values: list[list[int]] = []
        self.numbers = count()

    def new(self, aval: Aval) -> list[int]:
        """A value's axes, each in a group of its own."""
        found = [next(self.numbers) for _ in getattr(aval, "shape", ())]
        self.values.append(found)
        return found

    def find(self, axis: int) -> int:
        """The axis that stands for the group."""
        while axis in self.leader:
            axis = self.leader[axis]
        return axis

    def align(self, some: Sequence[int], others: Sequence[int]) -> None:
        """Put the axes of two values into the same groups, one by one."""
        for a, b in zip(some, others, strict=True):
            if self.find(a) != self.find(b):
                self.leader[self.find(a)] = self.find(b)

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
        ys = [[next(self.numbers), *y] for y in outs[num_carry:]]
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


# --- what is aligned with what


def links_of(eqn: Equation) -> list[Link]:
    """The links of an operation; none if the table does not know it."""
    links = LINKS.get(eqn.primitive)
    if links is not None:
        return list(links(eqn))
    return list(same_axes(eqn)) if _jax.is_elementwise(eqn.primitive) else []


def shape_of(v: Atom) -> tuple[int, ...]:
    """The shape of an operand or a result."""
    aval: Any = v.aval
    return aval.shape


def shapes_of(eqn: Equation) -> tuple[list[tuple[int, ...]], tuple[int, ...]]:
    """The operands' shapes, and that of the outputs."""
    return [shape_of(v) for v in eqn.invars], shape_of(eqn.outvars[0])


def same_axes(eqn: Equation, but: Sequence[int] = ()) -> Iterator[Link]:
    """Each axis of an operand with the same of the output, but for some."""
    operands, out = shapes_of(eqn)
    for i, shape in enumerate(operands):
        for axis, (size, out_size) in enumerate(zip(shape, out, strict=False)):
            if size == out_size and axis not in but:
                yield i, axis, axis


def but_for(param: str) -> Callable[[Equation], Iterator[Link]]:
    """Each axis with the same of the output, but for those that a param names."""

    def links(eqn: Equation) -> Iterator[Link]:
        named = eqn.params[param]
        but = named if isinstance(named, tuple) else (named,)
        return same_axes(eqn, [axis % len(shape_of(eqn.invars[0])) for axis in but])

    return links


def leading(count_last: int) -> Callable[[Equation], Iterator[Link]]:
    """Each axis of a batch with the same of the output: all but the last ones."""

    def links(eqn: Equation) -> Iterator[Link]:
        rank = len(shape_of(eqn.invars[0])) - count_last
        yield from ((i, k, k) for i, v in enumerate(eqn.invars) for k in range(rank) if shape_of(v))

    return links


def without(param: str) -> Callable[[Equation], Iterator[Link]]:
    """The axes that are left, in order, where a param names those that are not."""

    def links(eqn: Equation) -> Iterator[Link]:
        for i, v in enumerate(eqn.invars):
            kept = [k for k in range(len(shape_of(v))) if k not in eqn.params[param]]
            yield from ((i, axis, out_axis) for out_axis, axis in enumerate(kept))

    return links


def broadcast_links(eqn: Equation) -> Iterator[Link]:
    operands, out = shapes_of(eqn)
    for axis, out_axis in enumerate(eqn.params["broadcast_dimensions"]):
        if operands[0][axis] == out[out_axis]:
            yield 0, axis, out_axis


def transpose_links(eqn: Equation) -> Iterator[Link]:
    for out_axis, axis in enumerate(eqn.params["permutation"]):
        yield 0, axis, out_axis


def reshape_links(eqn: Equation) -> Iterator[Link]:
    # from the left and from the right as far as the sizes agree
    (shape, *_), out = shapes_of(eqn)
    if 0 in shape or eqn.params.get("dimensions") is not None:
        return
    pairs = list(zip(shape, out, strict=False))
    first = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
    yield from ((0, i, i) for i in range(first))
    rest = list(zip(reversed(shape[first:]), reversed(out[first:]), strict=False))
    last = next((i for i, (a, b) in enumerate(rest) if a != b), len(rest))
    yield from ((0, len(shape) - 1 - i, len(out) - 1 - i) for i in range(last))


def pad_links(eqn: Equation) -> Iterator[Link]:
    padded = [k for k, config in enumerate(eqn.params["padding_config"]) if config != (0, 0, 0)]
    return same_axes(eqn, padded)


def slice_links(eqn: Equation) -> Iterator[Link]:
    strides = eqn.params.get("strides") or ()
    return same_axes(eqn, [k for k, stride in enumerate(strides) if stride != 1])


def dot_links(eqn: Equation) -> Iterator[Link]:
    contracting, batch = eqn.params["dimension_numbers"]
    free = len(batch[0])
    for i in range(2):
        yield from ((i, axis, out_axis) for out_axis, axis in enumerate(batch[i]))
        for axis in range(len(shape_of(eqn.invars[i]))):
            if axis not in contracting[i] and axis not in batch[i]:
                yield i, axis, free
                free += 1


def conv_links(eqn: Equation) -> Iterator[Link]:
    numbers = eqn.params["dimension_numbers"]
    if eqn.params["batch_group_count"] == 1:
        yield 0, numbers.lhs_spec[0], numbers.out_spec[0]


def gather_links(eqn: Equation) -> Iterator[Link]:
    (shape, *_), out = shapes_of(eqn)
    numbers = eqn.params["dimension_numbers"]
    of_indices = [k for k in range(len(out)) if k not in numbers.offset_dims]
    yield from ((1, axis, out_axis) for axis, out_axis in enumerate(of_indices))
    both = zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True)
    yield from ((0, axis, of_indices[along]) for axis, along in both)
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    window = [k for k in range(len(shape)) if k not in gone]
    for axis, out_axis in zip(window, numbers.offset_dims, strict=True):
        if eqn.params["slice_sizes"][axis] == shape[axis]:
            yield 0, axis, out_axis


def scatter_links(eqn: Equation) -> Iterator[Link]:
    (shape, _, updates), _ = shapes_of(eqn)
    numbers = eqn.params["dimension_numbers"]
    yield from ((0, axis, axis) for axis in range(len(shape)))
    of_indices = [k for k in range(len(updates)) if k not in numbers.update_window_dims]
    both = zip(numbers.operand_batching_dims, numbers.scatter_indices_batching_dims, strict=True)
    for axis, along in both:
        yield 1, along, axis
        yield 2, of_indices[along], axis
    gone = {*numbers.inserted_window_dims, *numbers.operand_batching_dims}
    window = [k for k in range(len(shape)) if k not in gone]
    for axis, of_update in zip(window, numbers.update_window_dims, strict=True):
        if updates[of_update] == shape[axis]:
            yield 2, of_update, axis


def stack_links(eqn: Equation) -> Iterator[Link]:
    new = eqn.params["axis"]
    for i, v in enumerate(eqn.invars):
        yield from ((i, axis, axis + (axis >= new)) for axis in range(len(shape_of(v))))


def unstack_links(eqn: Equation) -> Iterator[Link]:
    gone = eqn.params["axis"]
    rank = len(shape_of(eqn.invars[0]))
    yield from ((0, axis, axis - (axis > gone)) for axis in range(rank) if axis != gone)


def window_links(eqn: Equation) -> Iterator[Link]:
    """Each axis along which the window is one element, and takes the elements as they are."""
    params = eqn.params
    ones = (1,) * len(params["window_dimensions"])
    sides = zip(
        params["window_dimensions"],
        params["window_strides"],
        params.get("base_dilation") or ones,
        params["padding"],
        strict=True,
    )
    return same_axes(eqn, [k for k, how in enumerate(sides) if how != (1, 1, 1, (0, 0))])


def tile_links(eqn: Equation) -> Iterator[Link]:
    return same_axes(eqn, [k for k, times in enumerate(eqn.params["reps"]) if times != 1])


def callback_links(eqn: Equation) -> Iterator[Link]:
    """Each axis that all outputs share: JAX has a vectorized callback promise this of a vmap's axes."""
    if eqn.params["vmap_method"] not in ("expand_dims", "broadcast_all", "legacy_vectorized"):
        return
    outs = [shape_of(v) for v in eqn.outvars]
    shared = [len({*sizes}) == 1 for sizes in zip(*outs, strict=False)]
    alike = [k for k, same in enumerate(shared) if same]
    yield from (link for link in same_axes(eqn) if link[1] in alike)


def top_k_links(eqn: Equation) -> Iterator[Link]:
    rank = len(shape_of(eqn.invars[0]))
    return same_axes(eqn, [eqn.params.get("axis", -1) % rank])


def fft_links(eqn: Equation) -> Iterator[Link]:
    rank = len(shape_of(eqn.invars[0]))
    return same_axes(eqn, range(rank - len(eqn.params["fft_lengths"]), rank))


def each(primitives: Sequence[Any], said: Any) -> dict[Any, Any]:
    """The same for several primitives, of which this JAX version may lack some."""
    return {primitive: said for primitive in primitives if primitive is not None}


LINKS: dict[Any, Callable[[Equation], Iterator[Link]]] = {
    **each(
        (
            *(
                lax.select_n_p,
                lax.clamp_p,
                lax.stop_gradient_p,
                lax.convert_element_type_p,
                lax.copy_p,
                _jax.add_any_p,
            ),
            *(lax.sharding_constraint_p, _jax.reshard_p, _jax.layout_constraint_p),
            *(_jax.pvary_p, _jax.name_p, _jax.random_wrap_p, _jax.random_gamma_p),
            *(lax.dynamic_slice_p, lax.dynamic_update_slice_p),
        ),
        same_axes,
    ),
    **each(
        (
            *(lax.reduce_sum_p, lax.reduce_prod_p, lax.reduce_max_p, lax.reduce_min_p),
            *(lax.reduce_and_p, lax.reduce_or_p, lax.reduce_xor_p, lax.argmax_p, lax.argmin_p),
        ),
        without("axes"),
    ),
    lax.reduce_p: without("dimensions"),
    **each(
        (
            *(lax.reduce_window_p, lax.reduce_window_sum_p, lax.reduce_window_max_p),
            *(lax.reduce_window_min_p, lax.select_and_gather_add_p, lax.select_and_scatter_add_p),
        ),
        window_links,
    ),
    **each(
        (lax.cumsum_p, lax.cumprod_p, lax.cummax_p, lax.cummin_p, lax.cumlogsumexp_p, lax.split_p),
        but_for("axis"),
    ),
    **each((lax.sort_p, lax.concatenate_p), but_for("dimension")),
    **each(
        (
            *(lax.linalg.cholesky_p, lax.linalg.triangular_solve_p, lax.linalg.lu_p),
            *(lax.linalg.qr_p, lax.linalg.eigh_p, lax.linalg.svd_p, lax.linalg.eig_p),
            *(lax.linalg.householder_product_p, lax.linalg.ormqr_p, lax.linalg.symmetric_product_p),
            *(lax.linalg.schur_p, lax.linalg.hessenberg_p, lax.linalg.tridiagonal_p),
        ),
        leading(2),
    ),
    **each(
        (
            *(lax.scatter_p, lax.scatter_add_p, lax.scatter_sub_p, lax.scatter_mul_p),
            *(lax.scatter_min_p, lax.scatter_max_p),
        ),
        scatter_links,
    ),
    lax.rev_p: but_for("dimensions"),
    lax.squeeze_p: without("dimensions"),
    lax.broadcast_in_dim_p: broadcast_links,
    lax.transpose_p: transpose_links,
    lax.reshape_p: reshape_links,
    lax.pad_p: pad_links,
    lax.slice_p: slice_links,
    lax.dot_general_p: dot_links,
    lax.conv_general_dilated_p: conv_links,
    lax.gather_p: gather_links,
    lax.fft_p: fft_links,
    lax.top_k_p: top_k_links,
    lax.approx_top_k_p: but_for("reduction_dimension"),
    **each((lax.linalg.lu_pivots_to_permutation_p, lax.linalg.tridiagonal_solve_p), leading(1)),
    **each([_jax.stack_p], stack_links),
    **each([_jax.unstack_p], unstack_links),
    **each([_jax.tile_p], tile_links),
    **each((_jax.pure_callback_p, _jax.ffi_call_p), callback_links),
}
"""The links of primitives that are not elementwise, or that JAX does not list as elementwise."""

CALLS: dict[Any, Callable[[Axes, Equation, Sequence[list[int]]], list[list[int]]]] = {
    **each(
        (
            *(*_jax.FUNCTIONS, _jax.remat_p, _jax.eval_jaxpr_p, _jax.remat_opt_p, _jax.composite_p),
            *(_jax.compute_on_p, _jax.scheduling_group_call_p, _jax.xla_metadata_call_p),
            *(_jax.program_order_p, _jax.fused_p),
        ),
        Axes.visit_call,
    ),
    lax.cond_p: Axes.visit_cond,
    lax.scan_p: Axes.visit_scan,
    lax.while_p: Axes.visit_while,
    lax.linear_solve_p: Axes.visit_solve,
    **each((lax.optimization_barrier_p, lax.device_put_p, _jax.shard_alike_p), Axes.visit_barrier),
}
"""Primitives that carry programs."""
