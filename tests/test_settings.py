"""JAX's settings around a whole gradient, and cotangents of integers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad

X = np.array([0.3, 0.7, 1.1], np.float32)


def dropped(c: Any, key: Any) -> Any:
    return jnp.where(jax.random.bernoulli(key, 0.5, (3,)), jnp.sin(c), c), None


def dropout(step: Any) -> Any:
    return lambda x: lax.scan(step, x, jax.random.split(jax.random.key(0), 3))[0].sum()


def in_double(fun: Any) -> Any:
    """A part of a program in 64 bits, in a program of 32."""

    def run(x: Any) -> Any:
        with jax.enable_x64(True):
            return jnp.sum(fun(x.astype(np.float64))).astype(np.float32)

    return run


def loop(x: Any) -> Any:
    return lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.sin(c[1])), (0, x))[1]


CASES = {
    "softmax": (jax.debug_infs, lambda x: jax.nn.softmax(x)[0]),
    "logsumexp": (jax.debug_infs, jax.nn.logsumexp),
    "dropout": (jax.debug_key_reuse, dropout(dropped)),
    "double": (jax.debug_nans, in_double(lambda x: jnp.sin(x) * x)),
    "double, jit": (jax.debug_nans, in_double(jax.jit(lambda x: jnp.sort(jnp.cumsum(x))[:2]))),
    "double, checkpoint": (
        jax.debug_nans,
        in_double(jax.checkpoint(lambda x: jnp.sin(jnp.sin(x)))),
    ),
    "double, loop": (jax.debug_nans, in_double(loop)),
}


@pytest.mark.parametrize("name", CASES)
def test_gradient(name):
    setting, fun = CASES[name]
    with jax.enable_x64("double" in name):  # all of the program, where JAX warns of a part
        unrolled = lambda x: jnp.sum(jnp.sin(jnp.sin(jnp.sin(x))))
        expected = jax.grad(unrolled if "loop" in name else fun)(X)
    with setting(True):
        np.testing.assert_allclose(funcgrad.grad(fun)(X), expected, rtol=1e-5)


def test_an_infinity_in_an_output_is_found():
    with jax.debug_infs(True), pytest.raises(FloatingPointError):
        funcgrad.grad(jax.jit(lambda x: jnp.log(x[0] * 0)))(X)


def ordered(x: Any) -> Any:
    return x * 2, jnp.argsort(x), x > 0


NO_DERIVATIVE = {
    "float0": np.zeros(3, jax.dtypes.float0),
    "int": np.ones(3, np.int32),
    "bool": np.ones(3, bool),
    "float": np.ones(3, np.float32),
    "another shape": np.ones(4, np.int32),
    "a number": 1,
}


@pytest.mark.parametrize("kind", NO_DERIVATIVE)
@pytest.mark.parametrize("place", [1, 2])
def test_cotangents_of_integers_may_have_any_dtype(kind, place):
    cts = [jnp.asarray(X), NO_DERIVATIVE["float0"], NO_DERIVATIVE["float0"]]
    cts[place] = NO_DERIVATIVE[kind]
    pullbacks = [vjp(ordered, X)[1] for vjp in (jax.vjp, funcgrad.vjp)]
    if kind in ("another shape", "a number"):
        for pullback in pullbacks:
            with pytest.raises(ValueError, match="type"):
                pullback(tuple(cts))
    else:
        theirs, ours = (pullback(tuple(cts)) for pullback in pullbacks)
        np.testing.assert_array_equal(ours[0], theirs[0])
