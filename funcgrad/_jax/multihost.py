"""Arrays of one host and of all: the primitives of ``multihost_utils``, which nothing imports early."""

from jax.experimental.multihost_utils import (  # noqa: F401
    global_array_to_host_local_array_p,
    host_local_array_to_global_array_p,
)
