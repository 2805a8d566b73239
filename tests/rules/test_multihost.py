"""Arrays of one host and of all hosts, here with one host."""

from __future__ import annotations

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import PartitionSpec as P

from funcgrad._jax import multihost
from tests.rules.cases import Case, normal

MESH = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("x",))


def to_global(x):
    return multihost_utils.host_local_array_to_global_array(x, MESH, P("x"))


def to_local(x):
    return multihost_utils.global_array_to_host_local_array(x, MESH, P("x"))


CASES = [
    Case(multihost.host_local_array_to_global_array_p, to_global, (normal(4, 3),)),
    Case(multihost.global_array_to_host_local_array_p, to_local, (normal(4, 3),)),
]
