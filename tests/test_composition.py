"""funcgrad under and over jit, vmap, jvp, grad, scan, custom derivatives and overrides."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from tests.compare import assert_same

RTOL = 1e-12


@pytest.fixture(autouse=True)
def x64() -> Any:
    with jax.enable_x64(True):
        yield


def draw(seed: int, *shape: int) -> Any:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def mlp_loss(params: Any, x: Any) -> Any:
    """Two layers, layer norm, softmax cross-entropy against the first class."""
    h = jax.nn.gelu(x @ params["w"] + params["b"])
    h = (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True) + 1e-6)
    return -jnp.mean(jax.nn.log_softmax(jax.nn.relu(h @ params["v"]))[..., 0])


def conv_loss(params: Any, x: Any) -> Any:
    """Convolution, max-pool, dense layer; x is (..., 6, 6)."""
    image = x.reshape(-1, 6, 6, 1)
    h = lax.conv_general_dilated(
        image, params["k"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    h = lax.reduce_window(jnp.tanh(h), -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return jnp.mean(jnp.sin(h.reshape(h.shape[0], -1) @ params["v"]) ** 2)


def mlp() -> Any:
    params = {"w": draw(0, 3, 4), "b": draw(1, 4), "v": draw(2, 4, 2)}
    return mlp_loss, params, draw(3, 2, 3)


def conv() -> Any:
    return conv_loss, {"k": draw(0, 3, 3, 1, 2), "v": draw(1, 18, 2)}, draw(2, 2, 6, 6)


@pytest.fixture(params=[mlp, conv], ids=["mlp", "conv"])
def model(request: pytest.FixtureRequest) -> Any:
    return request.param()


def steps(grad: Any, loss: Any, params: Any, xs: Any) -> Any:
    """The gradient call lies inside lax.scan: three steps of gradient descent."""

    def step(params: Any, x: Any) -> Any:
        updated = jax.tree.map(lambda p, g: p - 0.1 * g, params, grad(loss)(params, x))
        return updated, jnp.sum(updated["v"])

    return lax.scan(step, params, jnp.stack([xs, 2 * xs, -xs]))


def loop(grad: Any, loss: Any, params: Any, x: Any) -> Any:
    def step(_: Any, params: Any) -> Any:
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grad(loss)(params, x))

    return lax.fori_loop(0, 3, step, params)


def squared(grad: Any, loss: Any) -> Any:
    """A scalar that depends on a gradient."""

    def of(params: Any, x: Any) -> Any:
        return sum(jnp.sum(g**2) for g in jax.tree.leaves(grad(loss)(params, x)))

    return of


def batched_sum(loss: Any) -> Any:
    return lambda p, x: jnp.sum(jax.vmap(lambda x: loss(p, x[None]))(x))


def nested_jits(loss: Any) -> Any:
    return jax.jit(lambda p, x: 2 * jax.jit(lambda p, x: jax.jit(loss)(p, x) ** 2)(p, x))


WAYS = {
    "grad": lambda grad, f, p, x: grad(f)(p, x),
    "both arguments": lambda grad, f, p, x: grad(f, (0, 1))(p, x),
    "jit(grad)": lambda grad, f, p, x: jax.jit(grad(f))(p, x),
    "grad(jit)": lambda grad, f, p, x: grad(jax.jit(f))(p, x),
    "jit(grad(jit))": lambda grad, f, p, x: jax.jit(grad(jax.jit(f)))(p, x),
    "nested jits": lambda grad, f, p, x: grad(nested_jits(f))(p, x),
    "jit(nested jits)": lambda grad, f, p, x: jax.jit(grad(nested_jits(f)))(p, x),
    "vmap(grad)": lambda grad, f, p, x: jax.vmap(grad(f), (None, 0))(p, x[:, None]),
    "jit(vmap(grad))": lambda grad, f, p, x: jax.jit(jax.vmap(grad(f), (None, 0)))(p, x[:, None]),
    "vmap(grad(jit))": lambda grad, f, p, x: jax.vmap(grad(jax.jit(f)), (None, 0))(p, x[:, None]),
    "vmap(vmap(grad))": lambda grad, f, p, x: jax.vmap(
        jax.vmap(grad(f, 1), (None, 0)), (None, 0)
    )(p, jnp.stack([x, -x])[:, :, None]),
    "grad(vmap)": lambda grad, f, p, x: grad(batched_sum(f))(p, x),
    "grad(vmap(jit))": lambda grad, f, p, x: grad(batched_sum(jax.jit(f)))(p, x),
    "jit(grad(vmap))": lambda grad, f, p, x: jax.jit(grad(batched_sum(f)))(p, x),
    "scan over grad": steps,
    "jit(scan over grad)": lambda grad, f, p, x: jax.jit(functools.partial(steps, grad, f))(p, x),
    "fori over grad": loop,
    "cond over grad": lambda grad, f, p, x: lax.cond(
        x[0].sum() > 0, grad(f), lambda p, x: p, p, x
    ),
    "remat over grad": lambda grad, f, p, x: jax.checkpoint(grad(f))(p, x),
    "jvp of grad": lambda grad, f, p, x: jax.jvp(grad(f), (p, x), (p, jnp.cos(x))),
    "jit(jvp of grad(jit))": lambda grad, f, p, x: jax.jit(
        lambda p, x: jax.jvp(grad(jax.jit(f)), (p, x), (p, jnp.cos(x)))
    )(p, x),
    "linearize of grad": lambda grad, f, p, x: jax.linearize(grad(f, 1), p, x)[1](p, jnp.cos(x)),
    "make_jaxpr": lambda grad, f, p, x: jax.core.eval_jaxpr(
        (closed := jax.make_jaxpr(grad(f))(p, x)).jaxpr, closed.consts, *jax.tree.leaves((p, x))
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_equals_jax(way, model):
    assert_same(way(funcgrad.grad, *model), way(jax.grad, *model), rtol=RTOL)


@pytest.mark.parametrize("jitted", ["none", "inner", "middle", "outer"])
@pytest.mark.parametrize("outer", [funcgrad.grad, jax.grad], ids=["ours", "jax"])
@pytest.mark.parametrize("inner", [funcgrad.grad, jax.grad], ids=["ours", "jax"])
def test_gradient_of_gradient(inner, outer, jitted, model):
    if inner is outer is jax.grad:
        pytest.skip("jax.grad over jax.grad: there is nothing of ours to compare")
    loss, params, x = model

    def run(inner: Any, outer: Any) -> Any:
        f = jax.jit(loss) if jitted == "inner" else loss
        g = squared(inner, f)
        g = outer(jax.jit(g) if jitted == "middle" else g)
        return (jax.jit(g) if jitted == "outer" else g)(params, x)

    assert_same(run(inner, outer), run(jax.grad, jax.grad), rtol=1e-11)


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("outer", [funcgrad.grad, jax.grad], ids=["ours", "jax"])
def test_third_order(outer, jit):
    def third(a: Any, b: Any, c: Any) -> Any:
        g = a(b(c(lambda x: jnp.sin(x) * jnp.exp(x) / (1 + x**2))))
        return (jax.jit(g) if jit else g)(0.7)

    ours = third(funcgrad.grad, outer, funcgrad.grad)
    assert_same(ours, third(jax.grad, jax.grad, jax.grad), rtol=RTOL, weak=False)


@pytest.mark.parametrize("outer", [funcgrad.grad, jax.grad], ids=["ours", "jax"])
def test_perturbations_are_not_confused(outer):
    """d/dx x * d/dy (x + y) = 1, with one derivative inside the other."""
    inner = lambda x: x * funcgrad.grad(lambda y: x * y + y * y)(1.0)
    assert float(outer(inner)(3.0)) == 2 * 3.0 + 2.0


def test_gradient_per_example_differentiated():
    xs = draw(0, 4)

    def run(grad: Any) -> Any:
        return grad(lambda s: jnp.sum(jax.vmap(grad(lambda x: jnp.sin(x * s)))(xs)))

    assert_same(run(funcgrad.grad)(0.3), run(jax.grad)(0.3), rtol=RTOL)


# --- Python control flow and jit's own behaviour


def branches(x: Any) -> Any:
    if x.sum() > 0:
        x = x * 3
    n = 0
    while jnp.abs(x).max() > 0.1 and n < 50:
        x, n = jnp.sin(x) / 2, n + 1
    return float(n) * jnp.sum(x) + sum(x[i] for i in range(int(n) % 3))


@pytest.mark.parametrize("sign", [1, -1])
def test_python_control_flow_on_values(sign):
    x = sign * jnp.abs(draw(0, 3))
    assert_same(funcgrad.grad(branches)(x), jax.grad(branches)(x), rtol=RTOL)
    ours = funcgrad.grad(lambda x: jnp.sum(funcgrad.grad(branches)(x * x)))(x)
    assert_same(ours, jax.grad(lambda x: jnp.sum(jax.grad(branches)(x * x)))(x), rtol=RTOL)


@pytest.mark.parametrize("grad", [funcgrad.grad, jax.grad], ids=["ours", "jax"])
def test_python_control_flow_under_jit_fails_as_without_grad(grad):
    with pytest.raises(jax.errors.ConcretizationTypeError):
        jax.jit(grad(branches))(draw(0, 3))


def test_what_python_may_ask_of_a_value():
    """Truth, int(), length, iteration and printing work; float() fails, as under jax.grad."""

    def fun(x: Any) -> Any:
        assert f"{x}"
        assert repr(x)
        assert len(x) == 3
        return sum(e for e in x if e > 0) * bool(x[0]) + x[-1] * np.float64(2)

    assert_same(funcgrad.grad(fun)(draw(0, 3)), jax.grad(fun)(draw(0, 3)), rtol=RTOL)
    for grad in (funcgrad.grad, jax.grad):
        assert float(grad(lambda x: x * int(x))(2.5)) == 2.0
        with pytest.raises(jax.errors.ConcretizationTypeError):
            grad(lambda x: x * float(x))(2.5)


def test_jitted_gradient_is_traced_once():
    traced = []

    def fun(x: Any) -> Any:
        traced.append("f")
        return jnp.sum(jnp.sin(x) ** 2)

    gradient = jax.jit(funcgrad.grad(fun))
    for i in range(5):
        gradient(draw(i, 3))
    assert len(traced) == 1


def test_jitted_function_used_often_is_traced_once():
    """24 layers that are one jitted function: its body and its rules are traced once."""
    traced = []

    def square_vjp(ct: Any, x: Any, **_: Any) -> Any:
        traced.append("rule")
        return ct * jnp.cos(x)

    @jax.jit
    def block(x: Any, w: Any) -> Any:
        traced.append("block")
        return jnp.sin(x @ w)

    rules = funcgrad.DEFAULT.override({lax.sin_p: square_vjp})
    ws = draw(0, 24, 3, 3) / 2

    def model(ws: Any) -> Any:
        x = jnp.ones((2, 3))
        for w in ws:
            x = block(x, w)
        return jnp.sum(x)

    expected = jax.grad(model)(ws)
    traced.clear()
    gradient = funcgrad.grad(model, rules=rules)
    for run in (gradient, gradient, jax.jit(gradient)):
        assert_same(run(ws), expected, rtol=RTOL)
    assert traced.count("block") <= 2  # x has no cotangent in the first layer
    assert traced.count("rule") <= 8
    equations = jax.make_jaxpr(gradient)(ws).eqns
    programs = {
        id(e.params["jaxpr"]) for e in equations if e.params.get("name") and "jaxpr" in e.params
    }
    calls = [e for e in equations if "jaxpr" in e.params]
    assert len(calls) >= 48
    assert len(programs) <= 12, "one forward and one backward program for all layers"


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_static_arguments(jit):
    @functools.partial(jax.jit, static_argnums=(1,), static_argnames=("kind",))
    def fun(x: Any, n: int, *, kind: str) -> Any:
        return jnp.sum(x**n) if kind == "power" else jnp.sum(x) * n

    for n, kind in [(2, "power"), (3, "power"), (3, "sum")]:
        ours, theirs = (m.grad(lambda x: fun(x, n, kind=kind)) for m in (funcgrad, jax))  # noqa: B023
        assert_same((jax.jit(ours) if jit else ours)(draw(0, 3)), theirs(draw(0, 3)), rtol=RTOL)
    assert_same(funcgrad.grad(fun)(draw(0, 3), 3, kind="power"), 3 * draw(0, 3) ** 2, rtol=RTOL)


def test_jit_with_settings_and_donation():
    x = draw(0, 3)
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    fun = jax.jit(lambda x: jnp.sum(jnp.sin(x) * x), in_shardings=sharding, out_shardings=sharding)
    assert_same(funcgrad.grad(fun)(x), jax.grad(fun)(x), rtol=RTOL)
    inlined = jax.jit(lambda x: jnp.sum(jnp.sin(x) * x), inline=True, keep_unused=True)
    assert_same(jax.jit(funcgrad.grad(inlined))(x), jax.grad(fun)(x), rtol=RTOL)


def test_pullback_out_of_jit_called_twice(model):
    loss, params, x = model
    make = jax.jit(lambda p, x: funcgrad.vjp(jax.jit(loss), p, x))
    value, pullback = make(params, x)
    expected, reference = jax.vjp(loss, params, x)
    assert_same(value, expected, rtol=RTOL)
    for scale in (1.0, 2.0):
        ct = jnp.asarray(scale)
        assert_same(pullback(ct), reference(ct), rtol=RTOL)
        assert_same(jax.jit(lambda p, ct: p(ct))(pullback, ct), reference(ct), rtol=RTOL)


def test_jit_over_values_of_an_outer_differentiation():
    """A jitted function that closes over a value that is being differentiated."""

    def fun(grad: Any) -> Any:
        def outer(x: Any) -> Any:
            y = jnp.sin(x)
            inner = jax.jit(lambda z: jnp.sum(z * y) ** 2)
            return inner(x) + jnp.sum(grad(inner)(2 * x))

        return grad(outer)

    x = draw(0, 3)
    assert_same(fun(funcgrad.grad)(x), fun(jax.grad)(x), rtol=RTOL)
    assert_same(jax.jit(fun(funcgrad.grad))(x), fun(jax.grad)(x), rtol=RTOL)
