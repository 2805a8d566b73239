"""Every registered operation and every structure is in some random program."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import jax

import funcgrad
from funcgrad.registry import FunctionId
from funcgrad.testing.fuzz.generator import Writer, generate
from funcgrad.testing.fuzz.one import MODES, affordable
from funcgrad.testing.fuzz.programs import Block, Program, Type
from funcgrad.testing.fuzz.tastes import MIXED
from funcgrad.testing.fuzz.vocabulary import ALL
from tests.rules.cases import primitives_in

BETWEEN_DEVICES = "between devices, under shard_map"
INTERNAL = "made by JAX inside of others, with no function of its own"
NO_JAX = "jax.grad has no rule for it, so there is nothing to compare with here"
NO_VALUES = "gives no number: effects, tokens, keys"
RAW = "the machinery of random bits and keys, which jax.random stands for here"
SPARSE = "other sparse formats and operations, which have rows of their own"
PLACES = "where a value is, not what it is"


def words(*texts: str) -> list[str]:
    return " ".join(texts).split()


REASONS = {
    **dict.fromkeys(
        words(
            "psum psum_invariant pvary ppermute pbroadcast pbroadcast_dynamic all_gather reduce_scatter "
            "vary_unreduced_cast reduced_vary_cast all_gather_invariant all_to_all "
            "ragged_all_to_all all_gather_reduced unreduced_reduce_scatter unreduced_psum "
            "preduced vary_unreduced_cast_p reduced_vary_cast_p axis_index shard_map"
        ),
        BETWEEN_DEVICES,
    ),
    **dict.fromkeys(
        words(
            "add_any eval_jaxpr remat_opt zeros_like empty empty2 tie eq_to lt_to le_to "
            "igamma_grad_a select_and_gather_add select_and_scatter_add lu_pivots_to_permutation "
            "stage addupdate program_order one_minus_square polynomial tap"
        ),
        INTERNAL,
    ),
    **dict.fromkeys(
        words(
            "nextafter symmetric_product householder_product ormqr cholesky_update zeta scaled_dot "
            "composite custom_vmap_call custom_partitioning reduce_window"
        ),
        NO_JAX,
    ),
    **dict.fromkeys(
        words(
            "debug_callback debug_print inspect_sharding check dce_sink "
            "create_token after_all free_ref"
        ),
        NO_VALUES,
    ),
    **dict.fromkeys(
        words(
            "random_wrap random_unwrap random_split random_fold_in random_clone random_bits "
            "threefry2x32 threefry4x32 philox2x32 philox4x32 iota_2x32_shape "
            "rng_bit_generator rng_uniform"
        ),
        RAW,
    ),
    **dict.fromkeys(
        words(
            "sharding_constraint reshard layout_constraint shard_alike compute_on "
            "xla_metadata_value "
            "xla_metadata_call with_memory_space_constraint"
        ),
        PLACES,
    ),
    **dict.fromkeys(
        words(
            "bcoo_dot_general_sampled bcoo_extract bcoo_sort_indices bcoo_spdot_general "
            "bcoo_sum_duplicates bcoo_todense bcoo_transpose bcsr_dot_general bcsr_extract "
            "bcsr_fromdense bcsr_todense coo_fromdense coo_matmat coo_matvec coo_todense csr_fromdense "
            "csr_matmat csr_matvec csr_todense spsolve todense"
        ),
        SPARSE,
    ),
    **dict.fromkeys(
        words("global_array_to_host_local_array host_local_array_to_global_array"), BETWEEN_DEVICES
    ),
    "call_hi_primitive_linearized": INTERNAL,
    "held": "made for XLA's fusion in a gradient alone",
    "log_backward": "made for what a user's backward function logs",
    **dict.fromkeys(words("from_edtype to_edtype"), "between dtypes that a user defines"),
    "fused_call": "runs on accelerators alone where JAX does not inline it",
    "custom_lin": "made of a custom_vjp function in a custom_jvp one, so by no operation alone",
}
"""Why the generator cannot make a registered op."""

STRUCTURES = {"jit", "scan", "while", "cond", "remat2", "custom_jvp_call", "custom_vjp_call"}
SCOPE = {f"a{i}": Type(s, "float64") for i, s in enumerate([(), (2,), (2, 3), (2, 3), (3, 1)])}
SCOPE |= {"z0": Type((3,), "complex128"), "z1": Type((3,), "complex128")}
SCOPE |= {"i0": Type((2,), "int32"), "b0": Type((2, 3), "bool")}


def of_word(word: Any) -> Program:
    """A program that does nothing but this."""
    for seed in range(100):
        made = Writer(Random(seed), MIXED).apply(word, dict(SCOPE))
        if made is not None:
            footer = "weigh({0})" if made.types[0].is_inexact else "weigh({0} * 1.0)"
            block = Block("", "", (), (made,), made.names, footer)
            return Program(tuple((r, SCOPE[r]) for r in dict.fromkeys(made.reads)), block)
    raise AssertionError(f"no operands fit {word}")


def test_every_registered_op_is_made_or_has_a_reason() -> None:
    made = set()
    with jax.enable_x64(True):
        for word in ALL:
            program = of_word(word)
            made |= {str(p) for p in primitives_in(program.function(), *program.values())}
    registered = {str(op) for op in funcgrad.DEFAULT if not isinstance(op, FunctionId)}
    assert registered - made - STRUCTURES - set(REASONS) == set(), "no word makes these"
    assert set(REASONS) & made <= {"random_bits", "random_split", "random_wrap", "random_unwrap",
                                   "threefry2x32", "iota_2x32_shape", "select_and_scatter_add",
                                   "lt_to", "lu_pivots_to_permutation", "igamma_grad_a", "addupdate",
                                   "random_fold_in"}, "these are made after all"  # fmt: skip


def test_structures_are_made() -> None:
    made = set()
    with jax.enable_x64(True):
        for seed in range(60):
            program = generate(Random(seed), MIXED)
            made |= {str(p) for p in primitives_in(program.function(), *program.values())}
    names = {"checkpoint" if name == "remat2" else name for name in STRUCTURES}
    assert {name for name in names if not any(name in m for m in made)} <= {"checkpoint"}


def test_no_program_broadcasts_between_ranks_where_that_is_refused() -> None:
    strict = MODES.index("strict ranks")
    seeds = [seed for seed in (30293, 30310) if seed % len(MODES) == strict]
    assert len(seeds) == 2
    for seed in seeds:
        taste = affordable(MIXED, seed)
        assert _fits(generate(Random(seed), taste, seed))
        assert not _fits(generate(Random(seed), replace(taste, ranks="allow"), seed))


def _fits(program: Program) -> bool:
    try:
        with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
            jax.eval_shape(program.function(reference=True), *program.values())
    except ValueError:  # operands of different ranks
        return False
    return True


def test_reproducible_and_printable() -> None:
    assert generate(Random(3)).text == generate(Random(3)).text
    assert generate(Random(3)).text != generate(Random(4)).text
