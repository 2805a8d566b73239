"""A graph as JSON, and arrays as a few numbers."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad
from funcgrad.inspect import graph
from funcgrad.inspect.graphs.export.numbers import data
from tests.inspect.graphs import models
from tests.inspect.graphs.models import W, X


def test_numbers_lead_from_one_list_to_another():
    found = graph(models.recurrent, W, X)
    known = json.loads(found.to_json())
    assert [tensor["id"] for tensor in known["tensors"]] == list(range(len(known["tensors"])))
    assert [op["id"] for op in known["ops"]] == list(range(len(known["ops"])))
    for op in known["ops"]:
        for i, tensor in enumerate(op["inputs"]):
            assert [op["id"], i] in known["tensors"][tensor]["readers"]
        assert all(known["tensors"][tensor]["maker"] == op["id"] for tensor in op["outputs"])
        assert op["op"] in known["kinds"]
    body = known["graphs"][1]
    assert body["kind"] == "scan"
    assert known["ops"][body["call"]]["graphs"] == [1]
    assert {inner for _, inner in body["entering"]} == set(body["inputs"])


def test_order_of_the_run_and_of_the_walk_back():
    found = graph(models.recurrent, W, X)
    known = found.as_dict()
    assert known["forward"] == sorted(known["forward"])
    assert known["backward"] == [step.node.index for step in found.backward(inside=True)]


def test_values_gradients_and_contributions():
    known = graph(models.twice, X).as_dict()
    x = known["tensors"][0]
    np.testing.assert_allclose(x["value"]["numbers"], X, rtol=1e-5)
    np.testing.assert_allclose(x["gradient"]["numbers"], jax.grad(models.twice)(X), rtol=1e-5)
    h = next(t for t in known["tensors"] if t["name"] == "h")
    total = sum(np.array(one["gradient"]["numbers"]) for one in h["contributions"])
    np.testing.assert_allclose(total, h["gradient"]["numbers"], rtol=1e-5)


def test_kinds_have_their_rules():
    kinds = graph(models.lecture, 0.5, 2.0).as_dict()["kinds"]
    assert kinds["tanh"]["rule"] == "tanh_vjp"
    assert kinds["tanh"]["mathematics"].startswith("y = tanh(x)")
    assert not kinds["tanh"]["zero"]


def test_no_path_of_the_machine_is_written():
    written = graph(lambda x: jnp.tanh(x) * x, 0.5).to_json()
    assert str(Path(funcgrad.__file__).parent) not in written
    assert '"place":"rules/elementwise.py:' in written


def test_the_line_of_source():
    known = graph(models.lecture, 0.5, 2.0).as_dict()
    tanh = known["ops"][1]
    assert tanh["line"] == "h = jnp.tanh(a)"
    assert tanh["where"].startswith("models.py:")
    assert tanh["where"].endswith(" (lecture)")


def test_few_elements_are_written_one_by_one():
    known = data(jnp.array([[1.0, -2.0], [jnp.nan, 4.0]]))
    assert known == {
        "shape": [2, 2],
        "min": -2.0,
        "max": 4.0,
        "mean": 1.0,
        "norm": pytest.approx(np.sqrt(21), rel=1e-5),
        "nonfinite": 1,
        "numbers": [[1.0, -2.0], ["nan", 4.0]],
    }


def test_many_elements_are_a_picture_and_a_histogram():
    x = np.linspace(-1, 3, 100 * 50).reshape(100, 50)
    known = data(x)
    picture = known["image"]
    pixels = np.frombuffer(base64.b64decode(picture["pixels"]), np.uint8)
    pixels = pixels.reshape(picture["rows"], picture["columns"])
    assert pixels.shape == (32, 32)
    assert (pixels[0, 0], pixels[-1, -1]) == (0, 255)
    counts, edges = np.histogram(x, 16)
    np.testing.assert_allclose(known["histogram"]["edges"], edges, atol=1e-5)
    np.testing.assert_allclose(known["histogram"]["counts"], counts, atol=1)


@pytest.mark.parametrize(
    "x",
    [
        jnp.ones(100),
        jnp.full(100, jnp.nan),
        jnp.zeros((0, 3)),
        jnp.arange(100) > 3,
        jnp.ones(100, jnp.bfloat16),
        1j * jnp.ones(3),
        jax.random.key(0),
        2.0,
    ],
    ids=lambda x: str(jax.typeof(x)),
)
def test_every_kind_of_array_can_be_written(x):
    json.dumps(data(x), allow_nan=False)


def test_what_is_no_array_is_nothing():
    assert data(None) is None
    assert data(jax.new_ref(1.0)) is None
