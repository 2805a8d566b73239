"""Flows of models of four libraries that nobody edits: rows, parameters and dead units."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcgrad.inspect import Thresholds, flow, value_grad_and_flow
from tests.ecosystem.models import ROWS as EXAMPLES
from tests.ecosystem.models import unrolled

ROWS = {
    "linen": ["Stack/layers_0/dense", "Stack/layers_1/dense"],
    "haiku": ["dense", "dense_1"],
    "equinox": ["eqx.nn.Linear#1", "eqx.nn.Linear#2"],
    "nnx": ["layer#1", "layer#2"],
}


@pytest.mark.parametrize("library", ROWS)
def test_layers_and_their_parameters(library):
    """Values of the network written out, gradients as jax.grad's, two parameters in each layer."""
    model = unrolled(library)
    loss, params, values = model.on_x, model.params, model.values(model.params)
    places = {"layer": model.site} if library == "nnx" else None
    found = jax.jit(value_grad_and_flow(loss, places=places))(params)[2]
    rows = [row for row in found.rows() if "gradient_norm" in row]
    assert [row["layer"] for row in rows] == ROWS[library]
    for row, value in zip(rows, values, strict=True):
        assert row["value_norm"] == pytest.approx(float(jnp.linalg.norm(value)), rel=1e-5)
    squares = [jnp.sum(ct**2) for ct in jax.tree.leaves(jax.grad(loss)(params))]
    total = np.sqrt(sum(row["gradient_norm"] ** 2 for row in rows))
    assert total == pytest.approx(float(np.sqrt(sum(squares))), rel=1e-5)
    assert sum(len(layer.parameters) for layer in found.layers) == 4


def test_lines_of_nnx():
    """Without scopes each line is a row, and has the parameters that the layers there read."""
    loss, params = (model := unrolled("nnx")).on_x, model.params
    rows = [row for row in flow(loss, params).rows() if "gradient_norm" in row]
    assert all(row["layer"].startswith("models.py:") for row in rows)
    squares = [jnp.sum(ct**2) for ct in jax.tree.leaves(jax.grad(loss)(params))]
    total = np.sqrt(sum(row["gradient_norm"] ** 2 for row in rows))
    assert total == pytest.approx(float(np.sqrt(sum(squares))), rel=1e-5)


def test_dead_units_of_linen():
    """The ReLU stands outside the scope of the layer that it belongs to."""
    loss, params = (model := unrolled("linen")).on_x, model.params
    dense = params["params"]["layers_0"]["dense"]
    dense["bias"] = dense["bias"].at[1].set(-100.0)
    row = "Stack/layers_0/dense"
    assert "dead" not in flow(loss, params)[row]  # 5 examples are too few
    found = flow(loss, params, thresholds=Thresholds(batch=EXAMPLES))
    assert found[row]["dead"] >= 1 / 4
