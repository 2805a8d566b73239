"""Overrides inside derivatives that JAX takes: a function's applies, a primitive's is reported."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from funcgrad import errors

X = 0.7


@jax.custom_jvp
def with_jvp(x):
    return jnp.sin(x)


with_jvp.defjvp(lambda primals, tangents: (with_jvp(*primals), jnp.cos(*primals) * tangents[0]))


@jax.custom_vjp
def with_vjp(x):
    return jnp.sin(x)


with_vjp.defvjp(lambda x: (with_vjp(x), x), lambda x, ct: (jnp.cos(x) * ct,))


def plain(x):
    return 1.0 * jnp.sin(x)


@jax.jit
def jitted(x):
    return 1.0 * jnp.sin(x)


@funcgrad.op
def own(x):
    return jnp.sin(x)


own.defvjp(lambda ct, x, *, out: ct * jnp.cos(x))

FUNCTIONS = {
    "relu": jax.nn.relu,
    "custom_jvp": with_jvp,
    "custom_vjp": with_vjp,
    "jit": jitted,
    "def": plain,
    "op": own,
}


def hundred_vjp(ct, x, **_):
    """Not the derivative of anything: where this gradient is seen, the rule has applied."""
    return 100.0 * ct


def in_a_jvp_rule(derivative: Any) -> Any:
    """A custom_jvp function whose rule takes a derivative of `fun`."""

    def around(fun: Any) -> Any:
        outer = jax.custom_jvp(lambda x: fun(x))
        outer.defjvp(lambda primals, tangents: derivative(fun, *primals, *tangents))
        return outer

    return around


def in_a_backward(derivative: Any) -> Any:
    """A custom_vjp function whose backward function takes a derivative of `fun`."""

    def around(fun: Any) -> Any:
        outer = jax.custom_vjp(lambda x: fun(x))
        outer.defvjp(lambda x: (fun(x), x), lambda x, ct: (derivative(fun, x, ct),))
        return outer

    return around


def run_linearized(fun: Any, x: Any, t: Any) -> Any:
    out, push = jax.linearize(fun, x)
    return out, push(t)


BACKWARD = {
    "jvp in a rule": in_a_jvp_rule(lambda f, x, t: jax.jvp(f, (x,), (t,))),
    "linearize in a rule": in_a_jvp_rule(run_linearized),
    "grad in a rule": in_a_jvp_rule(lambda f, x, t: (f(x), jax.grad(f)(x) * t)),
    "vjp in a rule": in_a_jvp_rule(lambda f, x, t: (f(x), jax.vjp(f, x)[1](1.0)[0] * t)),
    "vjp in a backward": in_a_backward(lambda f, x, ct: jax.vjp(f, x)[1](ct)[0]),
    "transposed in a backward": in_a_backward(
        lambda f, x, ct: jax.linear_transpose(jax.linearize(f, x)[1], x)(ct)[0]
    ),
    "value of value_and_grad": lambda f: lambda x: jax.value_and_grad(f)(x)[0],
    "value of vjp": lambda f: lambda x: jax.vjp(f, x)[0],
}
"""Around a function, another with the same derivative, which JAX takes backward."""

FORWARD = {
    "jacfwd in a rule": in_a_jvp_rule(lambda f, x, t: (f(x), jax.jacfwd(f)(x) * t)),
    "jvp in a backward": in_a_backward(lambda f, x, ct: jax.jvp(f, (x,), (ct,))[1]),
    "jvp": lambda f: lambda x: jax.jvp(f, (x,), (1.0,))[1],
    "linearize": lambda f: lambda x: jax.linearize(f, x)[1](1.0),
    "jacfwd": lambda f: lambda x: jax.jacfwd(f)(x),
    "hessian": lambda f: lambda x: jax.hessian(f)(x),
}
"""Around a function, others whose value needs a derivative of it that JAX takes forward."""


@pytest.mark.parametrize("around", BACKWARD.values(), ids=BACKWARD)
@pytest.mark.parametrize("fun", FUNCTIONS.values(), ids=FUNCTIONS)
def test_the_override_of_a_function_applies(fun, around):
    rules = funcgrad.DEFAULT.override({fun: hundred_vjp})
    outer = around(fun)
    assert float(funcgrad.grad(outer, rules=rules)(X)) == 100.0
    np.testing.assert_allclose(funcgrad.grad(outer)(X), jax.grad(fun)(X), rtol=1e-6)


@pytest.mark.parametrize("around", BACKWARD.values(), ids=BACKWARD)
def test_the_same_under_jit(around):
    rules = funcgrad.DEFAULT.override(dict.fromkeys(FUNCTIONS.values(), hundred_vjp))
    outers = [around(fun) for fun in FUNCTIONS.values()]
    total = jax.jit(lambda x: sum(outer(x) for outer in outers))
    for gradient in (funcgrad.grad(total, rules=rules), jax.jit(funcgrad.grad(total, rules=rules))):
        for _ in range(2):  # the second time from caches
            assert float(gradient(X)) == 100.0 * len(FUNCTIONS)


@pytest.mark.parametrize("around", FORWARD.values(), ids=FORWARD)
@pytest.mark.parametrize("fun", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.filterwarnings("ignore::funcgrad.errors.UnusedOverrideWarning")
def test_the_override_of_a_function_is_an_error_forward(fun, around):
    rules = funcgrad.DEFAULT.override({fun: hundred_vjp})
    with pytest.raises(errors.ForwardModeError, match="overridden"):
        funcgrad.grad(around(fun), rules=rules)(X)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["only there", "applied elsewhere"])
@pytest.mark.parametrize("around", [*BACKWARD.values(), *FORWARD.values()], ids=BACKWARD | FORWARD)
def test_the_override_of_a_primitive_is_reported(around, elsewhere):
    inner = around(jax.jit(jnp.sin))
    outer = (lambda x: inner(x) + jnp.sin(x)) if elsewhere else inner
    rules = funcgrad.DEFAULT.override({lax.sin_p: hundred_vjp})
    for _ in range(2):  # the second time from caches
        with pytest.warns(errors.UnusedOverrideWarning, match=r"(?s)JAX took.*`sin`.*hundred_vjp"):
            funcgrad.grad(outer, rules=rules)(X)


def test_a_strict_differentiation_refuses():
    rules = funcgrad.DEFAULT.override({lax.sin_p: hundred_vjp})
    outer = BACKWARD["jvp in a rule"](jnp.sin)
    for _ in range(2):
        with pytest.raises(errors.UnusedOverrideError, match="JAX took"):
            funcgrad.grad(outer, rules=rules, strict=True)(X)


def test_nothing_is_said_of_an_optional_rule_or_of_a_derivative_that_does_not_pass_through():
    optional = funcgrad.defvjp(lax.sin_p, optional=True)(hundred_vjp)
    outer = BACKWARD["jvp in a rule"](jnp.sin)
    funcgrad.grad(outer, rules=funcgrad.DEFAULT.override({lax.sin_p: optional}))(X)
    rules = funcgrad.DEFAULT.override({lax.sin_p: hundred_vjp})
    beside = BACKWARD["jvp in a rule"](lambda x: x * jnp.sin(2.0))
    assert float(funcgrad.grad(lambda x: beside(x) + jnp.sin(x), rules=rules)(X)) > 100.0


@pytest.mark.parametrize("derivative", [jax.grad, jax.jacfwd])
def test_a_derivative_that_jax_takes_around_is_its_own(derivative):
    """JAX differentiates our gradient: the overrides hold in ours, and nothing is reported."""
    cube_vjp = lambda ct, x, **_: ct * x**3
    rules = funcgrad.DEFAULT.override({lax.sin_p: cube_vjp, with_jvp: cube_vjp, plain: cube_vjp})
    total = lambda x: jnp.sin(x) + jax.jit(with_jvp)(x) + plain(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = derivative(funcgrad.grad(total, rules=rules))(X)
    np.testing.assert_allclose(found, 3 * 3 * X**2, rtol=1e-6)


def test_a_thread_or_a_later_call_differentiates_as_usual():
    outer = BACKWARD["jvp in a rule"](jax.jit(jax.nn.relu))
    rules = funcgrad.DEFAULT.override({jax.nn.relu: hundred_vjp})
    seen = [funcgrad.grad(outer)(X), funcgrad.grad(outer, rules=rules)(X), jax.grad(outer)(X)]
    assert list(map(float, seen)) == [1.0, 100.0, 1.0]
