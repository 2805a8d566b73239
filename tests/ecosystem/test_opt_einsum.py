"""opt_einsum, which chooses its backend by the module of an array's class."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import pytest

from tests.ecosystem.compare import check, draw, load

oe = load("opt_einsum")

CONTRACTIONS = {
    "contract": lambda *xs: oe.contract("ij,jk,kl->il", *xs),
    "expression": lambda *xs: oe.contract_expression("ij,jk,kl->l", (3, 4), (4, 3), (3, 2))(*xs),
    "constant": lambda x, y, z: oe.contract_expression(
        "ij,jk,kl->il", x.shape, draw(1, 4, 3), z.shape, constants=[1]
    )(x, z),
}


@pytest.mark.parametrize("name", CONTRACTIONS)
def test_contraction(name: str) -> None:
    def loss(xs: Any) -> Any:
        return jnp.sum(jnp.sin(CONTRACTIONS[name](*xs)))

    check(loss, (draw(0, 3, 4), draw(1, 4, 3), draw(2, 3, 2)), eager=True)
