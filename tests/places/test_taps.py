"""Tapped values and cotangents, against functions that return the values and take perturbations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

import funcgrad
from funcgrad import at, errors
from tests.compare import assert_same

X = np.linspace(0.2, 1.4, 3, dtype=np.float32)
W = np.linspace(-0.5, 0.6, 9, dtype=np.float32).reshape(3, 3)
XS = np.linspace(-1.0, 1.0, 12, dtype=np.float32).reshape(4, 3)


def layer(x: Any, e: Any) -> Any:
    with jax.named_scope("h"):
        return jnp.tanh(W @ x) + e


# Each function returns a loss and the values in the scope "h", and takes what is added to these values.


def plain(x: Any, e: Any) -> Any:
    h = layer(x, e)
    return jnp.sum(h**2 * x), h


def jitted(x: Any, e: Any) -> Any:
    h = jax.jit(lambda x, e: layer(jnp.sin(x), e))(x, e)
    return jnp.sum(h**3), h


def used_twice(x: Any, e: Any) -> Any:
    h = layer(x, e)
    return jnp.sum(jnp.sin(h)) * jnp.prod(h), h


def independent_of_the_argument(x: Any, e: Any) -> Any:
    h = layer(X, e)
    return jnp.sum(h * x), h


def mapped(x: Any, e: Any) -> Any:
    hs = jax.vmap(lambda row, e: layer(row * x, e))(XS, e)
    return jnp.sum(hs**2), hs


def checkpointed(x: Any, e: Any) -> Any:
    h = jax.checkpoint(lambda x, e: layer(jnp.sin(x), e))(x, e)
    return jnp.sum(h**3), h


def scanned(x: Any, e: Any) -> Any:
    def step(h: Any, row: Any) -> Any:
        h = layer(h * row[0], row[1])
        return h, h

    last, hs = lax.scan(step, x, (XS, e))
    return jnp.sum(last * hs), hs


def scanned_checkpoint_in_jit(x: Any, e: Any) -> Any:
    @jax.checkpoint
    def step(h: Any, row: Any) -> Any:
        h = jax.jit(layer)(h * row[0], row[1])
        return h, h

    last, hs = jax.jit(lambda x, e: lax.scan(step, x, (XS, e), reverse=True))(x, e)
    return jnp.sum(last * hs), hs


def scan_in_scan(x: Any, e: Any) -> Any:
    def step(h: Any, e: Any) -> Any:
        return lax.scan(lambda h, e: (layer(h, e),) * 2, h, e)

    last, hs = lax.scan(step, x, e)
    return jnp.sum(last * hs), hs


def branch(index: int) -> Callable[..., Any]:
    def switched(x: Any, e: Any) -> Any:
        taken = lambda x, e: (layer(x, e),) * 2
        other = lambda x, e: (jnp.cos(x), jnp.zeros(3))
        y, h = lax.switch(index, [taken, other], x, e)
        return jnp.sum(y**2), h

    return switched


def scan_in_branch(x: Any, e: Any) -> Any:
    taken = lambda x, e: scanned(x, e)
    other = lambda x, e: (jnp.sum(x), jnp.zeros((4, 3)))
    return lax.cond(x[0] > 0, taken, other, x, e)


def while_loop(x: Any, e: Any) -> Any:
    def step(state: Any) -> Any:
        i, x, _ = state
        h = layer(x, jnp.where(i == 4, e, 0.0))
        return i + 1, h * 1.1, h

    _, y, h = lax.while_loop(lambda state: state[0] < 5, step, (0, x, jnp.zeros(3)))
    return jnp.sum(y**2), h


def scan_in_while(x: Any, e: Any) -> Any:
    def step(state: Any) -> Any:
        i, x, _ = state
        x, hs = lax.scan(lambda h, e: (layer(h, e),) * 2, x, jnp.where(i == 2, e, 0.0))
        return i + 1, x, hs

    _, y, hs = lax.while_loop(lambda state: state[0] < 3, step, (0, x, jnp.zeros((4, 3))))
    return jnp.sum(y**2), hs


CASES = [
    (plain, (3,)),
    (jitted, (3,)),
    (used_twice, (3,)),
    (independent_of_the_argument, (3,)),
    (mapped, (4, 3)),
    (checkpointed, (3,)),
    (scanned, (4, 3)),
    (scanned_checkpoint_in_jit, (4, 3)),
    (scan_in_scan, (2, 4, 3)),
    (branch(0), (3,)),
    (scan_in_branch, (4, 3)),
    (while_loop, (3,)),
    (scan_in_while, (4, 3)),
]
IDS = [case[0].__name__ for case in CASES]


def by_unrolling(fun: Callable[..., Any]) -> Any:
    """JAX has no reverse mode of a while loop of run-time length, so the reference is forward mode."""
    return jax.jacfwd(lambda x, e: fun(x, e)[0], (0, 1))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["plain", "jit"])
@pytest.mark.parametrize(("fun", "shape"), CASES, ids=IDS)
def test_values_and_cotangents(fun, shape, wrap):
    e = np.zeros(shape, np.float32)
    tapped = funcgrad.value_and_grad(lambda x: fun(x, e)[0], taps={"h": at("h")})
    value, gradient, taps = wrap(tapped)(X)
    expected, hs = fun(X, e)
    ct_x, ct_hs = by_unrolling(fun)(X, e)
    assert_same(value, expected, rtol=1e-6)
    assert_same(gradient, ct_x, rtol=1e-5)
    assert_same(taps["h"].value, hs, rtol=1e-6)
    assert_same(taps["h"].cotangent, ct_hs, rtol=1e-5)
    assert bool(jnp.all(taps["h"].present[0]))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["plain", "jit"])
def test_a_branch_that_is_not_taken_is_absent(wrap):
    fun = lambda x: branch(1)(x, np.zeros(3, np.float32))[0]
    gradient, taps = wrap(funcgrad.grad(fun, taps={"h": at("h")}))(X)
    assert_same(gradient, jax.grad(fun)(X), rtol=1e-6)
    assert not taps["h"].present[0]
    assert_same(taps["h"].cotangent, np.zeros(3, np.float32))


def test_a_loop_without_steps_is_absent():
    fun = lambda x: jnp.sum(lax.while_loop(lambda c: c[0] > 9, lambda c: layer(c, 0.0), x))
    gradient, taps = funcgrad.grad(fun, taps={"h": at("h")})(X)
    assert_same(gradient, np.ones(3, np.float32))
    assert not taps["h"].present[0]


def test_present_has_an_element_for_each_step():
    def fun(x):
        def step(c, i):
            return lax.cond(i % 2 == 0, lambda c: layer(c, 0.0), lambda c: c, c), None

        return jnp.sum(lax.scan(step, x, jnp.arange(4))[0])

    _, taps = funcgrad.grad(fun, taps={"h": at("h")})(X)
    assert taps["h"].present[0].tolist() == [True, False, True, False]


def test_a_region_with_several_values():
    def fun(x):
        with jax.named_scope("cell"):
            c = jnp.sin(x)
            h = jnp.tanh(c)
            index = jnp.argmax(h)
        return jnp.sum(c * h) + index

    _, taps = funcgrad.grad(fun, taps={"cell": at("cell")})(X)
    c, h = taps["cell"].values
    assert_same((c, h), (np.sin(X), np.tanh(np.sin(X))), rtol=1e-6)
    ct_c, ct_h = taps["cell"].cotangents
    assert_same(ct_h, c, rtol=1e-6)
    assert_same(ct_c, h + c * (1 - h**2), rtol=1e-5)
    with pytest.raises(errors.SelectorError, match="selector means 2"):
        _ = taps["cell"].value


def test_an_integer_has_a_value_and_no_cotangent():
    fun = lambda x: x[checkpoint_name(jnp.argmax(x), "index")]
    gradient, taps = funcgrad.grad(fun, taps={"i": at(name="index")})(X)
    assert taps["i"].value == 2
    assert taps["i"].cotangent is None
    assert_same(gradient, jax.grad(fun)(X))


def test_bfloat16():
    fun = lambda x: jnp.sum(checkpoint_name(x.astype(jnp.bfloat16) * 2, "low").astype(jnp.float32))
    _, taps = funcgrad.grad(fun, taps={"low": at(name="low")})(X)
    assert taps["low"].cotangent.dtype == jnp.bfloat16


def test_other_results_stay_in_their_order():
    e = np.zeros(3, np.float32)
    (value, aux), gradient, taps = funcgrad.value_and_grad(
        lambda x: plain(x, e), has_aux=True, taps={"h": at("h")}
    )(X)
    ct_x, h, more = funcgrad.grad(lambda x: plain(x, e), has_aux=True, taps={"h": at("h")})(X)
    assert_same((gradient, aux, taps["h"].value), (ct_x, h, more["h"].value))
    assert_same((value, h), plain(X, e), rtol=1e-6)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["plain", "jit"])
def test_vjp(wrap):
    e = np.zeros((4, 3), np.float32)
    ct = np.float32(2.0)
    _, pullback = wrap(lambda x: funcgrad.vjp(lambda x: scanned(x, e)[0], x, taps={"h": at("h")}))(
        X
    )
    (ct_x,), taps = wrap(lambda pullback, ct: pullback(ct))(pullback, ct)
    expected = jax.grad(lambda x, e: scanned(x, e)[0], (0, 1))(X, e)
    assert_same((ct_x, taps["h"].cotangent), jax.tree.map(lambda x: 2 * x, expected), rtol=1e-5)


def test_under_vmap_and_in_a_gradient_of_a_gradient():
    e = np.zeros((4, 3), np.float32)

    def cotangent(x):
        return funcgrad.grad(lambda x: scanned(x, e)[0], taps={"h": at("h")})(x)[1]["h"].cotangent

    rows = jnp.stack([X, X * 2])
    assert_same(jax.vmap(cotangent)(rows), jnp.stack([*map(cotangent, rows)]), rtol=1e-5)
    reference = lambda x: jax.grad(lambda e: scanned(x, e)[0])(jnp.asarray(e))
    for grad in (funcgrad.grad, jax.grad):
        found = grad(lambda x: jnp.sum(cotangent(x) ** 2))(X)
        assert_same(found, jax.grad(lambda x: jnp.sum(reference(x) ** 2))(X), rtol=1e-4)


def test_nothing_changes_without_taps():
    fun = lambda x: scanned(x, np.zeros((4, 3), np.float32))[0]
    before = str(jax.make_jaxpr(funcgrad.grad(fun))(X))
    funcgrad.grad(fun, taps={"h": at("h")})(X)
    assert str(jax.make_jaxpr(funcgrad.grad(fun))(X)) == before


def through_calls(x):
    y = lax.scan(lambda c, _: (jnp.sin(c) * c, None), x, None, 3)[0]
    y = jax.jit(lambda y: jnp.exp(y) * y)(y)
    return jax.checkpoint(lambda y: jnp.cos(y) ** 2)(y).sum()


def test_taps_inside_transforms_of_jax():
    """Batched, and differentiated forward, backward and by our own gradient."""
    x = jnp.array([0.3, 0.7, 1.1])
    taps = {op: at(op=op) for op in ("sin", "exp", "cos")}
    tapped = funcgrad.grad(through_calls, taps=taps)
    one = tapped(x)[1]
    batch = jax.vmap(tapped)(jnp.stack([0 * x, x]))[1]
    for op in taps:
        np.testing.assert_allclose(batch[op].values[0][1], one[op].values[0], rtol=1e-5)
        np.testing.assert_allclose(batch[op].cotangents[0][1], one[op].cotangents[0], rtol=1e-5)
    gradient = lambda x: tapped(x)[0]
    expected = jax.jacfwd(jax.grad(through_calls))(x)
    for jacobian in (
        jax.jacfwd(gradient),
        jax.jacrev(jax.jit(gradient)),
        funcgrad.jacrev(gradient),
    ):
        np.testing.assert_allclose(jacobian(x), expected, rtol=1e-4)
    cotangent = lambda x: tapped(x)[1]["exp"].cotangents[0]
    np.testing.assert_allclose(jax.jacfwd(cotangent)(x), jax.jacrev(cotangent)(x), rtol=1e-4)
