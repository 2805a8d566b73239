"""Prints, checks and callbacks in what is differentiated: how often, in which order, which errors."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import checkify, io_callback
from jax.experimental import pallas as pl
from jax.experimental.buffer_callback import buffer_callback

import funcgrad
from tests.compare import assert_same

X = jnp.arange(1.0, 4.0)
OUT = jax.ShapeDtypeStruct(X.shape, X.dtype)
SEEN: list[float] = []


def see(x: Any, ordered: bool) -> None:
    jax.debug.callback(lambda x: SEEN.append(round(float(x), 5)), x, ordered=ordered)


def seen(fun: Any, *args: Any) -> list[float]:
    """What `fun` lets see, in order."""
    SEEN.clear()
    fun(*args)
    jax.effects_barrier()
    return list(SEEN)


def observed(ordered: bool) -> Any:
    def fun(x: Any) -> Any:
        y = jnp.sin(x)
        see(y, ordered)
        see(2 * y, ordered)
        return y * y

    return fun


def looped(fun: Any) -> Any:
    return lambda x: lax.scan(lambda c, _: (fun(c), None), x, None, length=3)[0]


PLACES = {
    "alone": lambda fun: fun,
    "jit": jax.jit,
    "scan": looped,
    "scan in jit": lambda fun: jax.jit(looped(fun)),
    "scan over what is constant": lambda fun: (
        lambda x: lax.scan(lambda c, _: (c * fun(x), None), x, None, length=3)[0]
    ),
    "cond": lambda fun: lambda x: lax.cond(x > 0, fun, jnp.cos, x),
    "checkpoint": jax.checkpoint,
    "checkpoint in scan": lambda fun: looped(jax.checkpoint(fun)),
    "loop": lambda fun: lambda x: lax.fori_loop(0, 2, lambda _, c: fun(c), x),
}


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_effects_happen_once_as_without_gradient(place, ordered):
    """But under jax.checkpoint: as often as with jax.grad, whose backward pass has them again.

    jax.grad has fewer of them in a scan over what is constant.
    """
    fun, x = place(observed(ordered)), jnp.float32(0.5)
    again = place in (PLACES["checkpoint"], PLACES["checkpoint in scan"])
    expected = seen(jax.jit(jax.grad(fun) if again else fun), x)
    arranged = list if ordered else sorted
    assert arranged(seen(funcgrad.grad(fun), x)) == arranged(expected)
    assert arranged(seen(jax.jit(funcgrad.grad(fun)), x)) == arranged(expected)


def test_effects_under_vmap():
    grad = jax.vmap(funcgrad.grad(observed(False)))
    expected = sorted(seen(jax.vmap(observed(False)), X))
    assert sorted(seen(grad, X)) == sorted(seen(jax.jit(grad), X)) == expected


@jax.custom_vjp
def observing_vjp(x):
    return observed(True)(x)


def observing_bwd(x: Any, ct: Any) -> Any:
    see(100 * ct, True)
    return (ct * x,)


observing_vjp.defvjp(lambda x: (observed(True)(x), x), observing_bwd)


@jax.custom_jvp
def observing_jvp(x):
    return observed(True)(x)


@observing_jvp.defjvp
def observing_jvp_rule(primals: Any, tangents: Any) -> Any:
    see(100 * primals[0], True)
    return jnp.sin(primals[0]), 2 * tangents[0]


@pytest.mark.parametrize("place", ["alone", "jit", "scan", "cond"])
@pytest.mark.parametrize("fun", [observing_vjp, observing_jvp], ids=["custom_vjp", "custom_jvp"])
def test_effects_in_custom_rules(fun, place):
    """Forward, backward and JVP functions have theirs as often as under jax.grad."""
    fun, x = PLACES[place](fun), jnp.float32(0.5)
    for run in (lambda f: f, jax.jit):
        expected = seen(run(jax.grad(fun)), x)
        assert expected
        assert seen(run(funcgrad.grad(fun)), x) == expected


def test_print(capfd):
    def fun(x: Any) -> Any:
        jax.debug.print("x = {x}", x=x)
        return x * x

    funcgrad.grad(fun)(3.0)
    jax.jit(funcgrad.grad(fun))(4.0)
    jax.effects_barrier()
    assert capfd.readouterr().out.split() == ["x", "=", "3.0", "x", "=", "4.0"]


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("x", [2.0, -2.0])
def test_checkify(x, jit):
    """Over the gradient, and under it."""

    def fun(x: Any) -> Any:
        checkify.check(x > 0, "negative: {x}", x=x)
        return jnp.log(x) * x

    def under(grad: Any) -> Any:
        def value_and_error(x: Any) -> Any:
            error, y = checkify.checkify(fun)(x)
            return y, error

        return grad(value_and_error, has_aux=True)

    run = jax.jit if jit else lambda f: f
    for wrapped in (
        lambda grad: lambda x: checkify.checkify(run(grad(fun)))(x)[::-1],
        lambda grad: run(under(grad)),
    ):
        (ours, our_error), (theirs, their_error) = (wrapped(m.grad)(x) for m in (funcgrad, jax))
        assert_same(ours, theirs, weak=False)
        assert (our_error.get() is None) == (their_error.get() is None) == (x > 0)


# --- ops that run code that nobody can differentiate


def pure(x: Any) -> Any:
    return jax.pure_callback(lambda x: np.sin(x), OUT, x, vmap_method="sequential")


def effectful(x: Any) -> Any:
    return io_callback(lambda x: np.sin(x), OUT, x)


def buffered(x: Any) -> Any:
    return buffer_callback(lambda ctx, out, x: None, OUT)(x)


def foreign(x: Any) -> Any:
    return jax.ffi.ffi_call("no_such_target", OUT)(x)


def sine_kernel(x_ref: Any, out_ref: Any) -> None:
    out_ref[...] = jnp.sin(x_ref[...])


def kernel(x: Any) -> Any:
    return pl.pallas_call(sine_kernel, out_shape=OUT, interpret=True)(x)


OPAQUE = {
    "pure_callback": pure,
    "io_callback": effectful,
    "buffer_callback": buffered,
    "ffi_call": foreign,
    "pallas_call": kernel,
}
JAX_REFUSES = ("pure_callback", "io_callback", "buffer_callback", "ffi_call")
RUN = {name: OPAQUE[name] for name in ("pure_callback", "io_callback", "pallas_call")}


@pytest.mark.parametrize("place", [jax.jit, looped, jax.checkpoint], ids=["jit", "scan", "remat"])
@pytest.mark.parametrize("name", OPAQUE)
def test_missing_rule_says_what_to_do(name, place):
    grad = jax.jit(funcgrad.grad(lambda x: jnp.sum(place(OPAQUE[name])(x))))
    with pytest.raises(funcgrad.FuncgradError, match=f"op `{name}`") as caught:
        grad.trace(X)
    message = str(caught.value)
    assert f"test_effects.py:{OPAQUE[name].__code__.co_firstlineno + 1}" in message
    if name in JAX_REFUSES and place is not jax.checkpoint:
        with pytest.raises(ValueError, match=r"support|differentiated") as theirs:
            jax.grad(lambda x: jnp.sum(place(OPAQUE[name])(x)))(X)
        assert isinstance(caught.value, ValueError)
        assert str(theirs.value).split(". ")[0] in message
    if name == "io_callback" and place is jax.checkpoint:  # refused, whatever its rule
        assert "jax.debug.callback" in message
        return
    assert "@funcgrad.op" in message
    assert "jax.jit" in message


@pytest.mark.parametrize("name", RUN)
def test_no_error_where_no_cotangent_arrives(name):
    fun = RUN[name]
    loss = lambda x: jnp.sum(lax.stop_gradient(fun(x)) * x)
    assert_same(jax.jit(funcgrad.grad(loss))(X), jnp.sin(X), weak=False)
    assert_same(funcgrad.grad(jax.jit(loss))(X), jnp.sin(X), weak=False)
    unused = jax.jit(lambda x: (fun(x), jnp.sum(x * x))[1])
    assert_same(funcgrad.grad(unused)(X), 2 * X, weak=False)


@pytest.mark.parametrize("place", ["alone", "jit", "scan", "checkpoint"])
@pytest.mark.parametrize("name", RUN)
def test_what_the_message_says_works(name, place):
    """A funcgrad.op, a custom_vjp, an override of the jitted function, one of the primitive."""
    fun = RUN[name]
    if name == "io_callback" and place == "checkpoint":
        pytest.skip("jax.checkpoint allows no io_callback")

    def cosine_vjp(ct: Any, x: Any, **_: Any) -> Any:
        return (ct[0] if isinstance(ct, tuple) else ct) * jnp.cos(x)

    def through(fun: Any) -> Any:
        return lambda x: jnp.sum(PLACES[place](fun)(x))

    expected = jax.grad(through(jnp.sin))(X)
    op = funcgrad.op(lambda x: fun(x))
    op.defvjp(cosine_vjp)
    custom = jax.custom_vjp(lambda x: fun(x))
    custom.defvjp(lambda x: (fun(x), x), lambda x, ct: (ct * jnp.cos(x),))
    for made in (op, custom):
        for grad in (funcgrad.grad, jax.grad):
            assert_same(grad(through(made))(X), expected, 1e-6, weak=False)
        assert_same(jax.jit(funcgrad.grad(through(made)))(X), expected, 1e-6, weak=False)
    jitted = jax.jit(fun)
    primitive = jax.make_jaxpr(fun)(X).eqns[-1].primitive
    for key, used in ((jitted, jitted), (primitive, fun)):
        rules = funcgrad.DEFAULT.override({key: cosine_vjp})
        ours = funcgrad.grad(through(used), rules=rules)(X)
        assert_same(ours, expected, 1e-6, weak=False)


# --- Pallas kernels with a custom_vjp


def scaled_kernel(x_ref: Any, scale_ref: Any, out_ref: Any) -> None:
    out_ref[...] = jnp.tanh(x_ref[...]) * scale_ref[...]


def scaled_kernel_bwd(x_ref: Any, scale_ref: Any, ct_ref: Any, ct_x_ref: Any, ct_scale_ref: Any):
    y = jnp.tanh(x_ref[...])
    ct_x_ref[...] = ct_ref[...] * scale_ref[...] * (1 - y * y)
    ct_scale_ref[...] = ct_ref[...] * y


def blocks(fun: Any, num_in: int, num_out: int) -> Any:
    spec = pl.BlockSpec((2, 4), lambda i: (i, 0))
    shape = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    return pl.pallas_call(
        fun,
        grid=(2,),
        in_specs=[spec] * num_in,
        out_specs=[spec] * num_out,
        out_shape=[shape] * num_out,
        interpret=True,
    )


@jax.custom_vjp
def tanh_scaled(x: Any, scale: Any) -> Any:
    return blocks(scaled_kernel, 2, 1)(x, scale)[0]


tanh_scaled.defvjp(
    lambda x, scale: (tanh_scaled(x, scale), (x, scale)),
    lambda residuals, ct: tuple(blocks(scaled_kernel_bwd, 3, 2)(*residuals, ct)),
)


@pytest.mark.parametrize("place", ["alone", "jit", "scan", "checkpoint"])
def test_kernel_with_custom_vjp(place):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 4)), jnp.float32)

    def loss(x: Any, fun: Any) -> Any:
        return jnp.sum(jnp.sin(PLACES[place](lambda x: fun(x, jnp.cos(x)))(x)))

    plain = lambda x, scale: jnp.tanh(x) * scale
    expected = jax.grad(loss)(x, plain)
    assert_same(jax.grad(loss)(x, tanh_scaled), expected, 1e-5)
    assert_same(funcgrad.grad(loss)(x, tanh_scaled), expected, 1e-5)
    assert_same(jax.jit(funcgrad.grad(loss), static_argnums=1)(x, tanh_scaled), expected, 1e-5)
    batch = jnp.stack([x, -x])
    ours = jax.vmap(lambda x: funcgrad.grad(loss)(x, tanh_scaled))(batch)
    assert_same(ours, jax.vmap(lambda x: jax.grad(loss)(x, plain))(batch), 1e-5)
