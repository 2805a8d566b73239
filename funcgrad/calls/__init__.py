"""Calls: primitives that carry a function, differentiated as a whole."""

from __future__ import annotations

from jax import lax

from funcgrad import _jax
from funcgrad.calls import (
    checkpoint,
    cond,
    custom,
    custom_vmap,
    jit,
    linear_call,
    linear_solve,
    references,
    replayed,
    scan,
    shard_map,
    while_loop,
    wrapped,
)
from funcgrad.registry import defcall

jit_call = defcall(_jax.jit_p)(jit.jit_call)
scan_call = defcall(lax.scan_p)(scan.scan_call)
while_call = defcall(lax.while_p)(while_loop.while_call)
cond_call = defcall(lax.cond_p)(cond.cond_call)
shard_map_call = defcall(_jax.shard_map_p)(shard_map.shard_map_call)
remat_call = defcall(_jax.remat_p)(checkpoint.remat_call)
linear_solve_call = defcall(lax.linear_solve_p)(linear_solve.linear_solve_call)
custom_jvp_call = defcall(_jax.custom_jvp_call_p)(custom.custom_jvp_call)
custom_vjp_call = defcall(_jax.custom_vjp_call_p)(custom.custom_vjp_call)
custom_linear_call = defcall(_jax.custom_lin_p)(custom.custom_linear_call)
user_transpose_call = defcall(_jax.primitive("linear_call_p", "custom_derivatives"))(
    linear_call.linear_call
)
plain_calls = defcall(
    _jax.primitive("eval_jaxpr_p", "interpreters.partial_eval")
    or _jax.primitive("eval_jaxpr_p", "lax.eval_jaxpr"),
    _jax.primitive("remat_opt_p", "custom_derivatives"),
)(wrapped.as_jitted)
compute_on_call = defcall(_jax.primitive("compute_on_p", "compute_on"))(
    wrapped.wrapped(wrapped.with_memory_spaces)
)
xla_metadata_call = defcall(_jax.primitive("xla_metadata_call_p", "xla_metadata"))(
    wrapped.wrapped(wrapped.with_metadata)
)
program_order_call = defcall(_jax.primitive("program_order_p", "program_order"))(
    wrapped.wrapped(wrapped.with_excluded)
)
composite_call = defcall(
    _jax.primitive("composite_p", "lax.lax"),
    _jax.primitive("custom_partitioning_p", "custom_partitioning"),
)(replayed.replayed)
custom_vmap_call = defcall(_jax.primitive("custom_vmap_p", "custom_batching"))(
    custom_vmap.batched_by_rule
)
new_ref = defcall(_jax.new_ref_p)(references.new_reference)
reference_call = defcall(_jax.get_p, _jax.swap_p, _jax.addupdate_p, _jax.freeze_p, _jax.free_ref_p)(
    references.reference_call
)
