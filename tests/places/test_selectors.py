"""Which places a selector means, in programs that were written to have them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

import funcgrad
from funcgrad import at, errors
from funcgrad.places.conditions import describes
from funcgrad.places.program import program_of

X = np.linspace(0.2, 1.4, 3, dtype=np.float32)


def attention(x):
    with jax.named_scope("attn"):
        return x * jax.nn.softmax(x)


def norm(x):
    return x / jnp.sqrt(jnp.mean(x**2))


def model(x):
    with jax.named_scope("encoder"):
        for i in range(3):
            with jax.named_scope(f"layers_{i}"):
                x = norm(attention(x))
                x = checkpoint_name(jnp.tanh(x), f"h{i}")
    with jax.named_scope("head"):
        y = jax.jit(lambda x: attention(jnp.sin(x)))(x)
        z = lax.cond(x[0] > 0, attention, jnp.cos, y)
    return jnp.sum(z)


def scopes(selector, fun=model):
    """The scopes of the sites, each with its ops."""
    program = program_of(jax.make_jaxpr(fun)(X))
    return [site.label for site in selector.sites(program)]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("encoder", ["encoder"]),
        ("layers_*", [f"encoder/layers_{i}" for i in range(3)]),
        ("layers_1/attn", ["encoder/layers_1/attn"]),
        ("encoder/*/attn", [f"encoder/layers_{i}/attn" for i in range(3)]),
        ("encoder/**/attn", [f"encoder/layers_{i}/attn" for i in range(3)]),
        ("attn", [*(f"encoder/layers_{i}/attn" for i in range(3)), "head/attn", "head/attn"]),
        ("/head/attn", ["head/attn", "head/attn"]),
        ("/attn", []),
        ("encoder/attn", []),
        ("layers_[02]", ["encoder/layers_0", "encoder/layers_2"]),
    ],
)
def test_scopes(pattern, expected):
    assert scopes(at(pattern)) == expected


@pytest.mark.parametrize(
    ("selector", "count"),
    [
        (at(op=lax.tanh_p), 3),
        (at(op=lax.tanh), 3),
        (at(op="tanh"), 3),
        (at(name="h1"), 1),
        (at(name="h*"), 3),
        (at("head") & at(op="exp"), 2),
        (at(op="exp") & at("head"), 2),
        (at("head", op="exp"), 2),
        (at(op="exp") & ~at("head"), 3),
        (at(op="exp") | at(op="tanh"), 8),
        (at("layers_*")[0] & at(op="exp"), 1),
        (at("layers_*")[-1], 1),
        (at("layers_*")[1:], 2),
        (at("layers_*")[7], 0),
        (at(op="exp")[0] | at(op="exp")[0], 1),
        (at("encoder") & at("attn"), 3),
        (at(where=lambda place: place.op is lax.exp_p and "layers_2" in place.scope), 1),
        (at(where=lambda place: place.outputs[0].shape == ()) & at("layers_0", op="sqrt"), 1),
    ],
    ids=str,
)
def test_conditions_and_how_they_combine(selector, count):
    assert len(scopes(selector)) == count


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a*/b", ["outer/a1/b", "outer/a2/b"]),
        ("outer/a2", ["outer/a2"]),
        ("a1/b", ["outer/a1/b"]),
        ("/a1", []),
        ("outer", ["outer"]),
    ],
)
def test_a_name_with_a_slash_is_several_scopes(pattern, expected):
    def fun(x):
        with jax.named_scope("outer"):
            with jax.named_scope("a1/b"):
                x = jnp.sin(x)
            with jax.named_scope("a2/b"):
                return jnp.sum(jnp.cos(x))

    assert scopes(at(pattern), fun) == expected


def test_a_scope_that_is_entered_again_is_another_region():
    def shared(x):
        for _ in range(3):
            with jax.named_scope("same"):
                x = jnp.sin(x)
        return jnp.sum(x)

    _, taps = funcgrad.grad(shared, taps={"x": at("same")})(X)
    found = [np.sin(X), np.sin(np.sin(X)), np.sin(np.sin(np.sin(X)))]
    for value, expected in zip(taps["x"].values, found, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_lines():
    def two_lines(x):
        y = jnp.sin(x)
        return jnp.sum(y * jnp.cos(y))

    first = two_lines.__code__.co_firstlineno + 1
    file = two_lines.__code__.co_filename
    assert len(scopes(at(line=f"{file}:{first}"), two_lines)) == 1
    assert len(scopes(at(line=f"test_selectors.py:{first + 1}"), two_lines)) == 3
    assert scopes(at(line=f"other_test_selectors.py:{first}"), two_lines) == []


FUNCTIONS = {
    "plain": attention,
    "jitted": jax.jit(lambda x: jnp.sin(x) * 2),
    "library": jax.nn.softmax,
    "custom_jvp": jax.nn.relu,
    "jnp": jnp.mean,
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint], ids=["", "jit", "remat"])
def test_calls_of_a_function(function, wrap):
    def fun(x):
        once = function(x)
        return jnp.sum(function(once + jnp.cos(x)))

    _, taps = funcgrad.grad(wrap(fun), taps={"f": at(function=function)})(X)
    once = function(X)
    expected = [once, function(once + np.cos(X))]
    assert len(taps["f"].values) == 2
    for value, known in zip(taps["f"].values, expected, strict=True):
        np.testing.assert_allclose(value, known, rtol=1e-5)


def test_a_function_that_was_traced_before_is_found():
    @jax.jit
    def traced(x):
        return jnp.sum(jax.nn.softmax(x) ** 2)

    traced(X)
    _, taps = funcgrad.grad(traced, taps={"s": at(function=jax.nn.softmax)})(X)
    np.testing.assert_allclose(taps["s"].value, jax.nn.softmax(X), rtol=1e-6)


def test_a_selector_that_means_nothing_is_an_error_with_near_misses():
    with pytest.raises(errors.SelectorError, match="encoder/layers_1") as raised:
        funcgrad.grad(model, taps={"h": at("encoder/layer_1")})(X)
    assert "inspect.places" in str(raised.value)
    with pytest.raises(errors.SelectorError, match="tanh"):
        funcgrad.grad(model, edit=at(op="tan").value(jnp.abs))(X)
    rules = funcgrad.DEFAULT.override({lax.exp_p: lambda ct, x, **_: ct}, at=at("nowhere"))
    with pytest.raises(errors.SelectorError, match="override of `exp`"):
        funcgrad.grad(model, rules=rules)(X)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: at(),
        lambda: at(""),
        lambda: at(3),
        lambda: at(line="model.py"),
        lambda: at(op=jnp.sum),
        lambda: at(function=lax.exp),
        lambda: at("a") & "b",
    ],
)
def test_what_is_no_condition_is_refused(wrong):
    with pytest.raises(errors.SelectorError):
        wrong()


@pytest.mark.parametrize(
    ("pattern", "names", "expected"),
    [
        ("a", "a", True),
        ("a/b", "a/b", True),
        ("a", "a/b", False),
        ("**/b", "b", True),
        ("**/b", "a/c/b", True),
        ("a/**/b", "a/b", True),
        ("a/**/b", "a/x/y/b", True),
        ("a/**/b", "a/x", False),
        ("l_*", "l_12", True),
    ],
)
def test_patterns(pattern, names, expected):
    assert describes(pattern.split("/"), names.split("/")) == expected


def test_a_selector_is_no_sequence_without_an_end():
    with pytest.raises(TypeError, match="not iterable"):
        list(at("h"))
