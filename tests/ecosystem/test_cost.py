"""What models of three libraries cost, which nobody edits: their matrix products, counted by hand."""

from __future__ import annotations

from typing import Any

import pytest

from funcgrad.inspect import cost
from tests.ecosystem.layers import equinox, haiku, linen

THREE = 2 * 4 * 3 * 3
"""A batch of 4 by a matrix of 3 by 3; the first layer's input has no gradient."""


@pytest.mark.parametrize(
    ("model", "forward", "backward", "scope"),
    [
        (linen, 2 * THREE, 3 * THREE, "Model/layers_0"),
        (haiku, 2 * 4 * (3 * 5 + 5 * 2), 2 * 4 * (3 * 5 + 2 * 5 * 2), "mlp/linear_0"),
        (equinox, 2 * THREE, 3 * THREE, "eqx.nn.Linear"),
    ],
    ids=["flax linen", "haiku", "equinox"],
)
def test_matrix_products_by_op_and_scope(
    model: Any, forward: int, backward: int, scope: str
) -> None:
    loss, params, *_ = model()
    found = cost(loss, params, xla=False)
    (products,) = [row for row in found.by_op if row.name == "dot_general"]
    assert (products.function.flops, products.backward.flops) == (forward, backward)
    assert scope in [row.name for row in found.by_scope]
