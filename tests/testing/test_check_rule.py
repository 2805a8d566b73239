"""The checker of single rules: what it takes for an op, and that it sees a wrong one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from funcgrad import errors
from funcgrad.testing import GradientError, check_rule

X = np.array([[0.3, -1.2, 2.0], [1.1, 0.4, -0.7]])
FIRST = {"order": 1, "modes": ("types", "jax", "dot", "numerical")}


@funcgrad.op
def powered(x, *, n):
    return x**n


@powered.defvjp
def powered_vjp(ct, x, *, out, n):
    return ct * n * x ** (n - 1)


@funcgrad.op
def affine(params, x):
    return params["w"] * x + params["b"]


@affine.defvjp
def affine_vjp(ct, params, x, *, out):
    return {"w": jnp.sum(ct * x), "b": jnp.sum(ct) * 2}, ct * params["w"]


@jax.custom_jvp
def softplus(x):
    return jnp.logaddexp(x, 0)


softplus.defjvps(lambda t, out, x: t * (1 - jnp.exp(-out)))


@jax.custom_vjp
def halved(x):
    return x / 2


halved.defvjp(lambda x: (x / 2, None), lambda _, ct: (ct,))


@jax.jit
def doubled(x):
    return 2 * x


@funcgrad.defvjp(lax.tanh_p)
def tanh_vjp(ct, x, *, out, **_):
    return ct * (1 - out)


@funcgrad.defvjp(jax.nn.silu)
def silu_vjp(ct, x, *, out):
    return 1.01 * ct * jax.nn.sigmoid(x) * (1 + x - out)


def passes(*args, **params):
    report = check_rule(*args, options=FIRST, **params)
    assert not report.of_status("FAILED")
    return {row.mode for row in report.of_status("passed")}


def failing(*args, **keywords):
    with pytest.raises(GradientError) as caught:
        check_rule(*args, **{"options": FIRST, **keywords})
    return caught.value


ALL = {"types", "jax", "dot", "numerical"}
MATRICES = (((1,), (0,)), ((), ()))


@pytest.mark.parametrize(
    ("op", "args", "params"),
    [
        (lax.sin_p, (X,), {}),
        (lax.sin_p, (X,), {"accuracy": None}),
        (lax.mul_p, (X, X[::-1].copy()), {}),
        (lax.dot_general_p, (X, X.T.copy()), {"dimension_numbers": MATRICES}),
        (lax.cumsum_p, (X,), {"axis": 1, "reverse": True}),
        (lax.linalg.cholesky_p, (np.eye(2) + 0.1,), {}),
        (powered, (X,), {"n": 3}),
        (softplus, (X,), {}),
        (doubled, (X,), {}),
        (lax.select_n_p, (X > 0, X, X + 1), {}),
    ],
    ids=lambda value: str(getattr(value, "__name__", value)) if callable(value) else "",
)
def test_right_rules_pass(op, args, params):
    assert passes(op, *args, **params) == ALL


def test_full_check_of_an_op():
    report = check_rule(powered, X, n=3)
    assert report.name.startswith("powered at")
    assert {row.mode for row in report.of_status("not run")} == {"operands", "outputs"}


def test_a_primitive_with_a_body_is_reached_through_a_function():
    def run(x):
        return lax.scan(lambda c, y: (jnp.sin(c * y), c), x[0], x)

    assert passes(lax.scan_p, X, through=run) == ALL


def test_a_wrong_rule_of_a_primitive():
    error = failing(tanh_vjp, X)
    assert error.report.name == "tanh_vjp"
    assert {row.mode for row in error.report.of_status("FAILED")} == {"jax", "dot", "numerical"}
    assert "the cotangent of operand 0 is wrong at index" in str(error)
    assert failing(tanh_vjp, X, through=lambda x: jnp.tanh(x) * 2)


def test_a_wrong_rule_of_a_function():
    assert failing(silu_vjp, X, through=jax.nn.silu).check.name == "jax"
    with pytest.raises(errors.InputError, match=r"through=f, a function of these arguments"):
        check_rule(silu_vjp, X)


def test_a_wrong_op_is_compared_with_its_function():
    error = failing(affine, {"w": 2.0, "b": 1.0}, X)
    assert "the cotangent of operand 0['b'] is wrong: " in str(error)
    assert [row.status for row in error.report["numerical"]] == ["passed", "FAILED"]
    error = failing(halved, X)
    assert {row.mode for row in error.report.of_status("FAILED")} == {"jax", "dot", "numerical"}


def test_an_override_is_not_compared():
    rules = funcgrad.DEFAULT.override({doubled: lambda ct, x, **_: ct * 100})
    report = check_rule(doubled, X, options={"rules": rules})
    reasons = {row.mode: row.detail for row in report.of_status("not run")}
    assert {"jax", "dot", "numerical", "second"} < set(reasons)
    assert reasons["jax"].startswith("the rules override doubled at")
    clipped = funcgrad.DEFAULT.override({doubled: lambda ct, x, **_: jnp.clip(2 * ct, -1, 1)})
    error = failing(doubled, X, options={"rules": clipped})
    assert error.check.name == "linear"
    without = {"rules": clipped, "modes": ("types", "jit", "vmap")}
    assert len(check_rule(doubled, X, options=without).of_status("passed")) == 3
    assert failing(doubled, X, options={"rules": clipped, "derivative": True, **FIRST})


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: check_rule(lambda x: x, X), errors.NotAnOpError, "Rules belong to"),
        (lambda: check_rule(powered_vjp, 1.0, X, n=3), errors.NotAnOpError, "Rules belong to"),
        (
            lambda: check_rule(lax.sin_p, X, through=jnp.cos),
            errors.InputError,
            "does not occur in `cos",
        ),
        (
            lambda: check_rule(lax.dot_general_p, X, X),
            errors.InputError,
            "cannot be run on these operands",
        ),
        (
            lambda: check_rule(lax.sin_p, X, options={"axis": 1}),
            errors.InputError,
            "options ['axis']",
        ),
        (
            lambda: check_rule(lax.sin_p, np.array([np.inf])),
            errors.InputError,
            "operand 0 of `sin` is inf",
        ),
        (lambda: check_rule(lax.sin_p), errors.InputError, "cannot be run"),
        (
            lambda: check_rule(lax.population_count_p, np.arange(3)),
            errors.InputError,
            "no argument has one",
        ),
    ],
)
def test_bad_calls(call, kind, words):
    with pytest.raises(kind) as caught:
        call()
    assert words in str(caught.value)


def test_a_rule_for_several_ops_is_checked_on_the_one_that_occurs():
    @funcgrad.defvjp(lax.sin_p, lax.tanh_p)
    def shared_vjp(ct, x, *, out, **_):
        return ct * jnp.cos(x)

    assert passes(shared_vjp, X, through=jnp.sin) == ALL
    assert failing(shared_vjp, X, through=jnp.tanh)
    with pytest.raises(errors.InputError, match="`sin`, `tanh`"):
        check_rule(shared_vjp, X)


def test_more_outputs_than_operands():
    report = check_rule(lax.split_p, X, sizes=(1, 2), axis=1)
    assert {row.status for row in report if row.mode in ("value", "jax", "outputs")} == {"passed"}


EDGES = np.array([0.5, np.inf, -np.inf, np.nan])


@funcgrad.defvjp(lax.tanh_p)
def tanh_of_finite_vjp(ct, x, *, out, **_):
    return ct * (1 - out * out) + 0 * x  # nan where x is infinite


def test_infinite_operands_are_compared_with_jax_where_consent_is_given():
    with pytest.raises(errors.InputError, match=r"is inf at index \(1,\).*finite=False"):
        check_rule(lax.tanh_p, EDGES)
    report = check_rule(lax.tanh_p, EDGES, options={"finite": False})
    ran = {row.name for row in report.of_status("passed")}
    assert {"types", "value", "jax", "jit", "vmap", "second by jax", "untouched"} <= ran
    reasons = {row.name: row.detail for row in report.of_status("not run")}
    assert reasons["numerical"] == "the function is not finite here"
    assert reasons["linear"] == "the gradient is not finite"
    with pytest.raises(GradientError) as caught:
        check_rule(tanh_of_finite_vjp, EDGES, options={"finite": False, "order": 1})
    assert caught.value.check.name == "jax"
    assert "at index (1,): nan, and " in str(caught.value)


def test_parts_of_the_second_order_by_name():
    modes = ("jax", "second by jax", "second by jax over ours")
    report = check_rule(lax.tanh_p, X, options={"modes": modes})
    assert tuple(row.name for row in report.of_status("passed")) == modes
    assert {row.detail for row in report.of_status("not run")} == {"not asked for"}
