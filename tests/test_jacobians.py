"""jacrev, hessian and hvp against JAX's: structure, shapes, dtypes and values."""

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
from tests.test_transforms import (
    COMPLEX,
    FLOAT0,
    NUMPY,
    Layer,
    Pair,
    X,
    Y,
    arange,
    case,
    half_sum,
    layer,
    mlp,
    product,
)


@pytest.fixture(params=[False, True], ids=["x32", "x64"])
def x64(request: pytest.FixtureRequest) -> Any:
    with jax.enable_x64(request.param):
        yield request.param


def swap(tree: Any) -> Any:
    return {"s": tree["x"] * tree["y"], "p": Pair(tree["y"] ** 3, ())}


def squares(tree: Any) -> Any:
    return [tree["x"] ** 2, tree["h"] ** 2]


JACOBIANS = [
    case("vector", lambda x: jnp.outer(x, x), X),
    case("argnums", product, X, Y, argnums=(0, 1)),
    case("argnums=(1,)", lambda x, y: x * y, X, Y, argnums=(1,)),
    case("scalar", jnp.sin, 0.3),
    case("matrix", lambda w: jnp.sin(w @ w.T), arange(2, 3)),
    case("trees", swap, lambda: {"x": X(), "y": 2.0}),
    case("dataclass", lambda p: Layer(p.b * p.w, p.b), layer),
    case("None leaves", lambda t: [t["x"] ** 2, None], lambda: {"x": X(), "n": None}),
    case("aux", lambda x: (x**2, {"x": x}), X, has_aux=True),
    case("keywords", lambda x, *, n: x**n, X, kwargs={"n": 3}),
    case("independent", lambda x: jnp.ones(2), X),
    case("size 0", lambda x: x**2, lambda: jnp.zeros((0,))),
    case("bfloat16", lambda x: x * x, half_sum(jnp.bfloat16)),
    case("holomorphic", lambda z: z**3 * 1j, COMPLEX, holomorphic=True),
    case("mixed dtypes", squares, lambda: {"x": X(), "h": half_sum(jnp.float16)()}),
    case("complex input", lambda z: jnp.abs(z) ** 2, COMPLEX),
    case("numpy", lambda x: jnp.sin(x), NUMPY),
]  # fmt: skip


@pytest.mark.parametrize("transform", ["jacrev", "hessian"])
@pytest.mark.parametrize("case", JACOBIANS, ids=lambda c: c.name)
def test_jacobians(case, transform, x64):
    reference = getattr(jax, transform)
    if transform == "hessian" and case.name in ("complex input", "mixed dtypes"):
        pytest.skip(
            f"no jax.hessian to compare with: of {case.name} it is an error, or has the dtypes of the "
            "forward derivative"
        )
    ours, theirs = case.run(getattr(funcgrad, transform)), case.run(reference)
    assert_same(ours, theirs, rtol=1e-12 if x64 else 1e-5, weak=transform == "jacrev")
    ours = case.run(getattr(funcgrad, transform), jit=True)
    assert_same(ours, theirs, rtol=1e-12 if x64 else 1e-5, weak=transform == "jacrev")


def test_jacrev_allow_int():
    dx, dn = funcgrad.jacrev(lambda x, n: x * n, (0, 1), allow_int=True)(X(), 2)
    assert_same((dx, dn), (2 * jnp.eye(3), np.zeros(3, FLOAT0)))


@pytest.fixture
def params() -> Any:
    return {"w": arange(3, 2)(), "v": arange(2)()}


def test_hvp_is_the_hessian_times_a_vector(params, x64):
    x = arange(4, 3)()

    def loss(params: Any, x: Any) -> Any:
        return jnp.sum(mlp(params, x) ** 2)

    tangents = jax.tree.map(jnp.cos, (params, x))
    expected = jax.jvp(jax.grad(loss, (0, 1)), (params, x), tangents)[1]
    for run in (funcgrad.hvp, jax.jit(functools.partial(funcgrad.hvp, loss))):
        ours = (
            run(loss, (params, x), tangents) if run is funcgrad.hvp else run((params, x), tangents)
        )
        assert_same(ours, expected, rtol=1e-12 if x64 else 1e-5, weak=False)
    double = funcgrad.DEFAULT.override(
        {lax.tanh_p: lambda ct, x, *, out, **_: 2 * ct * (1 - out**2)}
    )
    ours = funcgrad.hvp(loss, (params, x), tangents, rules=double)
    assert not np.allclose(ours[1], expected[1])


def test_hvp_says_what_does_not_fit():
    x = jnp.arange(3.0)
    loss = lambda x: jnp.sum(x**3)
    with pytest.raises(funcgrad.errors.InputError, match=r"primals of funcgrad\.hvp are a tuple"):
        funcgrad.hvp(loss, x, x)
    with pytest.raises(funcgrad.errors.InputError, match=r"tangents of funcgrad\.hvp are a tuple"):
        funcgrad.hvp(loss, (x,), x)
    with pytest.raises(funcgrad.errors.CotangentError, match="1 primals and 2 tangents"):
        funcgrad.hvp(loss, (x,), (x, x))


# --- a gradient differentiated again


@funcgrad.op
def square(x: Any) -> Any:
    return x * x


@square.defvjp
def twice_the_derivative(ct: Any, x: Any, *, out: Any) -> Any:
    return ct * 4 * x


@jax.custom_vjp
def square_again(x: Any) -> Any:
    return x * x


square_again.defvjp(lambda x: (square_again(x), x), lambda x, ct: (ct * 4 * x,))


def in_a_loop(function: Any) -> Any:
    return lambda x: lax.fori_loop(0, 1, lambda i, x: function(x), x)


AGAIN = {
    "custom_vjp": square_again,
    "jitted": jax.jit(square_again),
    "in a loop": in_a_loop(square_again),
    "in a checkpoint": jax.checkpoint(square_again),
}
ONCE = {"op": square, "op in a loop": in_a_loop(square)}
FUNCTIONS = {name: (f, 40) for name, f in AGAIN.items()} | {
    name: (f, 24) for name, f in ONCE.items()
}


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize(("function", "factor"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_backward_function_is_used_in_both_derivatives(function, factor, jit):
    """z = y^2, y = square(x), and dy/dx is 4x by the rule: dz/dx = 2y 4x, d2z/dx2 = 8y + 8x dy/dx.

    That dy/dx is 4x if the forward function calls the function again, and else that of its operations,
    as under ``jax.jacrev(jax.grad(f))``.
    """
    x, v = jnp.array([1.5, -2.0]), jnp.array([1.0, 3.0])
    loss = lambda x: jnp.sum(function(x) ** 2)
    of = jax.jit if jit else lambda f: f
    expected = factor * x**2
    np.testing.assert_allclose(of(funcgrad.hessian(loss))(x), jnp.diag(expected), rtol=1e-6)
    found = of(lambda x, v: funcgrad.hvp(loss, (x,), (v,))[0])(x, v)
    np.testing.assert_allclose(found, expected * v, rtol=1e-6)


def test_the_row_of_one_output_has_no_axis_for_rows():
    jaxpr = jax.make_jaxpr(funcgrad.jacrev(lambda x: jnp.sum(jnp.sin(x))))(X())
    cosines = [eqn for eqn in jaxpr.eqns if eqn.primitive in (lax.cos_p, lax.mul_p)]
    assert [eqn.outvars[0].aval.shape for eqn in cosines] == [(3,), (3,)]
