"""Losses from many fields: equal gradients, and no more bytes on several devices than `jax.grad`'s."""

from __future__ import annotations

from typing import Any

import jax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import funcgrad
from benchmarks.chips import collectives
from benchmarks.fields import FIELDS
from benchmarks.loops import SCANS
from benchmarks.unrolled import UNROLLED
from benchmarks.workloads import MODELS, Workload
from tests.compare import assert_same
from tests.meshes import mesh_of

BATCH_AXIS = {
    **dict.fromkeys([w.name for w in SCANS if w.name.startswith(("lstm", "gru", "rnn"))], 1),
    **{"hmm": 1, "policy": 1, "predators": 1, "attractor": 1, "heston": 2},
}
"""Which axis of its data is the batch; the first where nothing is said."""

WITHOUT_BATCH = {"circuit", "kalman", "heat"}

MORE = {
    "gaussian_process": 1.2,  # the covariance is transposed once more: one all-to-all
    "nbody": 1.8,  # distances are computed again, so positions are gathered again; memory 0.01
    "survival": 2.5,  # a cumulative sum along the axis that is parted: 19 kB
}
"""What a device may receive, over what it receives by `jax.grad`."""

PARTED = tuple(w for w in (*FIELDS, *MODELS, *UNROLLED, *SCANS) if w.name not in WITHOUT_BATCH)


def by_name(workloads: tuple[Workload, ...]) -> Any:
    return pytest.mark.parametrize("workload", workloads, ids=lambda w: w.name)


@by_name(FIELDS)
def test_gradients_are_equal(workload: Workload) -> None:
    args = workload.make_args(True)
    ours, reference = (jax.jit(of(workload.loss)) for of in (funcgrad.grad, jax.grad))
    assert_same(ours(*args), reference(*args), rtol=2e-3)


def parted(x: jax.Array, axis: int) -> jax.Array:
    """`x` with this axis on four devices; an array without it is whole on each."""
    spec = P(*(None,) * axis, "a") if x.ndim > axis else P()
    return jax.device_put(x, NamedSharding(mesh_of(a=4), spec))


def received(of: Any, workload: Workload, args: Any) -> int:
    return collectives(str(jax.jit(of(workload.loss)).lower(*args).compile().as_text())).bytes


@by_name(PARTED)
def test_a_device_receives_no_more_than_by_jax_grad(workload: Workload) -> None:
    """Each device has its part of the batch, and all parameters."""
    params, *batch = workload.make_args(False)
    args = (
        jax.tree.map(lambda x: parted(x, x.ndim), params),
        *(parted(x, BATCH_AXIS.get(workload.name, 0)) for x in batch),
    )
    ours, reference = (received(of, workload, args) for of in (funcgrad.grad, jax.grad))
    assert ours <= MORE.get(workload.name, 1.02) * reference
