"""The page of a transformer of 12 layers, written with flax linen and not edited for it."""

from __future__ import annotations

import time

import pytest

import funcgrad
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


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    tokens = jnp.arange(34).reshape(2, 17)
    params = jax.jit(Transformer().init)(jax.random.key(0), tokens)
    made = funcgrad.inspect.graph(loss, params, tokens)
    path = tmp_path_factory.mktemp("page") / "transformer.html"
    started = time.process_time()
    made.to_html(path)
    assert time.process_time() - started < 5
    return path


def test_the_page_is_small(path):
    assert path.stat().st_size < 5_000_000


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_the_page_is_collapsed_by_scope(path):
    """From the whole function, which shows every layer, into one of them and its attention."""
    with chromium() as browser, opened(browser, path) as page:
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
