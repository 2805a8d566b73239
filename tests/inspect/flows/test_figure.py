"""The figure of a flow shows its layers, its flags and its thresholds."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from funcgrad.inspect import flow
from tests.inspect.flows.test_flags import X, network, weights


def test_layers_flags_and_numbers(tmp_path):
    pytest.importorskip("matplotlib", reason="pip install 'funcgrad[examples]'")
    found = flow(network(jax.nn.sigmoid), weights(1.0), X, update=optax.sgd(0.1))
    drawn = found.to_figure(tmp_path / "flow.png")
    assert (tmp_path / "flow.png").read_bytes().startswith(b"\x89PNG")
    values, cotangents, gradients, updates, shares = drawn.axes
    labels = [label.get_text() for label in values.get_yticklabels()]
    assert (labels[0], labels[-1]) == ("layer_0  (vanishing)", "layer_9")
    line = cotangents.lines[0]
    rows = found.rows()
    np.testing.assert_allclose(line.get_xdata(), [row["cotangent_norm"] for row in rows])
    assert [*line.get_ydata()] == [*range(10)]
    np.testing.assert_allclose(updates.lines[0].get_xdata(), [row["update_ratio"] for row in rows])
    assert "saturated > 50%" in shares.get_xlabel()
    left, right = gradients.get_xlim()
    norms = [row[name] for row in rows for name in ("gradient_norm", "weight_norm")]
    assert left < min(norms) < max(norms) < right


def test_numbers_that_a_logarithm_cannot_show(tmp_path):
    """Zeros and infinities are drawn at the edges."""
    pytest.importorskip("matplotlib", reason="pip install 'funcgrad[examples]'")

    def loss(w, x):
        with jax.named_scope("one"):
            h = jnp.log(x * w)
        with jax.named_scope("two"):
            h = jnp.sum(h) * 0.0
        return h

    drawn = flow(loss, jnp.zeros(3), jnp.ones(3)).to_figure(tmp_path / "flow.svg")
    assert [*drawn.axes[0].lines[2].get_ydata()] == [0, 1]


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install 'funcgrad\\[examples\\]'"):
        flow(lambda w: jnp.sum(jnp.sin(w)), jnp.ones(3)).to_figure()
