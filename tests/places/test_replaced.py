"""Regions computed in another way, against functions in which that is written out."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from funcgrad import at, errors
from tests.compare import assert_same

X = np.linspace(0.2, 1.4, 3, dtype=np.float32)
W = np.linspace(-1.0, 1.0, 9, dtype=np.float32).reshape(3, 3)


def layer(x, w):
    with jax.named_scope("layer"):
        y = jnp.tanh(x @ w)
        return y + 0.5 * y**2


def model(x):
    return jnp.sum(layer(jnp.sin(x), W) ** 2)


def other(original, x, w):
    return 2 * jnp.cos(x @ jnp.abs(w)) + original(x, w)


def with_other(x):
    h = jnp.sin(x)
    return jnp.sum((2 * jnp.cos(h @ jnp.abs(W)) + layer(h, W)) ** 2)


def scanned(x, one=layer):
    return jnp.sum(lax.scan(lambda h, w: (one(h, w), None), x, jnp.stack([W, 2 * W]))[0])


REPLACED = [at("layer").replaced(other)]


@pytest.mark.parametrize("around", [lambda f: f, jax.jit], ids=["plain", "jit"])
@pytest.mark.parametrize(
    "within", [lambda f: f, jax.jit, jax.checkpoint], ids=["plain", "jit", "checkpoint"]
)
def test_a_scope_is_computed_by_the_function(around, within):
    ours = around(funcgrad.value_and_grad(within(model), edit=REPLACED))(X)
    assert_same(ours, jax.value_and_grad(with_other)(X))


def test_in_a_scan():
    def both(h, w):
        return 2 * jnp.cos(h @ jnp.abs(w)) + layer(h, w)

    ours = funcgrad.value_and_grad(scanned, edit=REPLACED)(X)
    assert_same(ours, jax.value_and_grad(lambda x: scanned(x, both))(X))


def test_a_call_and_an_operation():
    edit = [
        at(function=jax.nn.relu).replaced(lambda original, x: jnp.abs(x)),
        at(op=lax.sin_p).replaced(lambda original, x: 3 * original(x)),
    ]
    ours = funcgrad.grad(lambda x: jnp.sum(jax.nn.relu(jnp.sin(x))), edit=edit)(-X)
    assert_same(ours, jax.grad(lambda x: jnp.sum(jnp.abs(3 * jnp.sin(x))))(-X))


def test_what_leaves_can_be_tapped():
    edit = at("layer").replaced(lambda original, x, w: 2 * original(x, w))
    _, tapped = funcgrad.grad(model, taps={"y": at("layer")}, edit=edit)(X)
    assert_same(tapped["y"].value, 2 * layer(jnp.sin(X), W))
    assert_same(tapped["y"].cotangent, 4 * layer(jnp.sin(X), W))


def test_several_values_leave():
    def pair(x):
        with jax.named_scope("pair"):
            a, b = jnp.sin(x), jnp.cos(x)
        return jnp.sum(a * b)

    edit = at("pair").replaced(lambda original, x: [original(x)[1], 2 * original(x)[0]])
    expected = jax.grad(lambda x: jnp.sum(jnp.cos(x) * 2 * jnp.sin(x)))(X)
    assert_same(funcgrad.grad(pair, edit=edit)(X), expected)


def test_another_type_is_an_error():
    edit = at("layer").replaced(lambda original, x, w: jnp.sum(x))
    with pytest.raises(
        errors.EditError, match=r"must return float32\[3\] and returned float32\[\]"
    ):
        funcgrad.grad(model, edit=edit)(X)
    edit = at("layer").replaced(lambda original, x, w: (x, x))
    with pytest.raises(errors.EditError, match=r"returned 2 value\(s\)"):
        funcgrad.grad(model, edit=edit)(X)


def test_a_function_of_other_operands_is_an_error():
    edit = at("layer").replaced(lambda original, x: x)
    with pytest.raises(
        errors.EditError,
        match=r"signature \(original, x\), but is called with \(original, x0, x1\)",
    ):
        funcgrad.grad(model, edit=edit)(X)


def test_a_decorated_function_is_called_by_its_wrapper():
    @functools.wraps(jnp.tanh)
    def twice(original, *operands):
        return 2 * original(*operands)

    expected = 4 * jax.grad(model)(X)  # the model squares what the layer gives out
    assert_same(funcgrad.grad(model, edit=at("layer").replaced(twice))(X), expected)


def test_no_place_is_an_error_unless_optional():
    with pytest.raises(errors.SelectorError, match="means no place"):
        funcgrad.grad(model, edit=at("lair").replaced(other))(X)
    edit = at("lair").replaced(other, optional=True)
    assert_same(funcgrad.grad(model, edit=edit)(X), jax.grad(model)(X))


def test_what_is_inside_cannot_be_meant_besides():
    with pytest.raises(errors.EditError, match="is inside it"):
        funcgrad.grad(model, taps={"t": at(op=lax.tanh_p)}, edit=REPLACED)(X)
    with pytest.raises(errors.EditError, match="are replaced already"):
        funcgrad.grad(model, edit=[*REPLACED, *REPLACED])(X)
    rules = funcgrad.DEFAULT.override({lax.tanh_p: lambda ct, x, **_: ct}, at=at("layer"))
    with pytest.raises(errors.EditError, match="override by place"):
        funcgrad.grad(model, edit=REPLACED, rules=rules)(X)


def test_an_integer_that_leaves_is_an_error():
    def largest(x):
        with jax.named_scope("s"):
            y = jnp.sin(x)
            i = jnp.argmax(y)
        return jnp.sum(y) * y[i]

    edit = at("s").replaced(lambda original, x: original(x))
    with pytest.raises(errors.EditError, match="is an integer"):
        funcgrad.grad(largest, edit=edit)(X)
