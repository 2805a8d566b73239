"""The picture of a ledger shows all bytes that it draws."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from funcgrad.inspect import residuals
from tests.inspect.ledger.programs import PROGRAMS, X, block

pytest.importorskip("matplotlib")

PLAIN = {"compiled": False, "suggest": False}


def lengths(axes):
    return sum(patch.get_width() for patch in axes.patches)


@pytest.mark.parametrize("name", ["chain", "recurrent", "checkpoint"])
def test_bars_add_up_to_what_is_drawn(name, tmp_path):
    fun, *args = PROGRAMS[name]
    ledger = residuals(fun, *args, compiled=False)
    figure = ledger.to_figure()
    left, right = figure.axes
    drawn = ledger.of("kept", "offloaded", "recomputed", "put off")
    assert lengths(left) == pytest.approx(sum(entry.bytes for entry in drawn) / 1000)
    labels = {text.get_text() for text in left.get_legend().get_texts()}
    assert labels == {entry.status for entry in drawn}
    assert right.get_lines()[-1 if ledger.suggestion else 0] is not None
    figure.savefig(tmp_path / "memory.png")
    assert (tmp_path / "memory.png").stat().st_size > 5000


def test_many_scopes_are_cut_or_added_up():
    def deep(x):
        for i in range(6):
            for j in range(4):
                with jax.named_scope(f"layer_{i}"), jax.named_scope(f"part_{j}"):
                    x = block(jnp.eye(8), x)
        return jnp.sum(x)

    ledger = residuals(deep, X, **PLAIN)
    left = ledger.to_figure(rows=8).axes[0]
    names = [text.get_text() for text in left.get_yticklabels()]
    assert names == [f"layer_{i}" for i in range(6)]
    left = ledger.to_figure(rows=3).axes[0]
    names = [text.get_text() for text in left.get_yticklabels()]
    assert len(names) == 4
    assert names[-1] == "3 smaller ones"
    assert lengths(left) == pytest.approx(ledger.kept / 1000)
