"""Overrides that hold at some places alone, against models with the rule written into them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from funcgrad import DEFAULT, at, errors
from tests.compare import assert_same

X = np.linspace(0.2, 1.4, 3, dtype=np.float32)
XS = np.linspace(-1.0, 1.0, 12, dtype=np.float32).reshape(4, 3)


def scaled(factor):
    """`sin` with `factor` times its derivative, for JAX."""

    @jax.custom_vjp
    def sin(x):
        return jnp.sin(x)

    sin.defvjp(lambda x: (jnp.sin(x), x), lambda x, ct: (factor * ct * jnp.cos(x),))
    return sin


def scaled_vjp(factor):
    def sin_vjp(ct, x, *, original, **kwargs):
        return factor * original(ct, x, **kwargs)

    return sin_vjp


def plain(x, first=jnp.sin, second=jnp.sin):
    with jax.named_scope("first"):
        x = first(x)
    with jax.named_scope("second"):
        return jnp.sum(second(x))


def jitted_once_for_both(x, first=jnp.sin, second=jnp.sin):
    """One jitted function in two scopes; `first` and `second` are the same where it is overridden."""
    once, again = (jax.jit(lambda x, f=f: f(x) * 2) for f in (first, second))
    again = once if first is second else again
    with jax.named_scope("first"):
        x = once(x)
    with jax.named_scope("second"):
        return jnp.sum(again(x))


def scanned(x, first=jnp.sin, second=jnp.sin):
    def step(x, row):
        with jax.named_scope("first"):
            x = first(x * row)
        with jax.named_scope("second"):
            return second(x), x

    last, xs = lax.scan(step, x, XS)
    return jnp.sum(last) + jnp.sum(xs**2)


def in_a_branch(x, first=jnp.sin, second=jnp.sin):
    return lax.cond(x[0] > 0, lambda x: plain(x, first, second), jnp.sum, x)


def in_a_while(x, first=jnp.sin, second=jnp.sin):
    def step(x):
        with jax.named_scope("first"):
            x = first(x)
        with jax.named_scope("second"):
            return second(x)

    return jnp.sum(lax.fori_loop(0, 3, lambda _, x: step(x), x))


def checkpointed(x, first=jnp.sin, second=jnp.sin):
    return jax.checkpoint(lambda x: plain(x, first, second))(x)


def mapped(x, first=jnp.sin, second=jnp.sin):
    return jnp.sum(jax.vmap(lambda row: plain(row * x, first, second))(XS))


MODELS = [plain, jitted_once_for_both, scanned, in_a_branch, in_a_while, checkpointed, mapped]


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["plain", "jit"])
@pytest.mark.parametrize("model", MODELS)
def test_a_primitive_in_one_scope(model, wrap):
    rules = DEFAULT.override({lax.sin_p: scaled_vjp(10.0)}, at=at("first"))
    found = wrap(funcgrad.grad(model, rules=rules))(X)
    assert_same(found, jax.grad(lambda x: model(x, first=scaled(10.0)))(X), rtol=1e-5)
    plainly = wrap(funcgrad.grad(model))(X)  # nothing of the override is left in a cache
    assert_same(plainly, jax.grad(model)(X), rtol=1e-5)


def test_of_several_the_last_holds():
    rules = (
        DEFAULT.override({lax.sin_p: scaled_vjp(2.0)})
        .override({lax.sin_p: scaled_vjp(3.0)}, at=at("first") | at("second"))
        .override({lax.sin_p: scaled_vjp(5.0)}, at=at("second"))
    )
    found = funcgrad.grad(plain, rules=rules)(X)
    assert_same(found, jax.grad(lambda x: plain(x, scaled(6.0), scaled(30.0)))(X), rtol=1e-5)
    last = rules.override({lax.sin_p: scaled_vjp(1.0)})
    everywhere = jax.grad(lambda x: plain(x, scaled(2.0), scaled(2.0)))(X)
    assert_same(funcgrad.grad(plain, rules=last)(X), everywhere, rtol=1e-5)


def softmax_model(x, first=jax.nn.softmax, second=jax.nn.softmax):
    return plain(x, lambda x: first(x) * 3, lambda x: second(x, axis=-1) ** 2)


def times(factor):
    @jax.custom_vjp
    def softmax(x, axis=-1):
        return jax.nn.softmax(x)

    def backward(residuals, ct):
        return (factor * ct, None)

    softmax.defvjp(lambda x, axis=-1: (jax.nn.softmax(x), None), backward)
    return softmax


def times_vjp(factor):
    return lambda ct, x, **_: factor * ct


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["plain", "jit"])
@pytest.mark.parametrize("inside", [lambda f: f, jax.jit, jax.checkpoint], ids=["", "jit", "remat"])
def test_a_function_in_one_scope(wrap, inside):
    rules = DEFAULT.override({jax.nn.softmax: times_vjp(10.0)}, at=at("second"))
    found = wrap(funcgrad.grad(inside(softmax_model), rules=rules))(X)
    assert_same(found, jax.grad(lambda x: softmax_model(x, second=times(10.0)))(X), rtol=1e-5)


def relu_model(x, first=jax.nn.relu, second=jax.nn.relu):
    """Calls of a function with a custom derivative: the function that is caught is inside of that."""
    return plain(x - 0.7, lambda x: first(x) * 3, lambda x: second(jnp.sin(5 * x)))


@pytest.mark.parametrize("inside", [lambda f: f, jax.jit, jax.checkpoint], ids=["", "jit", "remat"])
def test_a_function_with_a_custom_derivative_in_one_scope(inside):
    leaky_vjp = lambda ct, x, **_: jnp.where(x > 0, ct, 0.25 * ct)
    rules = DEFAULT.override({jax.nn.relu: leaky_vjp}, at=at("second"))

    @jax.custom_vjp
    def leaky(x):
        return jax.nn.relu(x)

    leaky.defvjp(lambda x: (jax.nn.relu(x), x), lambda x, ct: (jnp.where(x > 0, ct, 0.25 * ct),))
    found = funcgrad.grad(inside(relu_model), rules=rules)(X)
    assert_same(found, jax.grad(lambda x: relu_model(x, second=leaky))(X), rtol=1e-5)


def test_a_function_with_rules_for_several_places():
    rules = (
        DEFAULT.override({jax.nn.softmax: times_vjp(2.0)})
        .override({jax.nn.softmax: times_vjp(3.0)}, at=at("first"))
        .override({jax.nn.softmax: times_vjp(5.0)}, at=at("nothing_else") | at("first"))
    )
    found = funcgrad.grad(softmax_model, rules=rules)(X)
    assert_same(found, jax.grad(lambda x: softmax_model(x, times(5.0), times(2.0)))(X), rtol=1e-5)


def test_a_rule_for_calls_of_a_function_alone():
    """The rule of a primitive, in what one function does."""

    def wave(x):
        return jnp.sin(x) * 2

    fun = lambda x: jnp.sum(wave(jnp.sin(x)))
    rules = DEFAULT.override({lax.sin_p: scaled_vjp(10.0)}, at=at(function=wave))
    by_hand = lambda x: jnp.sum(scaled(10.0)(jnp.sin(x)) * 2)
    assert_same(funcgrad.grad(fun, rules=rules)(X), jax.grad(by_hand)(X), rtol=1e-5)


def test_an_override_that_finds_no_operation_at_its_places_is_reported():
    rules = DEFAULT.override({lax.cos_p: scaled_vjp(2.0)}, at=at("first"))
    with pytest.warns(errors.UnusedOverrideWarning, match="`cos`"):
        funcgrad.grad(plain, rules=rules)(X)
    with pytest.raises(errors.UnusedOverrideError):
        funcgrad.grad(plain, rules=rules, strict=True)(X)
    never = DEFAULT.override({jax.nn.relu: times_vjp(2.0)}, at=at("first"))
    with pytest.warns(errors.UnusedOverrideWarning, match="`relu at "):
        funcgrad.grad(plain, rules=never)(X)


def test_original_where_there_is_none():
    with pytest.raises(errors.NotARuleError, match="has no rule that it replaces"):
        DEFAULT.override({norm_of: scaled_vjp(2.0)})


def norm_of(x):
    return jnp.sqrt(jnp.sum(x**2))


def test_rules_show_the_overrides_by_place():
    rules = DEFAULT.override({lax.sin_p: scaled_vjp(2.0)}, at=at("first"))
    assert "at 'first': sin by sin_vjp" in repr(rules)
    assert "'first'" not in repr(DEFAULT)


def test_rules_with_places_are_compared_and_cached_by_them():
    vjp = scaled_vjp(2.0)
    first, again, second = (
        DEFAULT.override({lax.sin_p: vjp}, at=at(scope)) for scope in ("first", "first", "second")
    )
    assert first == again
    assert hash(first) == hash(again)
    assert first != second


def test_what_is_no_selector_is_refused_at_once():
    with pytest.raises(errors.SelectorError, match=r"at='layers_1', a str"):
        DEFAULT.override({lax.sin_p: scaled_vjp(2)}, at="layers_1")
