"""The example draws the lecture's network with its numbers, and a transformer by its layers."""

import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import jax
import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    import draw_graph

    yield draw_graph
    sys.modules.pop("draw_graph", None)


def words(path):
    return [word for line in ET.parse(path).getroot().itertext() for word in line.split()]


def test_the_network_is_that_of_the_lecture(example, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["draw_graph.py"])
    example.main()
    drawn = words("draw_graph.svg")
    assert {"v", "w", "x", "target", "10.1", "12.1", "logistic"} <= {*drawn}
    value, gradients = jax.value_and_grad(example.loss, (0, 1))(
        example.V, example.W, example.X, example.TARGET
    )
    np.testing.assert_allclose(value, 4, rtol=1e-3)
    assert Path("draw_graph.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert {f"{float(x):.3g}" for gradient in gradients for x in gradient.ravel()} <= {*drawn}


def test_the_transformer_is_drawn_by_its_layers(example, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["draw_graph.py", "--transformer"])
    example.main()
    assert {f"layer_{i}" for i in range(12)} <= {*words("draw_graph.svg")}
    assert {"MultiHeadDotProductAttention_0", "tanh", "kernel"} <= {*words("draw_graph_layer.svg")}
