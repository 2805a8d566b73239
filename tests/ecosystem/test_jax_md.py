"""Energies and forces of jax-md, a relaxation, and a simulation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from tests.ecosystem.compare import check, draw, load

jax_md = load("jax_md")
energy, minimize, simulate, space = (
    load(f"jax_md.{name}") for name in ("energy", "minimize", "simulate", "space")
)

BOX = 4.0
DISPLACEMENT, SHIFT = space.periodic(BOX)
PLACES = 4.0 * jnp.stack(jnp.meshgrid(*[jnp.arange(2) / 2] * 3), -1).reshape(-1, 3)

ENERGIES = {
    "soft sphere": energy.soft_sphere_pair(DISPLACEMENT, sigma=2.2),
    "Lennard-Jones": energy.lennard_jones_pair(DISPLACEMENT, sigma=1.5),
    "Morse": energy.morse_pair(DISPLACEMENT),
    "Stillinger-Weber": energy.stillinger_weber(DISPLACEMENT),
}


def places() -> Any:
    return (PLACES + 0.2 * draw(0, 8, 3)) % BOX


@pytest.mark.parametrize("name", ENERGIES)
def test_energy(name: str) -> None:
    check(ENERGIES[name], places(), rtol=1e-8)


def test_simulation() -> None:
    def loss(sigma: Any, start: Any) -> Any:
        fn = energy.soft_sphere_pair(DISPLACEMENT, sigma=sigma)
        init, step = simulate.nve(fn, SHIFT, dt=1e-2)
        state = init(jax.random.key(0), start, kT=0.1)
        return jnp.sum(jnp.sin(jax.lax.fori_loop(0, 5, lambda i, s: step(s), state).position))

    check(loss, jnp.asarray(2.2), places(), argnums=(0, 1), rtol=1e-8)
