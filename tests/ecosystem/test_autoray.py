"""autoray, whose `do` calls the library of its argument's class."""

from __future__ import annotations

from typing import Any

import pytest

from tests.ecosystem.compare import check, draw, load

ar = load("autoray")

FUNCTIONS = {
    "elementwise": lambda x: ar.do("tanh", x) * ar.do("exp", -x),
    "contraction": lambda x: ar.do("tensordot", x, x, axes=((0,), (0,))),
    "decomposition": lambda x: ar.do("linalg.qr", x)[1],
    "attributes": lambda x: ar.do("reshape", ar.do("stack", [x, 2 * x]), (-1,)) ** 2,
    "einsum": lambda x: ar.do("einsum", "ij,kj->ik", x, x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function(name: str) -> None:
    def loss(x: Any) -> Any:
        assert ar.infer_backend(x) == "jax"
        return ar.do("sum", ar.do("sin", FUNCTIONS[name](x)))

    check(loss, draw(0, 4, 3), eager=True)
