"""Edits of values and of cotangents, against functions with the edit written into them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

import funcgrad
from funcgrad import at, errors
from tests.compare import assert_same
from tests.meshes import sharded

X = np.linspace(0.2, 1.4, 3, dtype=np.float32)
XS = np.linspace(-1.0, 1.0, 12, dtype=np.float32).reshape(4, 3)
EDIT = {"plain": lambda f: f, "jit": jax.jit}


def model(x, change=lambda h: h):
    with jax.named_scope("h"):
        h = jnp.sin(x)
    h = change(h)
    return jnp.sum(h**2 * x)


def recurrent(x, changes=None):
    def step(h, row):
        with jax.named_scope("h"):
            h = jnp.tanh(h * row[0])
        if changes is not None:
            h = changes(h, row[1])
        return h, h

    return jnp.sum(lax.scan(step, x, (XS, jnp.arange(4.0)))[1] ** 2)


def looping(x, change=lambda h: h):
    def step(h):
        with jax.named_scope("h"):
            h = jnp.sin(h) * 1.5
        return change(h)

    return jnp.sum(lax.fori_loop(0, 3, lambda _, h: step(h), x))


@pytest.mark.parametrize("wrap", EDIT.values(), ids=EDIT)
@pytest.mark.parametrize("fun", [model, looping])
@pytest.mark.parametrize(
    "change",
    [lambda h: 0.0 * h, lambda h: h + 0.5, lambda h: jnp.float32([1.0, 2.0, 3.0]), jnp.cos],
    ids=["zeroed", "steered", "replaced", "through a function"],
)
def test_values(fun, change, wrap):
    edited = wrap(funcgrad.value_and_grad(fun, edit=at("h").value(change)))
    assert_same(edited(X), jax.value_and_grad(lambda x: fun(x, change))(X), rtol=1e-5)


@pytest.mark.parametrize("wrap", EDIT.values(), ids=EDIT)
def test_each_step_has_its_own_operand(wrap):
    factors = np.linspace(0.5, 2.0, 4, dtype=np.float32)
    edit = at("h").value(lambda h, k: h * k, factors)
    found = wrap(funcgrad.value_and_grad(recurrent, edit=edit))(X)
    by_hand = lambda x: recurrent(x, lambda h, i: h * jnp.asarray(factors)[i.astype(int)])
    assert_same(found, jax.value_and_grad(by_hand)(X), rtol=1e-5)


def test_activation_patching():
    """Values of another run, step by step, in the place of this run's."""
    other = X[::-1].copy()
    _, taps = funcgrad.grad(recurrent, taps={"h": at("h")})(other)
    edit = at("h").value(lambda h, patch: patch, taps["h"].value)
    value, gradient = funcgrad.value_and_grad(recurrent, edit=edit)(X)
    assert_same(value, recurrent(other), rtol=1e-6)
    assert_same(gradient, np.zeros(3, np.float32))


@pytest.mark.parametrize("wrap", EDIT.values(), ids=EDIT)
def test_a_changed_value_is_differentiated(wrap):
    """The gradient by what is put into the place of a value, of an argument or of an operand."""

    def patched(patch, x):
        return funcgrad.value_and_grad(model, edit=at("h").value(lambda h: patch))(x)[0]

    by_hand = lambda patch, x: model(x, lambda h: patch)
    for grad in (funcgrad.grad, jax.grad):
        found = wrap(grad(patched, (0, 1)))(jnp.cos(X), X)
        assert_same(found, jax.grad(by_hand, (0, 1))(jnp.cos(X), X), rtol=1e-5)


@pytest.mark.parametrize("wrap", EDIT.values(), ids=EDIT)
@pytest.mark.parametrize("fun", [model, looping])
def test_cotangents(fun, wrap):
    @jax.custom_vjp
    def with_ct_clipped(h):
        return h

    with_ct_clipped.defvjp(lambda h: (h, None), lambda _, ct: (jnp.clip(ct, -0.3, 0.3),))
    edit = at("h").cotangent(lambda ct: jnp.clip(ct, -0.3, 0.3))
    found = wrap(funcgrad.value_and_grad(fun, edit=edit))(X)
    assert_same(found, jax.value_and_grad(lambda x: fun(x, with_ct_clipped))(X), rtol=1e-5)


def test_a_cotangent_is_changed_by_its_value():
    edit = at("h").cotangent(lambda ct, h: ct * h)
    found = funcgrad.grad(model, edit=edit)(X)
    h = np.sin(X)
    assert_same(found, h**2 + (2 * h * X) * h * np.cos(X), rtol=1e-5)


def test_several_edits_and_a_tap():
    """Values change first, in order; the tap has the changed value and what arrives at the value."""
    edits = [
        at("h").cotangent(lambda ct: 5 * ct),
        at("h").cotangent(lambda ct: ct + ct),
        at("h").value(lambda h: h + 1),
        at("h").value(lambda h: h * 2),
    ]
    gradient, taps = funcgrad.grad(model, edit=edits, taps={"h": at("h")})(X)
    h = (np.sin(X) + 1) * 2
    assert_same(taps["h"].value, h, rtol=1e-6)
    assert_same(taps["h"].cotangent, 2 * h * X, rtol=1e-6)
    assert_same(gradient, h**2 + 10 * (2 * h * X) * 2 * np.cos(X), rtol=1e-5)


@pytest.mark.parametrize("change", [lambda: 1.0, lambda h, *, scale: h, lambda h, scale, more: h])
def test_an_edit_that_cannot_be_called_is_refused(change):
    for asked, edit in (
        (r"\(value\)", at("h").value(change)),
        (r"\(cotangent", at("h").cotangent(change)),
    ):
        with pytest.raises(
            errors.EditError, match=r"has the signature \(.*\), but is called with " + asked
        ):
            funcgrad.grad(model, edit=edit)(X)


@pytest.mark.parametrize("change", [lambda h: h[:2], lambda h: h.astype(int), lambda h: None])
def test_an_edit_of_another_type_is_refused(change):
    with pytest.raises(errors.EditError, match=r"was given float32\[3\] and returned"):
        funcgrad.grad(model, edit=at("h").value(change))(X)
    with pytest.raises(errors.EditError, match="cotangent"):
        funcgrad.grad(model, edit=at("h").cotangent(change))(X)


def test_what_is_no_edit_or_tap_is_refused():
    with pytest.raises(errors.SelectorError, match="made by a selector"):
        funcgrad.grad(model, edit=[lambda h: h])
    for no_edit in (at("h"), [at("h")], "h", 3):
        with pytest.raises(errors.SelectorError, match="made by a selector"):
            funcgrad.grad(model, edit=no_edit)
    with pytest.raises(errors.SelectorError, match="mapping from a name"):
        funcgrad.grad(model, taps=[at("h")])


def test_a_function_that_reads_values_in_python_is_refused():
    fun = lambda x: jnp.sum(jnp.sin(x)) if x[0] > 0 else 0.0
    with pytest.raises(errors.EditError, match="in Python: write lax"):
        funcgrad.grad(fun, taps={"s": at(op="sin")})(X)


def test_inside_a_custom_derivative_is_refused():
    @jax.custom_vjp
    def own(x):
        with jax.named_scope("inside"):
            return jnp.sin(x)

    own.defvjp(lambda x: (own(x), x), lambda x, ct: (ct * 100,))
    fun = lambda x: jnp.sum(own(x))
    with pytest.raises(errors.EditError, match="inside the `custom_vjp_call` of"):
        funcgrad.grad(fun, taps={"h": at("inside")})(X)
    with pytest.raises(errors.EditError, match=r"of `own`\. Its derivative"):  # called by no line
        funcgrad.grad(own, taps={"h": at("inside")})(X[0])
    gradient, taps = funcgrad.grad(fun, taps={"own": at(function=own)})(X)
    assert_same(gradient, np.full(3, 100, np.float32))
    assert_same(taps["own"].value, np.sin(X), rtol=1e-6)


def test_inside_a_shard_map_is_refused_and_what_it_returns_is_tapped():
    def part(x):
        with jax.named_scope("inside"):
            return jnp.sin(x)

    mapped = sharded(part, P("i"), P("i"))

    def fun(x):
        with jax.named_scope("around"):
            y = mapped(x)
        return jnp.sum(y**2)

    x = np.linspace(0.2, 1.4, 8, dtype=np.float32)
    with pytest.raises(errors.EditError, match=r"inside the `shard_map`.* one on each device"):
        funcgrad.grad(fun, taps={"h": at("inside")})(x)
    _, taps = funcgrad.grad(fun, taps={"y": at("around")})(x)
    np.testing.assert_allclose(taps["y"].value, np.sin(x), rtol=1e-6)
    np.testing.assert_allclose(taps["y"].cotangent, 2 * np.sin(x), rtol=1e-6)
