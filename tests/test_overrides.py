"""An override applies wherever its op is called, or is reported; it is never dropped in silence."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from funcgrad import errors
from funcgrad.keys import op_key

X = jnp.array([[0.5, -1.5, 2.0], [1.0, 0.25, -0.75]])
POSITIVE = jnp.abs(X) + 0.5


def plain(x):
    return x * jnp.sum(x)


def scaled(x, factor=2.0):
    return factor * x


@jax.custom_jvp
def with_jvp(x):
    return 3 * x


with_jvp.defjvp(lambda primals, tangents: (3 * primals[0], 3 * tangents[0]))


@jax.custom_vjp
def with_vjp(x):
    return 3 * x


with_vjp.defvjp(lambda x: (3 * x, None), lambda _, ct: (3 * ct,))


@funcgrad.op
def tripled(x):
    return 3 * x


tripled.defvjp(lambda ct, x, *, out: 3 * ct)

jitted = jax.jit(plain)
checkpointed = jax.checkpoint(plain)
named = jax.named_call(plain, name="plain")
mapped = jax.vmap(plain)
doubled = partial(scaled, factor=2.0)


def hundred_vjp(ct, *operands, out, **params):
    """Not the derivative of anything: where this gradient is seen, the rule has applied."""
    cts = [jnp.full(x.shape, 100.0, x.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else None
           for x in operands]  # fmt: skip
    return cts[0] if len(cts) == 1 else tuple(cts)


@dataclass(frozen=True)
class Row:
    """What is overridden, and a function of x that calls it."""

    op: Any
    call: Any
    name: str = ""
    positive: bool = False

    @property
    def x(self) -> Any:
        return POSITIVE if self.positive else X

    def __str__(self) -> str:
        return self.name or getattr(self.op, "__name__", str(self.op))


KERNEL = jnp.ones((1, 1, 2, 2))

ROWS = [
    Row(lax.sin_p, jnp.sin),
    Row(lax.dot_general_p, lambda x: x @ X.T),
    Row(lax.exp, jnp.exp, name="lax.exp"),
    Row(lax.tanh, jnp.tanh, name="lax.tanh"),
    Row(
        lax.conv_general_dilated,
        lambda x: lax.conv_general_dilated(
            x[None, None], KERNEL[:, :, 0, 0][None, None], (1, 1), "SAME"
        ),
    ),
    Row(lax.stop_gradient, lax.stop_gradient),
    Row(jnp.exp, jnp.exp, name="jnp.exp"),
    Row(jnp.abs, jnp.abs, name="jnp.abs"),
    Row(jnp.sqrt, jnp.sqrt, "jnp.sqrt", positive=True),
    Row(jnp.sum, jnp.sum),
    Row(jnp.sum, lambda x: x.sum(axis=0), name="sum, as a method"),
    Row(jnp.mean, jnp.mean),
    Row(jnp.var, jnp.var),
    Row(jnp.prod, jnp.prod),
    Row(jnp.max, jnp.max),
    Row(jnp.where, lambda x: jnp.where(X > 0, x, 0.0)),
    Row(jnp.einsum, lambda x: jnp.einsum("ij,kj->ik", x, X)),
    Row(jnp.matmul, lambda x: jnp.matmul(x, X.T)),
    Row(jnp.matmul, lambda x: x @ X.T, name="matmul, as an operator"),
    Row(jnp.add, lambda x: x + X, name="add, as an operator"),
    Row(jnp.maximum, lambda x: jnp.maximum(x, 0.0)),
    Row(jnp.sort, jnp.sort),
    Row(jnp.linalg.norm, jnp.linalg.norm),
    Row(jax.nn.softmax, jax.nn.softmax),
    Row(jax.nn.log_softmax, jax.nn.log_softmax),
    Row(jax.nn.gelu, jax.nn.gelu),
    Row(jax.nn.silu, jax.nn.silu),
    Row(jax.nn.relu, jax.nn.relu),
    Row(jax.nn.leaky_relu, jax.nn.leaky_relu),
    Row(jax.nn.logsumexp, jax.nn.logsumexp),
    Row(plain, plain, name="a plain def"),
    Row(doubled, doubled, name="functools.partial"),
    Row(jitted, jitted, name="jax.jit"),
    Row(checkpointed, checkpointed, name="jax.checkpoint"),
    Row(named, named, name="jax.named_call"),
    Row(mapped, mapped, name="jax.vmap"),
    Row(with_jvp, with_jvp, name="jax.custom_jvp"),
    Row(with_vjp, with_vjp, name="jax.custom_vjp"),
    Row(tripled, tripled, name="funcgrad.op"),
    Row(jax.checkpoint(plain), lambda x: jax.checkpoint(plain)(x), name="another jax.checkpoint"),
    Row(jax.jit(plain), lambda x: jax.jit(plain)(x), name="another jax.jit"),
]


def in_scan(fun):
    return lambda x: lax.scan(lambda carry, x: (carry, fun(x)), 0.0, x[None])[1]


WAYS = {
    "plainly": lambda fun: fun,
    "under jit": jax.jit,
    "in a scan": in_scan,
    "in a jitted scan": lambda fun: jax.jit(in_scan(fun)),
    "in a checkpoint": jax.checkpoint,
    "in a cond": lambda fun: lambda x: lax.cond(True, fun, lambda x: 2.0 * fun(x), x),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_override_applies(row, way):
    fun = WAYS[way](lambda x: row.call(x))
    rules = funcgrad.DEFAULT.override({row.op: hundred_vjp})
    out, pullback = funcgrad.vjp(fun, row.x, rules=rules)
    np.testing.assert_allclose(out, jax.jit(fun)(row.x), rtol=1e-6)
    np.testing.assert_array_equal(pullback(jnp.ones_like(out))[0], jnp.full_like(row.x, 100.0))


def test_a_rule_of_a_vmapped_function_is_vmapped():
    @jax.jit
    def normalised(x):
        return x / x.sum(0)

    def normalised_vjp(ct, x, *, out, **_):
        # y = x / s; ct_x = (ct - sum(ct y)) / s, all sums over the one axis of an example
        return 100 * (ct - jnp.sum(ct * out, 0)) / x.sum(0)

    def fun(x):
        return (jax.vmap(normalised)(x) * X).sum()

    rules = funcgrad.DEFAULT.override({normalised: normalised_vjp})
    for f in (fun, jax.jit(fun)):
        found = funcgrad.grad(f, rules=rules)(POSITIVE)
        np.testing.assert_allclose(found, 100 * jax.grad(fun)(POSITIVE), rtol=1e-5)


def test_the_outer_differentiation_and_the_forward_are_the_functions_own():
    rules = funcgrad.DEFAULT.override({plain: hundred_vjp})
    found = jax.grad(lambda x: (funcgrad.grad(lambda y: plain(y * x).sum(), rules=rules)(x)).sum())(
        X
    )
    np.testing.assert_allclose(found, jnp.full_like(X, 100.0))


# --- what a rule is given


def given(**expected):
    def rule(ct, x, *, out, **params):
        assert {name: params[name] for name in expected} == expected
        return 100 * ct

    return rule


@jax.jit
def no_statics(x):
    return 2 * x


@partial(jax.jit, static_argnames=("times", "mode"))
def statics(x, times, mode="same"):
    return times * x


@partial(jax.custom_jvp, nondiff_argnums=(0, 2))
def nondiff(times, x, mode="same"):
    return times * x


nondiff.defjvp(lambda times, mode, primals, tangents: (times * primals[0], times * tangents[0]))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def nondiff_vjp(x, times):
    return times * x


nondiff_vjp.defvjp(lambda x, times: (times * x, None), lambda times, _, ct: (times * ct,))


@funcgrad.op
def op_with_params(x, *, k=3.0):
    return k * x


op_with_params.defvjp(lambda ct, x, *, out, k: k * ct)


@pytest.mark.parametrize(
    ("op", "call", "rule"),
    [
        (jax.nn.log_softmax, jax.nn.log_softmax, given(axis=-1)),
        (jax.nn.log_softmax, partial(jax.nn.log_softmax, axis=0), given(axis=0)),
        (jax.nn.softmax, lambda x: jax.nn.softmax(x, 0), given(axis=0)),
        (jax.nn.gelu, jax.nn.gelu, given(approximate=True)),
        (statics, lambda x: statics(x, 3), given(times=3, mode="same")),
        (nondiff, lambda x: nondiff(3, x), given(times=3, mode="same")),
        (nondiff_vjp, lambda x: nondiff_vjp(x, 3), given(times=3)),
        (op_with_params, op_with_params, given(k=3.0)),
        (op_with_params, lambda x: op_with_params(x, k=2.0), given(k=2.0)),
        (scaled, lambda x: scaled(x, factor=5.0), given(factor=5.0)),
    ],
    ids=["log_softmax", "log_softmax of axis 0", "softmax", "gelu", "static_argnames",
         "custom_jvp", "custom_vjp", "op, by default", "op", "plain"],
)  # fmt: skip
@pytest.mark.parametrize("way", ["plainly", "under jit", "in a scan"])
def test_a_rule_is_given_static_arguments_by_name(op, call, rule, way):
    fun = WAYS[way](lambda x: call(x))
    rules = funcgrad.DEFAULT.override({op: rule})
    out, pullback = funcgrad.vjp(fun, X, rules=rules)
    np.testing.assert_array_equal(pullback(jnp.ones_like(out))[0], jnp.full_like(X, 100.0))


def test_a_partial_function_means_calls_with_its_arguments_only():
    rules = funcgrad.DEFAULT.override({partial(scaled, factor=2.0): hundred_vjp})
    fun = lambda x: (scaled(x, 2.0) + 0 * scaled(x, 5.0)).sum()
    np.testing.assert_array_equal(funcgrad.grad(fun, rules=rules)(X), jnp.full_like(X, 100.0))
    with pytest.warns(errors.UnusedOverrideWarning, match="scaled"):
        found = funcgrad.grad(lambda x: scaled(x, 5.0).sum(), rules=rules)(X)
    np.testing.assert_array_equal(found, jnp.full_like(X, 5.0))


def test_two_closures_of_one_definition_are_two_ops():
    def layer(factor):
        return jax.jit(lambda x: factor * x)

    a, b = layer(2.0), layer(3.0)
    rules = funcgrad.DEFAULT.override({a: lambda ct, x, *, out: 10 * ct})
    both = rules.override({b: lambda ct, x, *, out: 100 * ct})
    fun = lambda x, y: (a(x) + b(y)).sum()
    found = funcgrad.grad(fun, (0, 1), rules=both)(X, X)
    np.testing.assert_array_equal(found[0], jnp.full_like(X, 10.0))
    np.testing.assert_array_equal(found[1], jnp.full_like(X, 100.0))
    with pytest.raises(errors.UncaughtCallError, match="another function"):
        funcgrad.grad(fun, (0, 1), rules=rules)(X, X)
    same = funcgrad.DEFAULT.override(dict.fromkeys((a, b), hundred_vjp))
    for found in funcgrad.grad(fun, (0, 1), rules=same)(X, X):
        np.testing.assert_array_equal(found, jnp.full_like(X, 100.0))


def test_operands_are_given_as_they_were():
    def affine(params, x, *, activation=jnp.tanh):
        return activation(x @ params["w"] + params["b"])

    def affine_vjp(ct, params, x, *, out, activation):
        assert activation is jnp.tanh
        return {"w": jnp.full_like(params["w"], 2.0), "b": params["b"]}, 3 * x

    params = {"w": jnp.ones((3, 2)), "b": jnp.arange(2.0)}
    rules = funcgrad.DEFAULT.override({affine: affine_vjp})
    ct_params, ct_x = funcgrad.grad(lambda p, x: affine(p, x).sum(), (0, 1), rules=rules)(params, X)
    np.testing.assert_array_equal(ct_params["w"], jnp.full((3, 2), 2.0))
    np.testing.assert_array_equal(ct_params["b"], params["b"])
    np.testing.assert_array_equal(ct_x, 3 * X)


def test_a_number_among_the_operands_takes_its_place_in_the_rule():
    def where_vjp(ct, condition, x, y, *, out, **_):
        zeros = jnp.zeros_like(ct)
        return None, 10 * jnp.where(condition, ct, zeros), 10 * jnp.where(condition, zeros, ct)

    rules = funcgrad.DEFAULT.override({jnp.where: where_vjp})
    found = funcgrad.grad(lambda x: jnp.where(X > 0, 0.0, x).sum(), rules=rules)(X)
    np.testing.assert_array_equal(found, jnp.where(X > 0, 0.0, 10.0))


# --- what never applies


def test_an_unused_override_is_reported_with_near_misses():
    rules = funcgrad.DEFAULT.override({lax.sinh_p: hundred_vjp})
    with pytest.warns(
        errors.UnusedOverrideWarning, match=r"(?s)`sinh`.*hundred_vjp.*`sin`"
    ) as told:
        funcgrad.grad(lambda x: jnp.sin(x).sum(), rules=rules)(X)
    assert told[0].filename == __file__
    with pytest.warns(errors.UnusedOverrideWarning, match="sinh"):
        jax.jit(funcgrad.grad(lambda x: jnp.sin(x).sum(), rules=rules))(X)
    with pytest.raises(errors.UnusedOverrideError, match="sinh"):
        funcgrad.grad(lambda x: jnp.sin(x).sum(), rules=rules, strict=True)(X)


def test_an_optional_override_is_not():
    optional = funcgrad.defvjp(lax.sinh_p, optional=True)(hundred_vjp)
    rules = funcgrad.DEFAULT.override({lax.sinh_p: optional})
    funcgrad.grad(lambda x: jnp.sin(x).sum(), rules=rules)(X)


def test_a_cached_program_counts():
    rules = funcgrad.DEFAULT.override({lax.sin_p: hundred_vjp})
    inner = jax.jit(jnp.sin)
    fun = lambda x: inner(x).sum()
    for _ in range(2):
        np.testing.assert_array_equal(funcgrad.grad(fun, rules=rules)(X), jnp.full_like(X, 100.0))


def test_an_override_used_by_an_inner_differentiation_counts():
    rules = funcgrad.DEFAULT.override({plain: lambda ct, x, **_: ct * x})
    funcgrad.hessian(lambda x: plain(x).sum(), rules=rules)(X)
    funcgrad.hvp(lambda x: plain(x).sum(), (X,), (X,), rules=rules)


def run(closed, x):
    return jax.core.eval_jaxpr(closed.jaxpr, closed.consts, x)[0]


def test_a_call_that_was_traced_before_is_an_error():
    closed = jax.make_jaxpr(no_statics)(X)
    rules = funcgrad.DEFAULT.override({no_statics: hundred_vjp})
    with pytest.raises(errors.UncaughtCallError, match="traced before"):
        funcgrad.grad(
            lambda x: jax.core.eval_jaxpr(closed.jaxpr, closed.consts, x)[0].sum(), rules=rules
        )(X)


def test_a_plain_function_that_was_traced_before_is_reported():
    closed = jax.make_jaxpr(plain)(X)
    rules = funcgrad.DEFAULT.override({plain: hundred_vjp})
    with pytest.warns(errors.UnusedOverrideWarning, match="traced before"):
        funcgrad.grad(
            lambda x: jax.core.eval_jaxpr(closed.jaxpr, closed.consts, x)[0].sum(), rules=rules
        )(X)


def test_a_jitted_function_is_traced_apart_for_each_override():
    inner = jax.jit(lambda x: jax.nn.softmax(x).sum())
    ordinary = funcgrad.grad(inner)(X)
    rules = funcgrad.DEFAULT.override({jax.nn.softmax: hundred_vjp})
    np.testing.assert_array_equal(funcgrad.grad(inner, rules=rules)(X), jnp.full_like(X, 100.0))
    np.testing.assert_array_equal(funcgrad.grad(inner)(X), ordinary)
    np.testing.assert_allclose(inner(X), 2.0, rtol=1e-6)


# --- nobody else notices


def test_other_threads_and_code_after_the_block_see_the_function_as_it_is():
    code = plain.__code__
    seen = []

    def fun(x):
        other = threading.Thread(target=lambda: seen.append(jax.grad(lambda x: plain(x).sum())(X)))
        other.start()
        other.join()
        return plain(x).sum()

    rules = funcgrad.DEFAULT.override({plain: hundred_vjp})
    np.testing.assert_array_equal(funcgrad.grad(fun, rules=rules)(X), jnp.full_like(X, 100.0))
    np.testing.assert_allclose(seen[0], jax.grad(lambda x: plain(x).sum())(X))
    assert plain.__code__ is code


def test_the_code_is_restored_when_the_function_raises():
    def fun(x):
        plain(x)
        raise ZeroDivisionError

    code = plain.__code__
    with pytest.raises(ZeroDivisionError):
        funcgrad.grad(fun, rules=funcgrad.DEFAULT.override({plain: hundred_vjp}))(X)
    assert plain.__code__ is code


def test_a_differentiated_value_that_is_closed_over_is_an_error():
    class Scale:
        def __call__(self, x):
            return x * self.by

    scale = Scale()

    def fun(x, by):
        scale.by = by
        return scale(x).sum()

    rules = funcgrad.DEFAULT.override({Scale.__call__: hundred_vjp})
    with pytest.raises(errors.ClosedOverError, match=f"__call__.*{__file__}"):
        funcgrad.grad(fun, (0, 1), rules=rules)(X, X)
    with pytest.raises(Exception, match="closed-over"):  # JAX's own, of a custom_vjp
        funcgrad.grad(jax.jit(fun), (0, 1), rules=rules)(X, X)


def test_functions_of_every_signature_are_caught():
    def make():
        offset = jnp.float32(1.0)

        def many(a, /, b, *rest, c, d=2, **more):
            return offset + a + b + sum(rest) + c + d + sum(more.values())

        return many

    many = make()
    rules = funcgrad.DEFAULT.override({many: hundred_vjp})
    fun = lambda x: many(x, X, X, x, c=1.0, e=X).sum()
    np.testing.assert_array_equal(funcgrad.grad(fun, rules=rules)(X), jnp.full_like(X, 200.0))


# --- what cannot be meant


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ([], errors.NotARuleError, ["a list", "mapping from op to rule"]),
        ({lax.sin_p: 3}, errors.NotARuleError, ["3", "`sin`", "(ct, *operands, out, **params)"]),
        ({"sin": hundred_vjp}, errors.NotAnOpError, ["'sin'", "str"]),
        ({np.sin: hundred_vjp}, errors.NotAnOpError, ["ufunc"]),
    ],
    ids=["a list", "a number", "a string", "of numpy"],
)
def test_wrong_overrides_are_refused(wrong, error, words):
    with pytest.raises(error) as raised:
        funcgrad.DEFAULT.override(wrong)
    assert all(word in str(raised.value) for word in words)


def test_rules_that_are_no_rules_are_refused():
    with pytest.raises(errors.NotARuleError, match=r"DEFAULT\.override"):
        funcgrad.grad(jnp.sin, rules={lax.sin_p: hundred_vjp})


@pytest.mark.parametrize("op", [lax.sin_p, plain, tripled], ids=["primitive", "plain", "op"])
@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (lambda ct: ct, ["has the signature (ct)", "out"]),
        (lambda ct, x, out, extra: ct, ["has the signature", "extra"]),
        (lambda ct, x, **_: ct @ ct @ ct, ["raised TypeError"]),
    ],
    ids=["no operands", "too many", "raises"],
)
def test_a_wrong_rule_is_named_with_its_place_and_the_users_line(op, rule, words):
    fun = lambda x: (jnp.sin(x) if op is lax.sin_p else op(x)).sum()
    with pytest.raises(errors.RuleError) as raised:
        funcgrad.grad(fun, rules=funcgrad.DEFAULT.override({op: rule}))(X)
    message = str(raised.value)
    assert all(word in message for word in [*words, f"`{op_key(op)}`", __file__])
    assert message.count(__file__) >= 2  # the rule's place and the user's


def test_an_array_as_a_param_is_refused():
    with pytest.raises(errors.InputError, match="`k`, which is a keyword argument"):
        funcgrad.grad(lambda x: op_with_params(x, k=x).sum())(X)


def test_a_method_can_be_an_op():
    class Scale:
        def __init__(self, by):
            self.by = by

        @funcgrad.op
        def __call__(self, x):
            return self.by * x

        @__call__.defvjp
        def scale_vjp(ct, x, *, out):  # noqa: N805
            return 100 * ct

    found = funcgrad.grad(lambda x: Scale(3.0)(x).sum())(X)
    np.testing.assert_array_equal(found, jnp.full_like(X, 100.0))


def test_without_overrides_nothing_is_caught():
    from funcgrad.catching import caught

    seen = []
    funcgrad.grad(lambda x: [seen.append(caught()), jnp.sin(x).sum()][1])(X)
    assert seen == [None]
