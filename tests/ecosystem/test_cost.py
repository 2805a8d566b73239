"""What models of three libraries cost, which nobody edits: their matrix products, counted by hand."""

from __future__ import annotations

import pytest

from funcgrad.inspect import cost
from tests.ecosystem.models import LAYERS, ROWS, WIDTH, unrolled

ONE = 2 * ROWS * WIDTH * WIDTH
"""The operations of the product of one layer."""


@pytest.mark.parametrize(
    ("library", "scope"),
    [("linen", "Stack/layers_0/dense"), ("haiku", "dense"), ("equinox", "eqx.nn.Linear")],
)
def test_matrix_products_by_op_and_scope(library: str, scope: str) -> None:
    """Each product has two on the way back but the first, whose input has no gradient."""
    model = unrolled(library)
    found = cost(model.on_x, model.params, xla=False)
    (products,) = [row for row in found.by_op if row.name == "dot_general"]
    assert products.function.flops == LAYERS * ONE
    assert products.backward.flops == (2 * LAYERS - 1) * ONE
    assert scope in [row.name for row in found.by_scope]
