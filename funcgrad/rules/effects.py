"""What observes, names or places a value and leaves it as it is: prints, markers, layouts, metadata."""

from __future__ import annotations

from typing import Any

from funcgrad import _jax
from funcgrad.registry import defvjp, zero

OBSERVERS = zero(
    _jax.primitive("debug_callback_p", "debugging"),
    _jax.primitive("debug_print_p", "debugging"),
    _jax.primitive("inspect_sharding_p", "debugging"),
    _jax.primitive("check_p", "checkify"),
    _jax.primitive("dce_sink_p", "lax.lax"),
)

BLANKS = zero(
    _jax.primitive("zeros_like_p", "ad_util"),
    _jax.primitive("empty_p", "lax.lax"),
    _jax.primitive("empty2_p", "lax.lax"),
    _jax.primitive("create_token_p", "lax.lax"),
    _jax.primitive("after_all_p", "lax.lax"),
)


@defvjp(
    _jax.primitive("stage_p", "core"),
    _jax.primitive("xla_metadata_value_p", "xla_metadata"),
    _jax.primitive("layout_constraint_p", "pjit"),
    _jax.primitive("with_memory_space_constraint_p", "state.primitives"),
    elementwise=True,
)
def marker_vjp(ct: Any, x: Any, **_: Any) -> Any:
    return ct


@defvjp(_jax.primitive("tie_p", "lax.lax"))
def tie_vjp(ct: Any, x: Any, y: Any, **_: Any) -> Any:
    # z = y, computed after x
    return None, ct


@defvjp(_jax.primitive("shard_alike_p", "shard_alike"))
def shard_alike_vjp(ct: Any, x: Any, y: Any, **_: Any) -> Any:
    ct_x, ct_y = ct
    if ct_x is None or ct_y is None:
        return ct_x, ct_y
    return _jax.internal("shard_alike", "shard_alike")(ct_x, ct_y)
