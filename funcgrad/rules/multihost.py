"""Rules of ``jax.experimental.multihost_utils``: each of the two is the other's transpose.

``default`` imports this file when somebody has imported what it has rules of.
"""

from __future__ import annotations

from typing import Any

from jax.experimental import multihost_utils

from funcgrad._jax import multihost
from funcgrad.registry import defvjp


@defvjp(multihost.host_local_array_to_global_array_p)
def host_local_to_global_vjp(ct: Any, x: Any, *, out: Any, global_mesh: Any, pspec: Any) -> Any:
    return multihost_utils.global_array_to_host_local_array(ct, global_mesh, pspec)


@defvjp(multihost.global_array_to_host_local_array_p)
def global_to_host_local_vjp(ct: Any, x: Any, *, out: Any, global_mesh: Any, pspec: Any) -> Any:
    return multihost_utils.host_local_array_to_global_array(ct, global_mesh, pspec)
