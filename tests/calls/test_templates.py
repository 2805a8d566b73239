"""Jitted functions that JAX inlines: recorded by a template as operation by operation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import Primitive

import funcgrad
from funcgrad import errors
from funcgrad.calls import entering
from funcgrad.tape import record

INLINE = jax.Inline.JAX_EARLY if hasattr(jax, "Inline") else True  # an enumeration from JAX 0.12
X = np.linspace(-1.2, 1.3, 12, dtype=np.float32).reshape(3, 4)


@partial(jax.jit, inline=INLINE)
def scoped(x):
    with jax.named_scope("inner"):
        return jnp.sin(x) * 2.0, x, 3.0, jnp.argmax(x)


@partial(jax.jit, inline=INLINE)
def through_jit(x):
    return jax.jit(jnp.tanh)(x) * x


def broadcast(x):
    return x + jnp.arange(4.0) * x[0]


def moments(x):
    return (x - jnp.mean(x, 0)) / jnp.sqrt(jnp.var(x, 0) + 0.1)


def pieces(x):
    return jnp.where(x > 0, x, 0.5 * x)[1:, ::2] ** 3


def in_scopes(x):
    with jax.named_scope("outer"):
        y, same, three, index = scoped(x)
        return y * same * three + index


def clipped(x):
    return jnp.clip(jnp.abs(x), 0.3, 0.9).T.reshape(2, -1)


def sorted_rows(x):
    return jnp.sort(x, 1) * jnp.arange(4.0)


FUNCTIONS = (broadcast, moments, pieces, in_scopes, clipped, sorted_rows, through_jit)


def traced(function):
    """The trace of a recording, and of each node all that does not name values."""
    nodes = []

    def recorded(x):
        outs, _, tape = record(lambda x: [function(x)], [x], [True], funcgrad.DEFAULT, "function")
        nodes[:] = tape.nodes
        return [*outs, *(r for node in tape.nodes for r in node.residuals)]

    jaxpr = jax.make_jaxpr(recorded)(X)
    found = [
        (n.op, n.operands, n.outputs, getattr(n.pullback, "reasons", ()), n.scope, n.where)
        for n in nodes
    ]
    return str(jaxpr), found, [n.params for n in nodes]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_the_tape_is_that_of_the_operations_one_by_one(function, monkeypatch):
    by_template = traced(function)
    monkeypatch.setattr(entering, "record_by_template", lambda *args: None)
    assert by_template == traced(function)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_gradients_are_those_of_jax(function):
    weights = jnp.cos(jnp.arange(jax.eval_shape(function, X).size, dtype=np.float32))

    def loss(x):
        return jnp.vdot(function(x), weights)

    expected = jax.grad(loss)(X)
    np.testing.assert_allclose(jax.jit(funcgrad.grad(loss))(X), expected, rtol=2e-6, atol=1e-6)


def test_no_operation_of_an_inlined_function_is_run(monkeypatch):
    ran = []
    process = funcgrad.tape.TapeTrace.process_primitive

    def counted(self, primitive, *args):
        ran.append(str(primitive))
        return process(self, primitive, *args)

    monkeypatch.setattr(funcgrad.tape.TapeTrace, "process_primitive", counted)
    row, column = jnp.ones(4), jnp.ones(3)
    jax.make_jaxpr(funcgrad.grad(lambda x: ((x + row) * X) @ row @ column))(X)
    assert ran == ["jit"] * 4


def test_an_override_holds_in_an_inlined_function():
    def thrice_vjp(ct, x, y, **_):
        return 3 * ct, 3 * ct

    rules = funcgrad.DEFAULT.override({lax.add_p: thrice_vjp})
    gradient = funcgrad.grad(lambda x: (x + 1.0) * 2, rules=rules)
    plain = funcgrad.grad(lambda x: (x + 1.0) * 2)
    assert [jax.jit(gradient)(1.0), jax.jit(plain)(1.0)] == [6.0, 2.0]
    ours = funcgrad.DEFAULT.override({scoped: lambda ct, x, **_: 5.0 * ct[0]})
    assert jax.jit(funcgrad.grad(lambda x: scoped(x)[0], rules=ours))(1.0) == 5.0


def test_an_observer_is_told_of_each_operation():
    class Seen:
        def __init__(self):
            self.ops = []

        def recorded(self, node, outs):
            self.ops.append(str(node.op))

        def pulled(self, node, cts, results):
            return results

    seen = Seen()
    rules = funcgrad.DEFAULT.observed_by(seen)
    jax.make_jaxpr(lambda x: funcgrad.grad(lambda x: scoped(x)[0], rules=rules)(x))(1.0)
    assert seen.ops == ["sin", "mul", "reshape"]  # the last is of argmax


def test_an_operation_without_a_rule_is_named_with_its_line():
    unknown_p = Primitive("unknown")
    unknown_p.def_abstract_eval(lambda x: x)

    @partial(jax.jit, inline=INLINE)
    def unknown(x):
        return unknown_p.bind(x)

    with pytest.raises(errors.MissingRuleError, match=r"unknown.*test_templates.py:\d+"):
        jax.make_jaxpr(funcgrad.grad(lambda x: unknown(x)))(1.0)


def test_types_that_the_function_was_not_traced_for_are_run():
    (call,) = jax.make_jaxpr(jax.jit(lambda x: x * 2.0))(np.float32(1)).eqns
    params = {**call.params, "inline": INLINE}

    def loss(x):
        (y,) = call.primitive.bind(x, **params)
        return y.sum()

    wide = jax.jit(funcgrad.grad(loss))(X)
    np.testing.assert_array_equal(wide, np.full_like(X, 2.0))


def test_references_are_seen_by_what_reads_them():
    def loss(x):
        ref = jax.new_ref(x)
        ref[...] = jnp.sin(ref[...]) * x
        return jnp.sum(ref[...] + 1.0)

    expected = jax.grad(lambda x: jnp.sum(jnp.sin(x) * x))(X)
    np.testing.assert_allclose(jax.jit(funcgrad.grad(loss))(X), expected, rtol=1e-6)
