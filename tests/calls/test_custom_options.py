"""Every option of custom_vjp and custom_jvp, and what else makes such functions, against jax.grad."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.custom_derivatives import SymbolicZero

import funcgrad
from tests.compare import assert_same

X = np.random.default_rng(0).standard_normal(3)


@pytest.fixture(autouse=True)
def x64() -> Any:
    with jax.enable_x64(True):
        yield


# Derivatives are wrong by a factor of their own, so that using the function's body shows.


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def last_static(x, y, power):
    return x**power * y


last_static.defvjp(
    lambda x, y, power: (x**power * y, (x, y)),
    lambda power, residuals, ct: (3.0 * power * ct * residuals[1], ct * residuals[0]),
)


@functools.partial(jax.custom_vjp, nondiff_argnames=("power",))
def named_static(x, power):
    return x**power


named_static.defvjp(
    lambda x, power: (x**power, x), lambda power, x, ct: (5.0 * power * ct * x ** (power - 1),)
)


@functools.partial(jax.custom_jvp, nondiff_argnames=("power",))
def named_static_jvp(x, power):
    return x**power


@named_static_jvp.defjvp
def named_static_jvp_rule(power, primals, tangents):
    (x,), (t,) = primals, tangents
    return named_static_jvp(x, power), 5.0 * power * t * x ** (power - 1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def composed(f, g, x):
    return f(g(x))


composed.defvjp(lambda f, g, x: (f(g(x)), x), lambda f, g, x, ct: (3.0 * ct * f(x) + g(x),))


@jax.custom_jvp
def product_of_three(x, y, n):
    return x * y * n


product_of_three.defjvps(lambda t, out, x, y, n: 3.0 * t * y * n, None, None)


@jax.custom_jvp
def several_outputs(tree):
    return (
        tree["x"] * 2,
        jnp.argmax(tree["x"]),
        tree["x"] > 0,
        {"none": None, "y": tree["y"] ** 2},
    )


@several_outputs.defjvp
def several_outputs_jvp(primals, tangents):
    (tree,), (t,) = primals, tangents
    out = several_outputs(tree)
    no_tangent = lambda x: np.zeros(x.shape, jax.dtypes.float0)
    rest = {"none": None, "y": 7.0 * t["y"] * tree["x"]}
    return out, (5.0 * t["x"], no_tangent(out[1]), no_tangent(out[2]), rest)


@jax.custom_vjp
def integers_in_and_out(x, n, flag):
    return jnp.where(flag, x * n, x), n + 1, jnp.logical_not(flag)


integers_in_and_out.defvjp(
    lambda x, n, flag: (integers_in_and_out(x, n, flag), (x, n)),
    lambda residuals, ct: (3.0 * ct[0] * residuals[1], None, None),
)


@jax.custom_vjp
def none_for_all(x, y):
    return x * y


none_for_all.defvjp(lambda x, y: (x * y, None), lambda _, ct: (None, 2.0 * ct))


@jax.custom_vjp
def none_for_a_tree(tree, y):
    return tree["a"] * tree["b"] * y


none_for_a_tree.defvjp(
    lambda tree, y: (none_for_a_tree(tree, y), tree["a"]), lambda a, ct: (None, 2.0 * ct * a)
)


@jax.custom_vjp
def without_outputs(x):
    return ()


without_outputs.defvjp(lambda x: ((), x), lambda x, ct: (jnp.ones_like(x),))


@jax.custom_vjp
def within(x):
    return inner(x) * x


@jax.custom_vjp
def inner(x):
    return jnp.sin(x)


inner.defvjp(lambda x: (inner(x), x), lambda x, ct: (3.0 * ct * jnp.cos(x),))
within.defvjp(
    lambda x: (within(x), (inner(x), x)), lambda residuals, ct: (ct * inner(residuals[1]) * 2.0,)
)


@jax.custom_vjp
def symbolic(x, y):
    return {"first": x * y, "second": (jnp.sin(x), y)}


def symbolic_fwd(x, y):
    out = symbolic(x.value, y.value)
    return out, (x.value, y.value, 2.0 if x.perturbed else 0.0, 3.0 if y.perturbed else 0.0)


def symbolic_bwd(residuals, ct):
    x, y, of_x, of_y = residuals
    first = 0.0 if isinstance(ct["first"], SymbolicZero) else ct["first"]
    last = -1.0 if isinstance(ct["second"][1], SymbolicZero) else ct["second"][1]
    return of_x * (first * y) + 0 * x, of_y * (last + 0 * y)


symbolic.defvjp(symbolic_fwd, symbolic_bwd, symbolic_zeros=True)


@jax.custom_jvp
def symbolic_jvp(x, n):
    return x * n, jnp.sin(x)


@functools.partial(symbolic_jvp.defjvp, symbolic_zeros=True)
def symbolic_jvp_rule(primals, tangents):
    (x, n), (t, tn) = primals, tangents
    assert isinstance(tn, SymbolicZero)
    zero = SymbolicZero(jax.typeof(x))
    return symbolic_jvp(x, n), (zero if isinstance(t, SymbolicZero) else 3.0 * t * n, zero)


@jax.custom_gradient
def by_custom_gradient(x, y):
    scale = jnp.exp(x)
    return jnp.sin(x) * y, lambda ct: (3.0 * ct * scale * y, ct * scale)


@jax.custom_gradient
def tree_by_custom_gradient(tree):
    return {"y": tree["x"] ** 2}, lambda ct: ({"x": 3.0 * ct["y"] * tree["x"]},)


def closed_over_a_differentiated_value(x):
    """closure_convert makes what a function closes over an argument."""
    fun, consts = jax.closure_convert(lambda y: jnp.sin(y) * x, x)

    @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
    def apply(fun, y, *consts):
        return fun(y, *consts)

    apply.defvjp(
        lambda fun, y, *consts: (fun(y, *consts), (y, consts)),
        lambda fun, residuals, ct: (3.0 * ct * residuals[0], *[5.0 * ct for _ in residuals[1]]),
    )
    return apply(fun, x, *consts)


@jax.custom_vjp
def with_keywords(x, *, scale=2.0):
    return x * scale


with_keywords.defvjp(
    lambda x, *, scale=2.0: (x * scale, scale), lambda scale, ct: (3.0 * ct * scale,)
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def with_default(x, scale=2.0):
    return x * scale


with_default.defvjp(
    lambda x, scale=2.0: (x * scale, None), lambda scale, _, ct: (3.0 * ct * scale,)
)

FUNCTIONS = {
    "nondiff_argnums": lambda x: last_static(x, jnp.cos(x), 3),
    "nondiff_argnames": lambda x: named_static(x, 3) * named_static(x, power=2),
    "nondiff_argnames, custom_jvp": lambda x: named_static_jvp(x, 3) * named_static_jvp(x, power=2),
    "nondiff functions": lambda x: composed(jnp.sin, lambda y: inner(y) * 2, x),
    "nondiff function that is custom": lambda x: composed(inner, by_default_of(jnp.cos), x),
    "defjvps with None": lambda x: product_of_three(x, jnp.sin(x), 2) * x,
    "several outputs": lambda x: (
        several_outputs({"x": x, "y": x})[0] + several_outputs({"x": x, "y": x * 2})[3]["y"]
    ),
    "integer outputs": lambda x: (
        integers_in_and_out(x, 2, True)[0] * integers_in_and_out(x, jnp.arange(3), x > 0)[1]
    ),
    "None": lambda x: none_for_all(x, jnp.sin(x)),
    "None for a tree": lambda x: none_for_a_tree({"a": x, "b": x}, x**2),
    "no outputs": lambda x: (without_outputs(x), jnp.sin(x))[1],
    "custom_vjp in custom_vjp": within,
    "symbolic zeros, one": lambda x: symbolic(x, X)["first"] + symbolic(X, x)["second"][1],
    "symbolic zeros, both": lambda x: symbolic(x, jnp.sin(x))["first"],
    "symbolic zeros, unused": lambda x: symbolic(x, x)["second"][0] + x,
    "symbolic zeros, custom_jvp": lambda x: symbolic_jvp(x, 2)[0] * symbolic_jvp(x, 3)[1],
    "custom_gradient": lambda x: by_custom_gradient(x, jnp.cos(x)),
    "custom_gradient of trees": lambda x: tree_by_custom_gradient({"x": x})["y"] * x,
    "closure_convert": closed_over_a_differentiated_value,
    "default argument": lambda x: with_default(x) * with_default(x, 3.0),
}


def by_default_of(fun: Any) -> Any:
    return lambda x: with_default(fun(x))


def summed(fun: Any) -> Any:
    return lambda x: jnp.sum(jnp.sin(fun(x)))


def second(grad: Any, loss: Any) -> Any:
    return grad(lambda x: jnp.sum(jnp.sin(grad(loss)(x))))


PLACES = {
    "alone": summed,
    "jit": lambda fun: jax.jit(summed(fun)),
    "scan": lambda fun: lambda x: jnp.sum(jax.lax.scan(lambda c, _: (fun(c), None), x, None, 2)[0]),
    "unrolled": lambda fun: lambda x: jnp.sum(fun(fun(x))),
    "cond": lambda fun: lambda x: jnp.sum(jax.lax.cond(x[0] > 0, fun, jnp.sin, x)),
    "checkpoint": lambda fun: jax.checkpoint(summed(fun)),
    "vmap": lambda fun: lambda x: jnp.sum(jax.vmap(summed(fun))(jnp.stack([x, -x]))),
}


@pytest.mark.parametrize("place", [p for p in PLACES if p != "unrolled"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_equals_jax(name, place):
    """For a scan, JAX 0.10 has another second derivative than for the same steps unrolled.

    So we compare with those, unless the derivative depends on which cotangents are zeros.
    """
    fun = FUNCTIONS[name]
    x, loss = jnp.asarray(X), PLACES[place](fun)
    unrolled = place == "scan" and name not in ("symbolic zeros, both", "symbolic zeros, unused")
    reference = PLACES["unrolled"](fun) if unrolled else loss
    batch = jnp.stack([x, 2 * x])

    def answers(grad: Any, loss: Any) -> Any:
        return grad(loss)(x), second(grad, loss)(x), jax.vmap(grad(loss))(batch)

    expected = jax.jit(lambda: answers(jax.grad, reference))()
    assert_same(funcgrad.grad(loss)(x), expected[0], rtol=1e-11, weak=False)
    assert_same(jax.jit(lambda: answers(funcgrad.grad, loss))(), expected, rtol=1e-11, weak=False)


def test_closing_over_a_differentiated_value_is_refused_as_jax_refuses_it():
    """JAX says so of a custom_vjp; the value's cotangent would be lost."""

    def loss(x: Any) -> Any:
        @jax.custom_vjp
        def scaled(y: Any) -> Any:
            return y * x

        scaled.defvjp(lambda y: (y * x, y), lambda y, ct: (ct * x,))
        return jnp.sum(scaled(jnp.sin(x)))

    for grad in (jax.grad, funcgrad.grad):
        with pytest.raises((funcgrad.FuncgradError, jax.errors.UnexpectedTracerError)):
            grad(loss)(jnp.asarray(X))


@pytest.mark.parametrize(
    ("bwd", "words"),
    [
        (lambda r, ct: (ct, ct), "tuple"),
        (lambda r, ct: ct, "tuple"),
        (lambda r, ct: (ct[:2],), "shape"),
        (lambda r, ct: ([ct],), "tree"),
    ],
    ids=["too many", "no tuple", "shape", "structure"],
)
def test_wrong_backward_functions_are_refused_as_jax_refuses_them(bwd, words):
    @jax.custom_vjp
    def fun(x: Any) -> Any:
        return x * 2

    fun.defvjp(lambda x: (x * 2, None), bwd)
    for grad in (jax.grad, funcgrad.grad):
        with pytest.raises((TypeError, ValueError), match=words):
            grad(lambda x: jnp.sum(fun(x)))(jnp.asarray(X))


def test_options_that_need_defvjp():
    fun = jax.custom_vjp(jnp.sin)
    for grad in (jax.grad, funcgrad.grad):
        with pytest.raises(AttributeError, match="defvjp"):
            grad(fun)(1.0)


@jax.custom_vjp
def backward_only(x):
    return jnp.sin(x)


backward_only.defvjp(lambda x: (jnp.sin(x), x), lambda x, ct: (ct * jnp.cos(x),))


def repeated(x):
    return jax.lax.scan(lambda c, _: (backward_only(c) * x, None), x, None, length=3)[0]


@pytest.mark.parametrize("inner", [backward_only, repeated], ids=["plain", "in scan"])
def test_custom_vjp_under_jvp_in_a_custom_jvp_rule(inner):
    outer = jax.custom_jvp(inner)
    outer.defjvp(lambda primals, tangents: jax.jvp(inner, primals, tangents))
    with jax.enable_x64(True):
        for gradient in (funcgrad.grad(outer), jax.jit(funcgrad.grad(outer))):
            np.testing.assert_allclose(gradient(0.7), jax.grad(outer)(0.7), rtol=1e-12)


RETURNED = {
    "Python numbers": lambda r, ct: (2.0, 3.0),
    "a list": lambda r, ct: [2.0, 3.0],
    "numpy scalars": lambda r, ct: (np.float64(2), np.float64(3)),
    "numpy arrays": lambda r, ct: (np.full((), 2.0), np.full((), 3.0)),
    "None": lambda r, ct: (None, 3.0),
    "None alone": lambda r, ct: (None, None),
    "zeros": lambda r, ct: (SymbolicZero(jax.typeof(r[0])), 3.0),
    "float0": lambda r, ct: (3.0, np.zeros((), jax.dtypes.float0)),
    "half precision": lambda r, ct: (np.float16(2), np.float16(3)),
    "single precision": lambda r, ct: (np.float32(2), np.float32(3)),
    "complex": lambda r, ct: (2j, 3j),
    "integers": lambda r, ct: (2, 3),
    "no number": lambda r, ct: ("two", 3.0),
    "another shape": lambda r, ct: (np.ones(2), 3.0),
    "zeros of another shape": lambda r, ct: (SymbolicZero(jax.core.ShapedArray((2,), float)), 3.0),
    "one of two": lambda r, ct: (2.0,),
    "three of two": lambda r, ct: (2.0, 3.0, 4.0),
    "another tree": lambda r, ct: ((2.0,), 3.0),
}


def scaled_in_scan(fun):
    return lambda x, y: jax.lax.scan(lambda c, _: (fun(c, y), None), x, None, length=2)[0]


@pytest.mark.parametrize("symbolic_zeros", [False, True])
@pytest.mark.parametrize("returned", RETURNED)
def test_what_a_backward_function_may_return(returned, symbolic_zeros):
    """What jax.grad takes is taken, with its dtype; what it refuses is refused, or has that value."""
    plain = lambda x: x.value if symbolic_zeros else x
    fun = jax.custom_vjp(lambda x, y: x * y)
    fun.defvjp(
        lambda x, y: (plain(x) * plain(y), (plain(x), plain(y))),
        RETURNED[returned],
        symbolic_zeros=symbolic_zeros,
    )
    for place in (
        lambda x, y: fun(x, y) * 1.0,
        lambda x, y: fun(jnp.sin(x), y * 2),
        lambda x, y: fun(x, y) * x,
        lambda x, y: jnp.sum(fun(jnp.stack([x, x])[0], y)),
        lambda x, y: jnp.sum(jax.vmap(fun)(jnp.stack([x, x]), jnp.stack([y, y]))),
        jax.jit(lambda x, y: fun(jnp.sin(x), y)),
        jax.checkpoint(lambda x, y: fun(jnp.sin(x), y)),
        scaled_in_scan(fun),
    ):
        args = jnp.float64(0.5), jnp.float64(0.7)
        try:
            expected = jax.grad(place, (0, 1))(*args)
        except Exception:
            with contextlib.suppress(TypeError, ValueError):
                funcgrad.grad(place, (0, 1))(*args)
            continue
        assert_same(funcgrad.grad(place, (0, 1))(*args), expected, rtol=1e-14, weak=False)
