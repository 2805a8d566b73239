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
