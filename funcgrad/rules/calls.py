"""Calls: primitives that carry a function, differentiated as a whole."""

from __future__ import annotations

from jax import lax

from funcgrad import (
    _jax,
    branches,
    calls,
    custom,
    loops,
    partition,
    refs,
    remat,
    shards,
    solves,
    while_loops,
)
from funcgrad.registry import defcall

jit_call = defcall(_jax.jit_p)(partition.jit_call)
scan_call = defcall(lax.scan_p)(loops.scan_call)
while_call = defcall(lax.while_p)(while_loops.while_call)
cond_call = defcall(lax.cond_p)(branches.cond_call)
shard_map_call = defcall(_jax.shard_map_p)(shards.shard_map_call)
remat_call = defcall(_jax.remat_p)(remat.remat_call)
linear_solve_call = defcall(lax.linear_solve_p)(solves.linear_solve_call)
custom_jvp_call = defcall(_jax.custom_jvp_call_p)(custom.custom_jvp_call)
custom_vjp_call = defcall(_jax.custom_vjp_call_p)(custom.custom_vjp_call)
custom_linear_call = defcall(_jax.custom_lin_p)(custom.custom_linear_call)
linear_call = defcall(_jax.primitive("linear_call_p", "custom_derivatives"))(calls.linear_call)
plain_calls = defcall(
    _jax.primitive("eval_jaxpr_p", "interpreters.partial_eval")
    or _jax.primitive("eval_jaxpr_p", "lax.eval_jaxpr"),
    _jax.primitive("remat_opt_p", "custom_derivatives"),
)(calls.as_jitted)
compute_on_call = defcall(_jax.primitive("compute_on_p", "compute_on"))(
    calls.wrapped(calls.with_memory_spaces)
)
xla_metadata_call = defcall(_jax.primitive("xla_metadata_call_p", "xla_metadata"))(
    calls.wrapped(calls.with_metadata)
)
program_order_call = defcall(_jax.primitive("program_order_p", "program_order"))(
    calls.wrapped(calls.with_excluded)
)
composite_call = defcall(
    _jax.primitive("composite_p", "lax.lax"),
    _jax.primitive("custom_partitioning_p", "custom_partitioning"),
)(calls.replayed)
custom_vmap_call = defcall(_jax.primitive("custom_vmap_p", "custom_batching"))(
    calls.batched_by_rule
)
new_ref = defcall(_jax.new_ref_p)(refs.new_reference)
reference_call = defcall(_jax.get_p, _jax.swap_p, _jax.addupdate_p, _jax.freeze_p, _jax.free_ref_p)(
    refs.reference_call
)
