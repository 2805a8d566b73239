"""Taps that return a measure of a value and of its cotangent, where they are computed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from funcgrad import at, errors

WRAP = pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["plain", "jit"])


def summed(x):
    return jnp.stack([jnp.sum(x), jnp.max(jnp.abs(x))])


def in_scan(w, x):
    def step(h, x):
        with jax.named_scope("cell"):
            h = jnp.tanh(w @ h + x)
        return h, h

    return jnp.sum(lax.scan(step, jnp.zeros(3), x)[1] ** 2)


def in_checkpoint(w, x):
    @jax.checkpoint
    def layer(h):
        with jax.named_scope("cell"):
            return jnp.sin(w @ h)

    return jnp.sum(layer(x[0]) ** 2)


def in_cond(w, x):
    def taken(h):
        with jax.named_scope("cell"):
            return jnp.sin(w @ h)

    return jnp.sum(lax.cond(x[0, 0] > 0, taken, lambda h: h, x[0]) ** 2)


def in_while(w, x):
    def body(loop):
        i, h = loop
        with jax.named_scope("cell"):
            h = jnp.sin(w @ h)
        return i + 1, h

    return jnp.sum(lax.while_loop(lambda loop: loop[0] < 3, body, (0, x[0]))[1] ** 2)


W, X = jnp.eye(3) * 0.7 + 0.1, jnp.linspace(0.1, 1.0, 12).reshape(4, 3)


@WRAP
@pytest.mark.parametrize("f", [in_scan, in_checkpoint, in_cond, in_while], ids=lambda f: f.__name__)
def test_the_measure_is_that_of_what_a_tap_returns(f, wrap):
    """In each step of a scan; the gradient is that without taps."""
    gradient, whole = wrap(funcgrad.grad(f, taps={"h": at("cell")}))(W, X)
    same, tapped = wrap(funcgrad.grad(f, taps={"h": at("cell").measured(summed)}))(W, X)
    each = jax.vmap(summed) if f is in_scan else summed
    np.testing.assert_allclose(tapped["h"].value, each(whole["h"].value), rtol=1e-5)
    np.testing.assert_allclose(tapped["h"].cotangent, each(whole["h"].cotangent), rtol=1e-5)
    np.testing.assert_allclose(same, gradient, rtol=1e-6)
    np.testing.assert_allclose(
        same, jax.grad(f)(W, X) if f is not in_while else gradient, rtol=1e-5
    )


def test_no_array_leaves_the_program():
    """A jitted function whose tapped value has a million elements returns eight bytes for it."""
    f = jax.jit(funcgrad.grad(lambda x: jnp.sum(jnp.exp(x) ** 2), taps={
        "e": at(op="exp").measured(jnp.max)
    }))  # fmt: skip
    _, tapped = jax.eval_shape(f, jax.ShapeDtypeStruct((1024, 1024), jnp.float32))
    assert [x.shape for x in jax.tree.leaves(tapped)] == [(), (), ()]


def test_a_tap_that_means_nothing_is_an_error_unless_it_is_optional():
    with pytest.raises(errors.SelectorError, match="means no place"):
        funcgrad.grad(jnp.sin, taps={"h": at("nowhere").measured(jnp.max)})(1.0)
    taps = {"h": at("nowhere").measured(jnp.max, optional=True)}
    assert funcgrad.grad(jnp.sin, taps=taps)(1.0)[1]["h"].values == []


@pytest.mark.parametrize("measure", [lambda x: (x, x), lambda x: jnp.argmax(x), lambda x: ()])
def test_a_measure_is_one_array_of_floats(measure):
    with pytest.raises(errors.EditError, match="Return one floating-point array"):
        funcgrad.grad(jnp.sin, taps={"h": at(op="sin").measured(measure)})(1.0)
