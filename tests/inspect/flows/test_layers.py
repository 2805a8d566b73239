"""Which rows a flow has, what they are called, and which parameters each has."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from funcgrad import at, errors
from funcgrad.inspect import flow
from tests.inspect.flows.test_flow import same

W, X = jnp.eye(3) / 2 + 0.1, jnp.ones((4, 3))


def names(found):
    return [row["layer"] for row in found.rows() if "value_norm" in row]


def line(text):
    lines = Path(__file__).read_text().splitlines()
    return f"test_layers.py:{next(i for i, one in enumerate(lines, 1) if one.endswith(text))}"


def by_lines(weights, x):
    for w in weights:
        x = jax.nn.sigmoid(x @ w)  # in a loop
    y = x**2  # after it
    return jnp.sum(y)


def test_lines_where_there_are_no_scopes():
    """A line that is run again is another row, which has the parameters read there."""
    found = flow(by_lines, [W, 2 * W], X)
    loop, after = line("# in a loop"), line("# after it")
    assert names(found) == [f"{loop}#1", f"{loop}#2", after]
    same(found[f"{loop}#1"], "value", jax.nn.sigmoid(X @ W))
    same(found[f"{loop}#2"], "gradient", jax.grad(by_lines)([W, 2 * W], X)[1])
    assert "each line of code, as there are no name scopes" in str(found)


def nested(w, x):
    with jax.named_scope("outer"):
        for i in range(2):
            with jax.named_scope("inner"):
                x = jnp.tanh(x @ w)
            x = x + i + 1
    return jnp.sum(x)


def test_scopes_and_depth():
    found = flow(nested, W, X)
    assert names(found) == ["outer/inner#1", "outer/inner#2", "outer"]
    assert names(flow(nested, W, X, depth=1)) == ["outer"]
    assert "depth 1 of 2 (depth= shows more)" in str(flow(nested, W, X, depth=1))
    same(found["w (read by 2 layers)"], "gradient", jax.grad(nested)(W, X))


def test_more_layers_than_rows():
    """The deepest scopes that leave at most 100 rows."""

    def loss(w, x):
        for i in range(30):
            with jax.named_scope(f"layer_{i}"):
                for part in ("a", "b", "c", "d"):
                    with jax.named_scope(part):
                        x = jnp.sin(x * w)
                x = x + 1.0
        return jnp.sum(x)

    found = flow(loss, 0.5, X)
    assert names(found) == [f"layer_{i}" for i in range(30)]
    assert len(names(flow(loss, 0.5, X, depth=2))) == 150


def test_far_more_lines_than_rows():
    """Evenly spaced rows; a parameter and an activation of one that is left out belong to no other."""

    def loss(weights, x):
        for i in range(250):
            x = jnp.tanh(x * weights[i])
        return jnp.sum(x)

    text = str(flow(loss, [jnp.full(3, 1.1)] * 250, jax.ShapeDtypeStruct((4, 3), jnp.float32)))
    rows = re.findall(r"#(\d+)  (weights\[\d+\])$", text, re.M)
    assert rows == [(str(i // 3 + 1), f"weights[{i}]") for i in range(0, 250, 3)]
    assert "one in 3 of 250" in text


@jax.custom_vjp
def block(w, x):
    with jax.named_scope("hidden"):
        return jnp.tanh(x @ w)


block.defvjp(lambda w, x: (block(w, x), (w, x)), lambda kept, ct: (kept[1].T @ ct, ct))


def test_a_custom_derivative_is_a_row_itself():
    """Its scopes are inside, where nothing can be tapped: the row is the call's result."""

    def loss(weights, x):
        with jax.named_scope("model"):
            for w in weights:
                x = block(w, x)
            return jnp.sum(x**2)

    found = flow(loss, [W, W], X)
    rows = [name for name in names(found) if "custom derivative" in name]
    assert rows == [f"model/block (custom derivative)#{i}" for i in (1, 2)]
    first = block(W, X)
    same(found[rows[0]], "value", first)
    same(found[rows[0]], "gradient", jax.grad(loss)([W, W], X)[0])


def test_parameters_that_no_layer_reads_alone():
    def loss(params, x):
        with jax.named_scope("one"):
            x = x @ params["tied"]
        with jax.named_scope("two"):
            x = x @ params["tied"].T @ params["own"].astype(jnp.float32)
        return jnp.sum(x) + jnp.sum(params["outside"] * 2 + params["outside"])

    params = {"tied": W, "own": W.astype(jnp.bfloat16), "outside": jnp.ones(2), "none": jnp.ones(2)}
    found, gradient = flow(loss, params, X), jax.grad(loss)(params, X)
    rows = {
        "params['tied'] (read by 2 layers)": "tied",
        "two": "own",
        "params['outside'] (read outside all layers)": "outside",
        "params['none'] (never read)": "none",
    }
    for row, name in rows.items():
        same(found[row], "gradient", gradient[name].astype(jnp.float32))
    assert {row["layer"] for row in found.rows() if "gradient_norm" in row} == {*rows}


def test_a_scope_around_a_scan_and_one_in_a_jitted_function():
    @jax.jit
    def layer(x, w):
        with jax.named_scope("layer"):
            return jnp.tanh(x @ w)

    def loss(weights, x):
        with jax.named_scope("loop"):
            x = lax.scan(lambda x, w: (layer(x, w), None), x, weights)[0]
        with jax.named_scope("last"):
            x = layer(x, weights[0])
        return jnp.sum(x**2)

    found = flow(loss, jnp.stack([W, W / 2]), X)
    assert names(found) == ["loop/layer[0]", "loop/layer[1]", "loop", "last/layer"]
    same(found["loop/layer[0]"], "value", jnp.tanh(X @ W))
    same(found["loop"], "value", jnp.tanh(jnp.tanh(X @ W) @ W / 2))


def test_a_reversed_scan_is_shown_as_it_runs():
    def loss(weights, x):
        def layer(x, w):
            with jax.named_scope("layer"):
                return jnp.tanh(x @ w), None

        return jnp.sum(lax.scan(layer, x, weights, reverse=True)[0])

    weights = jnp.stack([W, W / 2, W / 3])
    found = flow(loss, weights, X)
    assert names(found) == ["layer[2]", "layer[1]", "layer[0]"]
    same(found["layer[2]"], "value", jnp.tanh(X @ weights[2]))
    same(found["layer[2]"], "gradient", jax.grad(loss)(weights, X)[2])


def test_a_selector_that_cannot_be_tapped():
    with pytest.raises(errors.EditError, match="Select what the call returns"):
        flow(lambda w, x: jnp.sum(block(w, x)), W, X, places=at("hidden"))


def test_a_selector_that_means_nothing():
    with pytest.raises(errors.SelectorError, match="means no place"):
        flow(nested, W, X, places=at("nowhere"))
    for no_places in ("hidden", [at("hidden")], {"h": "hidden"}):
        with pytest.raises(errors.SelectorError, match="Its rows are those of a selector"):
            flow(nested, W, X, places=no_places)


def test_an_unknown_layer():
    with pytest.raises(KeyError, match="There are: "):
        flow(nested, W, X)["nowhere"]
