"""What observes, names or places a value and leaves it as it is: prints, markers, layouts, metadata."""

from __future__ import annotations

from typing import Any

from funcgrad import _jax
from funcgrad.registry import defvjp, zero

OBSERVERS = zero(
    _jax.debug_callback_p,
    _jax.debug_print_p,
    _jax.inspect_sharding_p,
    _jax.check_p,
    _jax.dce_sink_p,
)

BLANKS = zero(
    _jax.zeros_like_p,
    _jax.empty_p,
    _jax.empty2_p,
    _jax.create_token_p,
    _jax.after_all_p,
)


@defvjp(
    _jax.stage_p,
    _jax.xla_metadata_value_p,
    _jax.layout_constraint_p,
    _jax.held_p,
    _jax.with_memory_space_constraint_p,
    elementwise=True,
)
def marker_vjp(ct: Any, x: Any, **_: Any) -> Any:
    return ct


@defvjp(_jax.tap_p)
def tap_vjp(ct: Any, x: Any, sink: Any, **_: Any) -> Any:
    # y = x; the sink is zeros whose cotangent is read after the walk back
    return ct, ct


@defvjp(_jax.tie_p)
def tie_vjp(ct: Any, x: Any, y: Any, **_: Any) -> Any:
    # z = y, computed after x
    return None, ct


@defvjp(_jax.shard_alike_p)
def shard_alike_vjp(ct: Any, x: Any, y: Any, **_: Any) -> Any:
    ct_x, ct_y = ct
    if ct_x is None or ct_y is None:
        return ct_x, ct_y
    return _jax.shard_alike(ct_x, ct_y)
