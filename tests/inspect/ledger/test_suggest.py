"""What the ledger suggests is done by hand, and the pullback's bytes are counted."""

from __future__ import annotations

import importlib

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.experimental import io_callback

import funcgrad
from funcgrad.inspect import residuals
from tests.compare import assert_same
from tests.inspect.ledger.programs import WS, X, block, bytes_of, chain, scanned

SUGGEST = importlib.import_module("funcgrad.inspect.ledger.suggest")
LONG = jnp.stack([WS[0]] * 24)


def kept(fun, *args):
    """The bytes of a pullback's leaves, arguments and numbers left out."""
    pullback = jax.jit(lambda *args: funcgrad.vjp(fun, *args)[1])(*args)
    return bytes_of(pullback.opaque_residuals)


def checkpointed_chain(ws, x):
    return chain(ws, x, jax.checkpoint(block))


def named(ws, x, block=block):
    for i, w in enumerate(ws):
        with jax.named_scope(f"layer_{i}"):
            x = block(w, x)
    return jnp.sum(x)


def checkpointed_scan(ws, x):
    body = jax.checkpoint(lambda x, w: (block(w, x), None), prevent_cse=False)
    return jnp.sum(lax.scan(body, x, ws)[0])


def scoped(w, x):
    with jax.named_scope("inner"):
        return block(w, x)


def named_inside(ws, x, block):
    for w in ws:
        x = block(w, x)
    return jnp.sum(x)


CASES = {
    "function": (chain, checkpointed_chain, list(LONG), "block (programs.py:"),
    "jitted function": (
        lambda ws, x: chain(ws, x, jax.jit(block)),
        checkpointed_chain,
        list(LONG),
        "block (programs.py:",
    ),
    "all jitted": (jax.jit(chain), checkpointed_chain, list(LONG), "block (programs.py:"),
    "scopes": (
        named,
        lambda ws, x: named(ws, x, jax.checkpoint(block)),
        list(LONG),
        "layer_*",
    ),
    "scopes of jitted functions": (
        lambda ws, x: named_inside(ws, x, jax.jit(scoped)),
        lambda ws, x: named_inside(ws, x, jax.checkpoint(scoped)),
        list(LONG),
        "inner",
    ),
    "jitted scopes": (
        jax.jit(named),
        lambda ws, x: named(ws, x, jax.checkpoint(block)),
        list(LONG),
        "layer_*",
    ),
    "scan": (scanned, checkpointed_scan, LONG, "the body of the scan at programs.py:"),
}


@pytest.mark.parametrize("case", CASES)
def test_done_by_hand(case):
    fun, by_hand, ws, around = CASES[case]
    ledger = residuals(fun, ws, X, compiled=False)
    best = ledger.suggestion
    assert best is not None
    assert best.around.startswith(around)
    assert best.before.kept == ledger.kept == kept(fun, ws, X)
    assert best.after.kept == kept(by_hand, ws, X)
    assert best.after.kept <= 0.5 * best.before.kept
    assert best.count == (1 if case == "scan" else 24)
    assert f"keeps {best.after.kept:,} B instead of {best.before.kept:,} B" in str(ledger)


def test_operations_are_those_of_the_function_computed_again():
    w, x = jnp.eye(512), jnp.ones((8, 512))

    def layer(w, x):
        h = x @ w
        return jnp.tanh(h) * jnp.sin(h) * jnp.cos(h) * jnp.exp(h)

    def loss(w, x):
        for _ in range(8):
            x = layer(w, x)
        return jnp.sum(x)

    best = residuals(loss, w, x, compiled=False).suggestion
    assert best is not None
    # a product of 2 * 512 operations an element forward and two backward; the first is done again
    assert best.repeated == pytest.approx(1 / 3, abs=0.05)


def test_a_loop_is_told_from_a_call():
    def loss(ws, x):
        for w in ws:
            x = jnp.tanh(x @ w)
            x = x * jnp.exp(-(x**2))
        return jnp.sum(x)

    def by_hand(ws, x):
        @jax.checkpoint
        def body(w, x):
            x = jnp.tanh(x @ w)
            return x * jnp.exp(-(x**2))

        for w in ws:
            x = body(w, x)
        return jnp.sum(x)

    best = residuals(loss, list(LONG), X, compiled=False).suggestion
    line = loss.__code__.co_firstlineno + 1
    assert best is not None
    assert best.around == f"the body of the loop at test_suggest.py:{line}"
    assert best.count == len(LONG)
    assert best.after.kept == kept(by_hand, list(LONG), X)


def test_a_function_that_begins_in_a_branch_is_not_split_into_calls():
    def layer(x, even):
        if even:
            return jnp.tanh(x) * jnp.exp(-x)
        return jnp.sin(x) * jnp.cos(x)

    def loss(x):
        for i in range(24):
            x = layer(x, i % 2 == 0)
        return jnp.sum(x)

    found = residuals(loss, X, compiled=False).suggestions
    assert all("layer" not in each.around for each in found)


def test_what_cannot_be_computed_again_is_not_suggested():
    def talking(w, x):
        io_callback(lambda: None, None, ordered=True)
        return block(w, x)

    ledger = residuals(lambda ws, x: chain(ws, x, talking), list(LONG), X, compiled=False)
    assert ledger.kept > 0
    assert ledger.suggestions  # block, inside
    assert all("talking" not in each.around for each in ledger.suggestions)


def test_without_source_no_function_is_named():
    space = {"jnp": jnp}
    exec("def loss(ws, x):\n    for w in ws:\n        x = jnp.tanh(x @ w)\n    return x", space)
    found = residuals(lambda ws, x: jnp.sum(space["loss"](ws, x)), list(LONG), X, compiled=False)
    assert found.suggestions == ()


def test_the_suggested_function_has_the_same_gradient():
    best = residuals(chain, list(WS), X, compiled=False).suggestion
    assert best is not None
    expected = jax.jit(jax.grad(chain))(list(WS), X)
    assert_same(jax.jit(funcgrad.grad(best.function))(list(WS), X), expected)


def test_xla_allocates_less_with_it():
    ws, x = [jnp.eye(64)] * 8, jnp.ones((512, 64)) / 8
    ledger = residuals(chain, ws, x)
    assert ledger.suggestion is not None
    after = residuals(ledger.suggestion.function, ws, x, suggest=False)
    assert ledger.temp_size_in_bytes is not None
    assert after.temp_size_in_bytes is not None
    assert after.temp_size_in_bytes < 0.6 * ledger.temp_size_in_bytes


def test_a_scope_around_a_scan_is_not_its_body():
    def loss(ws, x):
        with jax.named_scope("encoder"):
            x = lax.scan(lambda x, w: (block(w, x), None), x, ws)[0]
        return jnp.sum(jnp.tanh(x))

    names = [each.around for each in residuals(loss, LONG, X, compiled=False).suggestions]
    assert [name.partition(" at ")[0] for name in names] == ["the body of the scan"]


def test_nothing_to_gain():
    ledger = residuals(lambda x: jnp.sum(jnp.exp(x)), X, compiled=False)
    assert ledger.suggestions == ()
    assert "what to checkpoint: nothing;" in str(ledger)
    assert residuals(checkpointed_chain, list(LONG), X, compiled=False).suggestions == ()


def test_a_ledger_names_what_raises_an_error_in_a_checkpoint(monkeypatch):
    def failing(*_):
        raise ValueError

    monkeypatch.setattr(SUGGEST, "_evaluator", lambda *_: failing)
    found = residuals(chain, list(LONG), X, compiled=False)
    assert found.failed
    assert all(each.endswith(" (ValueError)") for each in found.failed)
    assert f"since it raised an error: {', '.join(found.failed)}" in str(found)


def test_rules_of_functions_are_lost_in_a_trace_so_nothing_is_suggested():
    def block_vjp(ct, w, x, *, out):
        return w * 0, ct

    rules = funcgrad.DEFAULT.override({block: block_vjp})
    ledger = residuals(lambda x: chain(list(LONG), x, block), X, rules=rules, compiled=False)
    assert ledger.suggestions == ()
    assert "not tried, rules of functions" in str(ledger)


def test_a_long_program_is_listed_and_nothing_is_tried(monkeypatch):
    module = importlib.import_module("funcgrad.inspect.residuals")
    monkeypatch.setattr(module, "MOST_STEPS", 20)
    ledger = residuals(chain, list(LONG), X, compiled=False)
    assert ledger.suggestions == ()
    assert len(ledger.of("kept")) >= 24
    assert "operations are more than 20" in str(ledger)
