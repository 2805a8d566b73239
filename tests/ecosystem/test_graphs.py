"""The graph of models that nobody edits: values, gradients and scopes."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from funcgrad.inspect import graph
from tests.compare import assert_same
from tests.ecosystem.models import unrolled


@pytest.mark.parametrize("library", ["linen", "haiku", "equinox"])
def test_graph_of_a_model(library):
    model = unrolled(library)
    loss, params, layers = model.on_x, model.params, model.site
    found = graph(loss, params)
    assert not found.note
    gradients = [tensor.gradient for tensor in found.inputs]
    assert_same(gradients, jax.tree.leaves(jax.grad(loss)(params)))
    if library != "equinox":  # whose selector means every call of a class
        for tensor, expected in zip(found.find(layers).values, model.values(params), strict=True):
            np.testing.assert_allclose(tensor.value, expected, rtol=1e-5)
    assert found.find(layers).nodes[0].scope or library == "equinox"
    assert found.to_json()
    assert found.to_dot()
    assert str(found).count("\n") < 100


@pytest.mark.parametrize("library", ["linen", "haiku"])
def test_types_in_the_place_of_arrays(library):
    model = unrolled(library)
    loss, params, layers = model.on_x, model.params, model.site
    types = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    found = graph(loss, types)
    assert [node.op.name for node in found.walk()] == [
        n.op.name for n in graph(loss, params).walk()
    ]
    assert len(found.find(layers)) > 0
    assert all(tensor.value is None for tensor in found.inputs)
