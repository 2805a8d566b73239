"""The ledger of models of three libraries that nobody edits, and its suggestions done by hand."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad
from funcgrad.inspect import residuals
from tests.ecosystem.compare import load

X = np.linspace(-1.0, 1.0, 32 * 8, dtype=np.float32).reshape(32, 8)
COUNT = 6


def linen() -> tuple[Any, Any, Any]:
    """A flax model, the same with ``nn.remat``, and its parameters."""
    nn = load("flax.linen")

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            h = nn.LayerNorm()(x)
            return x + nn.Dense(8)(nn.gelu(nn.Dense(32)(h)))

    class Model(nn.Module):
        block: Any = Block

        @nn.compact
        def __call__(self, x):
            for i in range(COUNT):
                x = self.block(name=f"layers_{i}")(x)
            return jnp.sum(x**2)

    plain, remat = Model(), Model(nn.remat(Block))
    params = plain.init(jax.random.key(0), X)
    return plain.apply, remat.apply, params


def haiku() -> tuple[Any, Any, Any]:
    """A haiku model, the same with ``hk.remat``, and its parameters."""
    hk = load("haiku")

    def model(remat):
        def run(x):
            for i in range(COUNT):
                block = hk.nets.MLP([32, 8], name=f"block_{i}")
                x = x + (hk.remat(block) if remat else block)(x)
            return jnp.sum(x**2)

        return hk.without_apply_rng(hk.transform(run))

    params = model(False).init(jax.random.key(0), X)
    return model(False).apply, model(True).apply, params


def equinox() -> tuple[Any, Any, Any]:
    """An equinox model, the same with ``eqx.filter_checkpoint``, and its parameters."""
    eqx = load("equinox")
    keys = jax.random.split(jax.random.key(0), COUNT)
    blocks = [eqx.nn.MLP(8, 8, 32, 1, activation=jnp.tanh, key=key) for key in keys]
    arrays, static = eqx.partition(blocks, eqx.is_array)

    def run(arrays, x, call):
        for block in eqx.combine(arrays, static):
            x = x + call(block, x)
        return jnp.sum(x**2)

    def call(block, x):
        return jax.vmap(block)(x)

    def checkpointed(arrays, x):
        return run(arrays, x, lambda block, x: eqx.filter_checkpoint(call)(block, x))

    return lambda arrays, x: run(arrays, x, call), checkpointed, arrays


LIBRARIES = {f.__name__: f for f in (linen, haiku, equinox)}


def kept(fun, params):
    """The bytes of a pullback's leaves, arguments left out."""
    pullback = jax.jit(lambda params, x: funcgrad.vjp(fun, params, x)[1])(params, X)
    return sum(x.nbytes for x in jax.tree.leaves(pullback.opaque_residuals))


@pytest.mark.parametrize("library", LIBRARIES)
def test_total_and_suggestion(library):
    fun, by_hand, params = LIBRARIES[library]()
    ledger = residuals(fun, params, X, compiled=False)
    assert ledger.kept + ledger.constants == kept(fun, params)
    best = ledger.suggestion
    assert best is not None
    assert best.count == COUNT
    # the pullback also holds numbers that are no arrays in a traced program
    assert best.after.kept <= kept(by_hand, params) <= best.after.kept + 256
    assert best.after.kept < 0.4 * best.before.kept
    assert all(entry.where for entry in ledger.of("kept"))


@pytest.mark.parametrize("library", ["linen", "haiku"])
def test_scopes_are_those_of_the_modules(library):
    fun, _, params = LIBRARIES[library]()
    ledger = residuals(fun, params, X, compiled=False)
    part = {"linen": "layers_", "haiku": "block_"}[library]
    inside = [entry for entry in ledger.of("kept") if part in entry.scope]
    assert sum(entry.bytes for entry in inside) > 0.7 * ledger.kept
    assert any(f"{part}*" in each.around for each in ledger.suggestions)
