"""The page of a transformer of 12 layers, written with flax linen and not edited for it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import funcgrad
from funcgrad.inspect.graphs.repeats import Part
from tests.inspect.graphs.browser import chromium, opened, why_not

nn = pytest.importorskip("flax.linen")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

LAYERS = 12


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = x + nn.MultiHeadDotProductAttention(num_heads=4)(nn.LayerNorm()(x))
        hidden = nn.gelu(nn.Dense(128)(nn.LayerNorm()(x)))
        return x + nn.Dense(32)(hidden)


class Transformer(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(50, 32)(tokens)
        for _ in range(LAYERS):
            x = Block()(x)
        return nn.Dense(50)(nn.LayerNorm()(x))


def loss(params, tokens):
    predicted = jax.nn.log_softmax(Transformer().apply(params, tokens[:, :-1]))
    return -jnp.mean(jnp.take_along_axis(predicted, tokens[:, 1:, None], -1))


@dataclass
class Written:
    """A page, and what it took.

    Attributes:
      seconds: processor time to make the graph with its numbers, and to write the page.
      compiled: of each program that was compiled for the numbers, how many operations it has.
    """

    path: Path
    seconds: float = 0.0
    compiled: list[int] = field(default_factory=list)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    tokens = jnp.arange(34).reshape(2, 17)
    params = jax.jit(Transformer().init)(jax.random.key(0), tokens)
    written = Written(tmp_path_factory.mktemp("page") / "transformer.html")
    own = Part.compiled

    def compiled(part):
        written.compiled.append(len(part.eqns))
        return own(part)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Part, "compiled", compiled)
        started = time.process_time()
        made = funcgrad.inspect.graph(loss, params, tokens)
        made.to_html(written.path)
        written.seconds = time.process_time() - started
    assert not made.note
    return written


def test_the_page_is_small(written):
    assert written.path.stat().st_size < 5_000_000


def test_the_page_is_soon_written(written):
    """Layers are compiled once: of 2,761 operations forward and back, 308, in 5 programs."""
    assert len(written.compiled) <= 6
    assert sum(written.compiled) <= 330
    assert written.seconds < 10  # measured: 4.3 where others use the cores too


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_the_page_is_collapsed_by_scope(written):
    """From the whole function, which shows every layer, into one of them and its attention."""
    with chromium() as browser, opened(browser, written.path) as page:
        boxes = lambda: page.locator("#picture :is(g.tensor, g.op, g.group)").count()
        enter = lambda name: page.click(f"#picture g.group[aria-label^='group {name},']")
        assert boxes() <= 60
        for i in range(LAYERS):
            assert page.locator(f"#picture g.group[aria-label^='group Block_{i},']").count() == 1
        enter("Block_3")
        enter("MultiHeadDotProductAttention_0")
        assert boxes() <= 60
        assert page.inner_text("#breadcrumbs [aria-current]") == "MultiHeadDotProductAttention_0"
        page.fill("#search", "Block_11 softmax")
        assert page.inner_text("#hit-count") != "0 hits"
        page.keyboard.press("Enter")
        assert "Block_11" in page.inner_text("#breadcrumbs")
