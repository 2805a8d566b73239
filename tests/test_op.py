"""Ops of one's own, in both forms, under our transforms and under JAX's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad
from funcgrad import errors


@funcgrad.op
def hypotenuse(x, y):
    return jnp.sqrt(x**2 + y**2)


@hypotenuse.defvjp
def hypotenuse_vjp(ct, x, y, *, out):
    return ct * x / out, ct * y / out


@funcgrad.op
def scaled_tanh(x, *, scale):
    return scale * jnp.tanh(x)


@scaled_tanh.defforward
def scaled_tanh_forward(x, *, scale):
    t = jnp.tanh(x)
    return scale * t, t


@scaled_tanh.defbackward
def scaled_tanh_backward(ct, t, *, scale):
    return ct * scale * (1 - t**2)


X = jnp.array([3.0, 0.5, -1.0])
Y = jnp.array([4.0, 2.0, 0.25])


def plain(x, y):
    return jnp.sum(jnp.sqrt(x**2 + y**2) * 3 * jnp.tanh(x))


def with_ops(x, y):
    return jnp.sum(hypotenuse(x, y) * scaled_tanh(x, scale=3))


@pytest.mark.parametrize("grad", [funcgrad.grad, jax.grad], ids=["funcgrad", "jax"])
@pytest.mark.parametrize("jit", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_gradient_is_that_of_the_plain_function(grad, jit):
    ours = jit(grad(jit(with_ops), (0, 1)))(X, Y)
    for a, b in zip(ours, jax.grad(plain, (0, 1))(X, Y), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize("grad", [funcgrad.grad, jax.grad], ids=["funcgrad", "jax"])
def test_per_example_gradients(grad):
    ours = jax.vmap(grad(with_ops))(X, Y)
    np.testing.assert_allclose(ours, jax.vmap(jax.grad(plain))(X, Y), rtol=1e-5)


def test_second_order():
    ours = funcgrad.hessian(with_ops)(X, Y)
    np.testing.assert_allclose(ours, jax.hessian(plain)(X, Y), rtol=1e-4, atol=1e-5)


def test_override_replaces_the_rule_inside_jit():
    rules = funcgrad.DEFAULT.override({hypotenuse: lambda ct, x, y, **_: (7 * ct, None)})
    gradient = jax.jit(funcgrad.grad(lambda x: jnp.sum(hypotenuse(x, x)), rules=rules))
    np.testing.assert_array_equal(gradient(X), [7, 7, 7])


def test_only_what_the_rule_reads_is_kept():
    @funcgrad.op
    def exp(x):
        return jnp.exp(x)

    @exp.defvjp
    def exp_vjp(ct, x, *, out):
        return ct * out

    out, pullback = funcgrad.vjp(exp, X)
    assert [r is out or bool((r == out).all()) for r in pullback.residuals] == [True]


def test_operands_may_be_pytrees_and_missing_cotangents_are_none():
    seen = []

    @funcgrad.op
    def affine(params, x):
        return params["w"] * x + params["b"], x

    @affine.defvjp
    def affine_vjp(ct, params, x, *, out):
        seen.append(ct[1])
        return {"w": ct[0] * x, "b": ct[0]}, None

    params = {"w": X, "b": Y}
    gradient = funcgrad.grad(lambda p: jnp.sum(affine(p, Y)[0]))(params)
    np.testing.assert_array_equal(gradient["w"], Y)
    np.testing.assert_array_equal(gradient["b"], [1, 1, 1])
    assert None in seen


def test_integer_operands_have_no_gradient():
    @funcgrad.op
    def times(x, n):
        return x * n

    @times.defvjp
    def times_vjp(ct, x, n, *, out):
        return ct * n, None

    assert float(funcgrad.grad(lambda x: times(x, jnp.int32(5)))(2.0)) == 5


def test_an_op_without_backward_says_so():
    @funcgrad.op
    def bare(x):
        return x

    with pytest.raises(errors.InputError, match=r"bare at .*no backward rule.*defvjp"):
        funcgrad.grad(bare)(1.0)


def test_a_second_rule_is_refused():
    with pytest.raises(errors.DuplicateRuleError, match="hypotenuse_vjp"):
        hypotenuse.defvjp(lambda ct, x, y, *, out: (ct, ct))


def test_wrong_count_names_rule_and_line():
    @funcgrad.op
    def add(x, y):
        return x + y

    @add.defvjp
    def lopsided_vjp(ct, x, y, *, out):
        return ct

    with pytest.raises(
        errors.RuleResultError, match=r"lopsided_vjp.*test_op.py.*1 cotangent.*2 op"
    ):
        funcgrad.grad(add)(1.0, 2.0)
