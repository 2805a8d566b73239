"""The run and the walk back as steps, and as lines."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from funcgrad.inspect import graph
from tests.inspect.graphs import models
from tests.inspect.graphs.models import W, X


def test_lines_of_the_lecture():
    found = graph(models.lecture, 0.5, 2.0)
    # tanh(1) = 0.762, its slope 1 - 0.762**2 = 0.42
    assert [*map(str, found.forward())] == [
        "1. a = w * x: w = 0.5, x = 2 -> a = 1",
        "2. h = tanh(a): a = 1 -> h = 0.762",
        "3. p = h * w: h = 0.762, w = 0.5 -> p = 0.381",
        "4. e = p - 1.0: p = 0.381 -> e = -0.619",
        "5. b = e**2: e = -0.619 -> b = 0.383",
    ]
    lines = [*map(str, found.backward())]
    assert lines[1] == "backward 2. ct_p += ct_e = -1.24"
    assert lines[3] == "backward 4. ct_a += ct_h * (1 - h**2) = -0.26"
    assert lines[4].endswith("ct_w = -0.943 - 0.52 = -1.46")


def test_the_parts_of_a_step():
    found = graph(models.lecture, 0.5, 2.0)
    w, _ = found.inputs
    last = [*found.backward()][-1]
    assert last.node is found.nodes[0]
    assert [tensor.name for tensor in last.reads] == ["w", "x"]
    assert [tensor.name for tensor in last.arriving] == ["a"]
    assert [tensor.name for tensor, _ in last.adds] == ["w", "x"]
    assert last.completed == [w]


def test_contributions_add_up_to_the_gradient():
    found = graph(models.twice, X)
    sums = {}
    for step in found.backward():
        for tensor, one in step.adds:
            sums[tensor] = sums.get(tensor, 0) + one.gradient
    for tensor, total in sums.items():
        np.testing.assert_allclose(total, tensor.gradient, rtol=1e-6)
    np.testing.assert_allclose(sums[found.inputs[0]], jax.grad(models.twice)(X), rtol=1e-6)


def test_the_walk_back_is_the_run_reversed():
    found = graph(models.recurrent, W, X)
    there = [step.node for step in found.forward()]
    back = [step.node for step in found.backward()]
    assert back == [node for node in reversed(there) if node.is_pulled]


def test_inside_calls():
    found = graph(models.recurrent, W, X)
    assert len([*found.forward(inside=True)]) == sum(1 for _ in found.walk())
    names = [step.node.op.name for step in found.backward(inside=True)]
    first = names.index("scan")
    assert names[first + 1 : first + 5] == ["reduce_sum", "add", "tanh", "dot_general"]


def test_a_scalar_that_is_broadcast_has_a_summed_cotangent():
    found = graph(lambda a, x: jnp.sum(a * x), 2.0, X)
    lines = [*map(str, found.backward())]
    assert any("+= sum(ct_c * x) = 0.6" in line for line in lines), lines


def test_without_numbers_all_contributions_are_listed():
    found = graph(models.twice, jax.ShapeDtypeStruct((3,), jnp.float32))
    assert [str(step) for step in found.backward()][-1] == "backward 6. ct_x += ct_h * cos(x)"
    assert any("is complete, the sum of 2" in str(step) for step in found.backward())
