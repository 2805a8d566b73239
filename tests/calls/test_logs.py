"""``pullback.with_logs``: what backward functions log comes out of every call that it is logged in."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from funcgrad import errors
from tests import compare
from tests.calls.hijax_examples import Primitive, Unary
from tests.calls.test_hijax import on_mesh

ad: Any = jax.ad  # pyright: ignore[reportPrivateImportUsage]


class Logging(Unary):
    """The sine, whose backward function logs its residual and its cotangent under a key."""

    def __init__(self, aval: Any, key: str = "sine"):
        self.key = key
        super().__init__(aval)
        self.params = {"key": key}

    def vjp_fwd(self, nonzero: Any, x: Any) -> Any:
        return self(x), x

    def vjp_bwd(self, x: Any, ct: Any, ct_x: Any) -> Any:
        ct_x.accum(ct * jnp.cos(x))
        return {self.key: {"x": x, "ct": ct}}

    vjp_bwd_retval = Primitive.vjp_bwd_retval


def sine(x: Any, key: str = "sine") -> Any:
    return Logging(jax.typeof(x), key)(x)


def logs_of(f: Any, *args: Any) -> Any:
    """What is logged, once the cotangents are as those without logs."""
    out, pullback = funcgrad.vjp(f, *args)
    cts, logs = pullback.with_logs(jnp.ones_like(out))
    compare.assert_same(cts, pullback(jnp.ones_like(out)), rtol=1e-6, weak=False)
    return logs


def assert_close(found: Any, expected: Any) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)


CALLS = {
    "plain": lambda f: f,
    "jit": jax.jit,
    "jit in jit": lambda f: jax.jit(lambda x: jax.jit(f)(x)),
    "checkpoint": jax.checkpoint,
    "checkpoint of jit": lambda f: jax.checkpoint(jax.jit(f)),
    "named_call": lambda f: jax.named_call(f, name="there"),
}


@pytest.mark.parametrize("call", CALLS)
def test_log_is_as_the_function_returned_it(call):
    f = CALLS[call](lambda x: 3 * sine(2 * x))
    assert_close(logs_of(f, 0.4), {"sine": {"x": 0.8, "ct": 3.0}})


def test_with_logs_in_jit():
    f = jax.checkpoint(lambda x: 3 * sine(2 * x))
    run = jax.jit(lambda x, ct: funcgrad.vjp(f, x)[1].with_logs(ct))
    (ct_x,), logs = run(0.4, 5.0)
    np.testing.assert_allclose(ct_x, 30 * np.cos(0.8), rtol=1e-6)
    assert_close(logs, {"sine": {"x": 0.8, "ct": 15.0}})


def test_logs_of_a_scan_have_an_axis_for_the_steps():
    scale = jnp.array([1.0, 2.0, 4.0])
    f = lambda x: lax.scan(lambda c, s: (c, s * sine(s * x)), 0.0, scale)[1].sum()
    assert_close(logs_of(f, 0.4), {"sine": {"x": 0.4 * scale, "ct": scale}})


def test_logs_of_a_vmapped_function_have_an_axis_in_front():
    f = lambda x: (jax.vmap(jax.jit(sine))(x) * jnp.array([2.0, 3.0])).sum()
    x = jnp.array([0.4, 0.5])
    assert_close(logs_of(f, x), {"sine": {"x": x, "ct": jnp.array([2.0, 3.0])}})


@pytest.mark.parametrize("x", [0.4, -0.4])
def test_logs_of_a_cond_say_which_branch_ran(x):
    f = lambda x: lax.cond(x > 0, lambda x: 2 * sine(x, "a"), lambda x: sine(sine(x, "a"), "b"), x)
    logs = logs_of(f, x)
    assert set(logs) == {"a", "b"}
    assert int(logs["a"].index) == int(logs["b"].index) == int(x > 0)
    zeros = {"x": 0.0, "ct": 0.0}
    if x > 0:
        assert_close(logs["a"].branches, [zeros, {"x": x, "ct": 2.0}])
        assert_close(logs["b"].branches, [zeros, None])
    else:
        inner = {"x": np.sin(x), "ct": 1.0}
        assert_close(logs["a"].branches, [{"x": x, "ct": np.cos(np.sin(x))}, zeros])
        assert_close(logs["b"].branches, [inner, None])


def test_logs_of_a_shard_map_are_stacked():
    x = jnp.array([0.4, 0.5])
    assert_close(logs_of(on_mesh(sine), x), {"sine": {"x": x, "ct": jnp.ones(2)}})
    f = on_mesh(lambda x: x * sine(x.sum()))
    expected = {"sine": {"x": jnp.array([0.9]), "ct": jnp.array([0.9])}}
    assert_close(logs_of(f, x), expected)


def test_logs_with_references():
    total = jax.new_ref(jnp.float32(1.0))
    _, pullback = funcgrad.vjp(lambda x, y: sine(x) * y, jnp.float32(0.4), jnp.float32(3.0))
    results, logs = pullback.with_logs.with_refs(total, ad.DontWant())(jnp.float32(2.0))
    assert isinstance(results[0], ad.GradRef)
    assert isinstance(results[1], ad.DidntWant)
    np.testing.assert_allclose(total[...], 1 + 6 * np.cos(0.4), rtol=1e-6)
    assert_close(logs, {"sine": {"x": 0.4, "ct": 6.0}})


def test_logs_survive_as_a_pytree():
    leaves, tree = jax.tree.flatten(funcgrad.vjp(sine, 0.4)[1].with_logs)
    _, logs = jax.tree.unflatten(tree, leaves)(1.0)
    assert_close(logs, {"sine": {"x": 0.4, "ct": 1.0}})


def test_without_logs_there_is_an_empty_dict():
    (ct_x,), logs = funcgrad.vjp(jnp.sin, 0.4)[1].with_logs(1.0)
    np.testing.assert_allclose(ct_x, np.cos(0.4), rtol=1e-6)
    assert logs == {}


def test_gradients_inside_the_function_log_nothing():
    f = lambda x: funcgrad.grad(jax.jit(lambda x: sine(x, "inside")))(x) * sine(x, "outside")
    assert set(logs_of(f, 0.4)) == {"outside"}
    assert set(logs_of(jax.jit(f), 0.4)) == {"outside"}


def test_two_logs_under_one_key_are_an_error():
    with pytest.raises(errors.LogError, match="'sine'"):
        logs_of(lambda x: sine(sine(x)), 0.4)


def test_log_in_a_while_loop_is_an_error():
    f = lambda x: lax.while_loop(lambda c: c < 0.3, lambda c: 2 * sine(c), x)
    with pytest.raises(errors.LogError, match="while loop"):
        logs_of(f, 0.1)


@pytest.mark.skipif(
    not hasattr(jax.custom_vjp, "defvjp_with_logs"), reason="custom_vjp logs from JAX 0.12"
)
def test_logs_of_custom_vjp_are_those_of_jax():
    @jax.custom_vjp
    def f(x):
        return jnp.sin(x)

    logging: Any = f
    logging.defvjp_with_logs(
        lambda x: (f(x), x), lambda x, ct: ((ct * jnp.cos(x),), {"x": x, "ct": ct})
    )
    for g in (jax.jit(f), jax.checkpoint(f), lambda x: lax.cond(x > 0, f, jnp.cos, x)):
        expected = jax.vjp(g, 0.4)[1].with_logs(2.0)
        assert_close(funcgrad.vjp(g, 0.4)[1].with_logs(2.0), expected)
