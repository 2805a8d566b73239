"""Metadata for XLA, and where to compute: a backward pass says of operations what its ops said."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental.compute_on import compute_on
from jax.experimental.xla_metadata import set_xla_metadata

import funcgrad
from funcgrad import _jax

METADATA = {"a": "b"}


def equations(jaxpr):
    """All equations of a jaxpr, at any depth."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in _jax.inner_jaxprs(eqn.params):
            yield from equations(inner)


def said_of(name, fun, *args):
    """What is said of a program's operations of this name; of all, if None."""
    eqns = equations(jax.make_jaxpr(fun)(*args).jaxpr)
    return [eqn.ctx.xla_metadata for eqn in eqns if name in (None, str(eqn.primitive))]


def repeated(fun):
    return lambda x: lax.fori_loop(0, 3, lambda _, c: fun(c), x)


def while_below(fun):
    return lambda x: lax.while_loop(lambda c: c < 0.6, lambda c: fun(c) + 0.1, x)


def chosen(fun):
    return lambda x: lax.cond(x > 0, fun, lambda x: x, x)


def with_unused_result(fun):
    both = jax.jit(lambda x: (fun(x), jnp.tanh(x)))
    return lambda x: both(x)[0]


CALLS = {
    "none": lambda fun: fun,
    "jit": jax.jit,
    "jit, a result unused": with_unused_result,
    "checkpoint": jax.checkpoint,
    "scan": repeated,
    "while_loop": while_below,
    "cond": chosen,
    "vmap": lambda fun: lambda x: jax.vmap(fun)(jnp.stack([x, x]))[0],
}


def annotated(call, metadata=METADATA):
    """The sine within the context, and its derivative the cosine; the exponential outside."""

    sine = call(jnp.sin)

    def fun(x):
        with set_xla_metadata(**metadata):
            y = sine(x)
        return jnp.exp(y)

    return fun


@pytest.mark.parametrize("seed", [0.5, np.float32(0.5)], ids=["python", "array"])
@pytest.mark.parametrize(
    "outer", [lambda f: f, jax.jit, jax.checkpoint], ids=["", "jit", "checkpoint"]
)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_the_backward_pass_has_the_metadata_of_its_ops(call, outer, seed):
    gradient = funcgrad.grad(outer(annotated(call)))
    found = said_of("cos", gradient, seed)
    assert found
    assert all(said == METADATA for said in found)
    assert not any(said_of("exp", gradient, seed))


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_no_other_program_has_them(call):
    with_metadata = funcgrad.grad(annotated(call))
    without = funcgrad.grad(annotated(call, {}))
    assert all(said_of("cos", with_metadata, 0.5))
    found = said_of("cos", without, 0.5)
    assert found
    assert not any(found)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_pullback_adds_those_of_where_it_is_called_and_forgets_them(call):
    fun = annotated(call)

    def pulled(metadata):
        def gradient(x):
            _, pullback = funcgrad.vjp(fun, x)
            with set_xla_metadata(**metadata):
                return pullback(1.0)

        return gradient

    both = {**METADATA, "c": "d"}
    assert both in said_of(None, pulled({"c": "d"}), np.float32(0.5))
    outside = said_of(None, pulled({}), np.float32(0.5))
    assert METADATA in outside
    assert all(said is None or said == METADATA for said in outside)


@pytest.mark.skipif(
    "compute_type" in inspect.signature(compute_on).parameters
    and "out_memory_spaces" in inspect.signature(compute_on).parameters,
    reason="from JAX 0.11 compute_on is a call and no context",
)
def test_the_backward_pass_computes_where_its_ops_did():
    def fun(x):
        with compute_on("device_host"):
            y = jax.jit(jnp.sin)(x)
        return jnp.exp(y)

    jaxpr = jax.make_jaxpr(funcgrad.grad(fun))(np.float32(0.5)).jaxpr
    kinds = {str(eqn.primitive): eqn.ctx.compute_type for eqn in equations(jaxpr)}
    assert (kinds["sin"], kinds["cos"], kinds["exp"]) == ("device_host", "device_host", None)


@pytest.mark.parametrize("name", ["scan", "cond", "jit"])
def test_the_backward_call_of_a_call_has_them_too(name):
    call = {"scan": repeated, "cond": chosen, "jit": jax.jit}[name]

    def fun(x):
        with set_xla_metadata(a="b"):
            return call(jnp.sin)(x)

    _, pullback = funcgrad.vjp(fun, np.float32(0.5))
    found = said_of(name, lambda ct: pullback(ct), np.float32(1.0))
    assert found
    assert METADATA in found


def test_lines_of_the_lowered_program():
    text = jax.jit(funcgrad.grad(jax.jit(annotated(lambda fun: fun)))).lower(1.0).as_text()
    lines = [line for line in text.split("\n") if "stablehlo.cosine" in line]
    assert lines
    assert all('{a = "b"}' in line for line in lines)


def test_an_error_restores_what_was_said():
    before = _jax.current_annotations()
    with set_xla_metadata(a="b"):
        annotations = _jax.current_annotations()

    def fail():
        with _jax.annotated_as(annotations):
            assert _jax.current_annotations() == annotations
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert _jax.current_annotations() == before
