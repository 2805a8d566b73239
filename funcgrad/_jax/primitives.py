"""Primitives that JAX does not document, by name; None for one that this version of JAX lacks."""

from __future__ import annotations

import importlib
from typing import Any

from jax import lax
from jax._src.ad_checkpoint import name_p  # noqa: F401
from jax._src.ad_util import add_any_p, zeros_like_p  # noqa: F401
from jax._src.interpreters.ad import custom_lin_p  # noqa: F401
from jax._src.pjit import reshard_p  # noqa: F401
from jax._src.random.core import random_clone_p, random_gamma_p  # noqa: F401
from jax._src.random.philox2x32 import philox2x32_p  # noqa: F401
from jax._src.random.philox4x32 import philox4x32_p  # noqa: F401
from jax._src.random.prng import (  # noqa: F401
    iota_2x32_shape_p,
    random_bits_p,
    random_fold_in_p,
    random_seed_p,
    random_split_p,
    random_unwrap_p,
    random_wrap_p,
)
from jax._src.random.threefry2x32 import threefry2x32_p  # noqa: F401
from jax._src.random.threefry4x32 import threefry4x32_p  # noqa: F401


def _found(module: str, name: str, package: str = "jax._src") -> Any:
    """What one of JAX's own modules defines, or None where this version lacks it.

    A module in another `package` of JAX's must cost little to import.
    """
    try:
        return getattr(importlib.import_module(f"{package}.{module}"), name, None)
    except ImportError:
        return None


# --- arrays

log2_p = getattr(lax, "log2_p", None)
one_minus_square_p = getattr(lax, "one_minus_square_p", None)
polynomial_p = getattr(lax, "polynomial_p", None)
ragged_dot_general_p = _found("lax.lax", "ragged_dot_general_p")
scaled_dot_p = _found("lax.scaled_dot", "scaled_dot_p")
stack_p = getattr(lax, "stack_p", None)
tile_p = getattr(lax, "tile_p", None)
unstack_p = getattr(lax, "unstack_p", None)

# --- blanks

after_all_p = _found("lax.lax", "after_all_p")
create_token_p = _found("lax.lax", "create_token_p")
empty2_p = _found("lax.lax", "empty2_p")
empty_p = _found("lax.lax", "empty_p")

# --- casts of extended dtypes

from_edtype_p = _found("lax.lax", "from_edtype_p")
to_edtype_p = _found("lax.lax", "to_edtype_p")

# --- callbacks

ffi_call_p = _found("ffi", "ffi_call_p")
pure_callback_p = _found("callback", "pure_callback_p")

# --- observers and markers

check_p = _found("checkify", "check_p")
dce_sink_p = _found("lax.lax", "dce_sink_p")
debug_callback_p = _found("debugging", "debug_callback_p")
debug_print_p = _found("debugging", "debug_print_p")
inspect_sharding_p = _found("debugging", "inspect_sharding_p")
layout_constraint_p = _found("pjit", "layout_constraint_p")
shard_alike = _found("shard_alike", "shard_alike")
shard_alike_p = _found("shard_alike", "shard_alike_p")
stage_p = _found("core", "stage_p")
tie_p = _found("lax.lax", "tie_p")
with_memory_space_constraint_p = _found("state.primitives", "with_memory_space_constraint_p")
xla_metadata_value_p = _found("xla_metadata", "xla_metadata_value_p")

# --- collectives

all_gather_invariant_p = _found("lax.parallel", "all_gather_invariant_p")
all_gather_reduced_p = _found("lax.parallel", "all_gather_reduced_p")
pbroadcast_dynamic_p = _found("lax.parallel", "pbroadcast_dynamic_p")
pbroadcast_p = _found("lax.parallel", "pbroadcast_p")
preduced_p = _found("lax.parallel", "preduced_p")
psum_invariant_p = _found("lax.parallel", "psum_invariant_p")
pvary_p = _found("core", "pvary_p")
ragged_all_to_all_p = _found("lax.parallel", "ragged_all_to_all_p")
reduce_scatter_p = _found("lax.parallel", "reduce_scatter_p")
reduced_vary_cast_p = _found("core", "reduced_vary_cast_p")
unreduced_psum_p = _found("lax.parallel", "unreduced_psum_p")
unreduced_reduce_scatter_p = _found("lax.parallel", "unreduced_reduce_scatter_p")
vary_unreduced_cast_p = _found("lax.parallel", "vary_unreduced_cast_p")

# --- calls of functions

composite_p = _found("lax.lax", "composite_p")
compute_on_p = _found("compute_on", "compute_on_p")
custom_partitioning_p = _found("custom_partitioning", "custom_partitioning_p")
custom_vmap_p = _found("custom_batching", "custom_vmap_p")
eval_jaxpr_p = (
    _found("interpreters.partial_eval", "eval_jaxpr_p")  # JAX up to 0.11
    or _found("lax.eval_jaxpr", "eval_jaxpr_p")
)
fused_p = _found("fused", "fused_p", "jax.experimental")
linear_call_p = _found("custom_derivatives", "linear_call_p")
platform_index_p = _found("lax.control_flow.conditionals", "platform_index_p")
program_order_p = _found("program_order", "program_order_p") or _found("pjit", "program_order_p")
remat_opt_p = _found("custom_derivatives", "remat_opt_p")
xla_metadata_call_p = _found("xla_metadata", "xla_metadata_call_p")
scheduling_group_call_p = _found(  # JAX up to 0.11
    "scheduling_groups", "xla_metadata_call_p", "jax.experimental"
)
