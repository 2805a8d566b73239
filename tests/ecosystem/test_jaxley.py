"""A neuron with a branch, simulated by jaxley: implicit steps in a checkpointed scan."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import pytest

from tests.ecosystem.compare import check, load

jx = load("jaxley")
channels = load("jaxley.channels")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:jaxley")  # of its use of pandas


def test_cell() -> None:
    compartment = jx.Compartment()
    branch = jx.Branch(compartment, ncomp=1)
    cell = jx.Cell(branch, parents=[-1, 0])
    cell.insert(channels.HH())
    cell.branch(0).comp(0).stimulate(jx.step_current(0.1, 0.3, 0.3, 0.025, 0.5))
    cell.branch(1).comp(0).record(verbose=False)
    cell.make_trainable("HH_gNa", verbose=False)
    cell.make_trainable("radius", verbose=False)

    def loss(params: Any) -> Any:
        voltage = jx.integrate(cell, params=params, delta_t=0.025, t_max=0.5)
        return jnp.mean((voltage / 50) ** 2)

    check(loss, cell.get_parameters(), rtol=1e-7)
