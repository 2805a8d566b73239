"""Why a primitive of JAX has neither a rule nor an entry that says its derivative is zero."""

from __future__ import annotations

NO_JAX = "JAX has no derivative either"
KERNEL = "occurs only inside a Pallas kernel, whose body works on references; JAX has no derivative either"
TPU_KERNEL = "occurs only inside a Pallas TPU kernel; JAX has no derivative either"
CUDNN = (
    "is called by JAX's custom_vjp of cuDNN attention, which is differentiated as a whole; alone"
)
HANDSHAKE = "half of a collective that runs while other work goes on (experimental)"
HIJAX = "an experimental interface for types of one's own, without a documented entry point"
CALLBACK = "calls Python or foreign code that has no derivative: give the function a rule, as its error says"
THUNKY = "an instruction of the XLA:GPU thunk executor (experimental); JAX has no derivative either"

REASONS: dict[str, str] = {
    # arrays and linear algebra
    "select_and_scatter": f"scatters by any function, which need not be a sum; {NO_JAX}",
    "geqrf": f"packs R and reflectors as LAPACK does; {NO_JAX}; jnp.linalg.qr (the qr primitive) has one",
    "geqp3": f"packs a pivoted QR as LAPACK does; {NO_JAX}; the qr primitive with pivoting has one",
    "hessenberg": f"its Q is unique up to signs that LAPACK chooses; {NO_JAX}",
    "tridiagonal": f"its Q is unique up to signs that LAPACK chooses; {NO_JAX}; eigh has one",
    "schur": f"its Q is unique up to signs, and real blocks may split; {NO_JAX}",
    "scaled_matmul": f"a cuDNN kernel of 8-bit operands and scales; {NO_JAX}; lax.scaled_dot has one here",
    "scaled_matmul_wrapper": f"the partitioned form of scaled_matmul; {NO_JAX}",
    "relayout": "an explicit layout type of JAX 0.12 (experimental, no eager implementation): not built",
    "with_memory_space_constraint": "constrains the operands of a Pallas call, which has no rule itself",
    "platform_index": "the number of the platform that runs: it has no operands",
    "unreachable": "raises an error when it is run",
    "custom_jvp_call_jaxpr": "left over in JAX 0.10 and 0.12: nothing binds it",
    # shapes known only at export
    "dim_as_value": "the integer size of an exported symbolic axis: it has no operands",
    "dimension_size": "an integer, made while lowering an exported program",
    "shape_assertion": "an assertion about integers, made while lowering an exported program; no outputs",
    "call_exported": "calls serialized StableHLO, which has no jaxpr; JAX wraps it in a custom_vjp of its own",
    # fused attention by cuDNN
    "cudnn_fusion": f"a call that cuDNN compiles as one kernel; {NO_JAX}",
    "dot_product_attention_fwd": f"{CUDNN}, JAX has none",
    "dot_product_attention_fwd_wrapper": f"{CUDNN}, JAX has none",
    "dot_product_attention_bwd": f"is that custom_vjp's backward kernel; {NO_JAX}",
    "dot_product_attention_bwd_wrapper": f"is that custom_vjp's backward kernel; {NO_JAX}",
    "dot_product_attention_fp8_fwd": f"{CUDNN}, JAX has none",
    "dot_product_attention_fp8_fwd_wrapper": f"{CUDNN}, JAX has none",
    "dot_product_attention_fp8_bwd": f"is that custom_vjp's backward kernel; {NO_JAX}",
    "dot_product_attention_fp8_bwd_wrapper": f"is that custom_vjp's backward kernel; {NO_JAX}",
    # Pallas
    "pallas_call": "a kernel's body works on references, block by block: give the call a custom_vjp",
    "mpmd_map": "several Pallas kernels on different cores at once: give the call a custom_vjp",
    "core_map": f"maps a kernel over cores by side effects on references; {NO_JAX}",
    "tpu_custom_call": f"a compiled TPU kernel without a jaxpr; {NO_JAX}",
    "run_scoped": f"allocates references for a kernel; {NO_JAX}",
    "custom_fusion": f"a Pallas fusion's hook, which is replaced while fusing; {NO_JAX}",
    "fusible": f"marks a function for Pallas fusion, and is replaced while fusing; {NO_JAX}",
    "pack_dtype": f"packs arrays into a Pallas fusion dtype; {NO_JAX}",
    "unpack_dtype": f"unpacks arrays from a Pallas fusion dtype; {NO_JAX}",
    "get_global": "makes a reference that outlives a kernel's call: it has no operands",
    "program_id": "the integer place in a kernel's grid: it has no operands",
    "num_programs": "the integer size of a kernel's grid: it has no operands",
    "broadcast_to": KERNEL,
    "delay": KERNEL,
    "jaxpr_call": KERNEL,
    "masked_load": "reads a reference inside a Pallas kernel, whose call needs a custom_vjp",
    "masked_swap": "writes a reference inside a Pallas kernel, whose call needs a custom_vjp",
    "multiple_of": "a hint about an integer inside a Pallas kernel",
    "reciprocal": KERNEL,
    "semaphore_read": KERNEL,
    "semaphore_signal": KERNEL,
    "semaphore_wait": KERNEL,
    **dict.fromkeys(
        [
            "add_dependency",
            "bitcast",
            "dma_start",
            "dma_wait",
            "get_barrier_semaphore",
            "matmul_acc_lhs",
            "matmul_pop",
            "matmul_push_rhs",
            "pack_elementwise",
            "prng_join",
            "prng_random_bits",
            "prng_seed",
            "prng_split",
            "roll",
            "stochastic_round",
            "trace_value",
            "unpack_elementwise",
        ],
        TPU_KERNEL,
    ),
    # the thunk executor
    **dict.fromkeys(
        [
            "thunky.all_gather",
            "thunky.all_reduce",
            "thunky.all_to_all",
            "thunky.async_done",
            "thunky.async_start",
            "thunky.call_jax",
            "thunky.call_thunky_nested",
            "thunky.collective_group",
            "thunky.collective_permute",
            "thunky.cond",
            "thunky.copy",
            "thunky.custom_call",
            "thunky.inline_constant",
            "thunky.memset",
            "thunky.memzero",
            "thunky.ptx_kernel",
            "thunky.reduce_scatter",
            "thunky.while",
        ],
        THUNKY,
    ),
    # collectives
    **dict.fromkeys(
        [
            *(
                f"{name}_{half}"
                for half in ("start", "done")
                for name in ("all_gather", "all_to_all")
            ),
            *(
                f"{name}_{half}"
                for half in ("start", "done")
                for name in ("pbroadcast", "ppermute")
            ),
            *(
                f"{name}_{half}"
                for half in ("start", "done")
                for name in ("psum", "reduce_scatter")
            ),
            "all_gather_reduced_start",
            "psum_invariant_start",
            "unreduced_psum_start",
            "unreduced_reduce_scatter_start",
        ],
        f"{HANDSHAKE}; {NO_JAX}",
    ),
    "psend": f"{HANDSHAKE}; {NO_JAX}",
    "precv": f"{HANDSHAKE}; {NO_JAX}",
    "pmax": f"{NO_JAX}; the error says so",
    "pmin": f"{NO_JAX}; the error says so",
    "unreduced_pmax": NO_JAX,
    "unreduced_pmin": NO_JAX,
    # sparse arrays, recurrent networks and checks of key reuse in jax.experimental
    **dict.fromkeys(
        ["coo_spmm", "coo_spmv", "csr_spmm", "csr_spmv"],
        f"what a sparse product is lowered to on a GPU; {NO_JAX}; the product has one",
    ),
    "rnn_fwd": "is called by JAX's custom_vjp of the cuDNN LSTM, which is differentiated as a whole; alone, JAX has none",
    "rnn_bwd": f"is that custom_vjp's backward kernel; {NO_JAX}",
    "consume": "marks a random key as used, for the checker of key reuse: keys have no derivative",
    "assert_consumed_value": "asserts that a random key was used: keys have no derivative",
    # calls of what is no JAX program
    "pure_callback": CALLBACK,
    "io_callback": CALLBACK,
    "ffi_call": CALLBACK,
    "buffer_callback": CALLBACK,
    # references
    "accum_grad_in_ref": "made only by JAX's own backward pass",
    "empty_ref": "makes a reference that holds nothing yet: it has no operands",
    "create_linear": "made only while JAX lowers a Pallas kernel",
    "pin": "made only while JAX lowers a Pallas kernel",
    "unpin": "made only while JAX lowers a Pallas kernel",
    "run_state": "a loop over references inside Pallas kernels, without a documented entry point",
    # calls
    "call": "left over in JAX 0.10: nothing binds it",
    "closed_call": "made only by JAX's own transformations, after our rules have run",
    **dict.fromkeys(
        [
            "box_get",
            "box_set",
            "new_box",
            "call_hi_primitive",
            "call_hi_primitive_linearized",
            "log_extend",
            "log_read",
            "new_log",
        ],
        HIJAX,
    ),
}

MODULES: dict[str, str] = {"pallas.": KERNEL}
"""The same for all primitives of some of JAX's modules that have no reason of their own."""
