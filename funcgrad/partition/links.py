"""Which axes of an operation's operands are aligned with which of its outputs, by primitive.

`axes.py` says what aligned means. An axis of an operand that an entry does not name is mixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jax import lax

from funcgrad import _jax
from funcgrad._jax import Atom, Equation

Link = tuple[int, int, int]
"""An operand's number, its axis, and the axis of each output that this is aligned with."""


def links_of(eqn: Equation) -> list[Link] | None:
    """The links of an operation; None if the table does not know it."""
    links = LINKS.get(eqn.primitive) or SPARSE.get(eqn.primitive.name)
    if links is None and _jax.is_elementwise(eqn.primitive):
        links = same_axes
    return None if links is None else list(links(eqn))


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


def draw_links(eqn: Equation) -> Iterator[Link]:
    """Each key with what is drawn by it, where JAX draws by each key of a vmap."""
    together = any(_jax.draws_together(v.aval) for v in eqn.invars)
    return no_axes(eqn) if together else same_axes(eqn)


def no_axes(eqn: Equation) -> Iterator[Link]:
    """No link: each axis is mixed, or its rows lie on several devices, which a collective mixes."""
    return iter(())


def batch_of(indices: int, rank: int) -> Callable[[Equation], Iterator[Link]]:
    """The axes of a sparse array's batch: those of its indices before the last `rank`.

    `indices` is the place of the indices among the operands and the outputs.
    """

    def links(eqn: Equation) -> Iterator[Link]:
        count = len(shape_of([*eqn.invars, *eqn.outvars][indices])) - rank
        return (link for link in same_axes(eqn) if link[1] < count)

    return links


def each(primitives: Sequence[Any], said: Any) -> dict[Any, Any]:
    """The same for several primitives, of which this JAX version may lack some."""
    return {primitive: said for primitive in primitives if primitive is not None}


COLLECTIVES: tuple[Any, ...] = tuple(
    primitive
    for primitive in (
        *(lax.psum_p, lax.pmax_p, lax.pmin_p, lax.ppermute_p, lax.all_gather_p, lax.all_to_all_p),
        *(_jax.psum_invariant_p, _jax.all_gather_invariant_p, _jax.all_gather_reduced_p),
        *(_jax.pbroadcast_p, _jax.pbroadcast_dynamic_p, _jax.preduced_p, _jax.reduce_scatter_p),
        *(_jax.ragged_all_to_all_p, _jax.reduced_vary_cast_p, _jax.vary_unreduced_cast_p),
        *(_jax.unreduced_psum_p, _jax.unreduced_reduce_scatter_p),
    )
    if primitive is not None
)
"""Primitives that mix what lies along the axis of a mesh, and so examples too."""

LINKS: dict[Any, Callable[[Equation], Iterator[Link]]] = {
    **each(COLLECTIVES, no_axes),
    **each(
        (
            *(_jax.random_bits_p, _jax.random_split_p, _jax.random_fold_in_p),
            *(_jax.random_gamma_p, _jax.random_clone_p),
        ),
        draw_links,
    ),
    lax.rng_bit_generator_p: no_axes,
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
            *(_jax.pvary_p, _jax.name_p, _jax.random_wrap_p, _jax.held_p),
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
    lax.pad_p: pad_links,
    lax.slice_p: slice_links,
    lax.dot_general_p: dot_links,
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

SPARSE: dict[str, Callable[[Equation], Iterator[Link]]] = {
    "bcoo_todense": batch_of(indices=1, rank=2),
    "bcoo_fromdense": batch_of(indices=2, rank=2),
    "bcoo_extract": batch_of(indices=0, rank=2),
    "bcsr_todense": batch_of(indices=1, rank=1),
    "bcsr_fromdense": batch_of(indices=2, rank=1),
    "bcsr_extract": batch_of(indices=0, rank=1),
}
"""The same of sparse arrays, by name: importing them costs time. The others are read as programs."""
