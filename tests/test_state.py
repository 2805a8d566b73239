"""Nothing stays behind: tracers kept, exceptions, threads, and graphs of great depth."""

from __future__ import annotations

import gc
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from funcgrad import _jax, errors
from tests.compare import assert_same
from tests.counts import calls_made, lines_run

X = np.ones(3, np.float32)

KEPT_USES = {
    "jnp": lambda x: jnp.sin(x),
    "operator": lambda x: x + 1,
    "reflected": lambda x: 2 * x,
    "indexing": lambda x: x[0],
    "reduction": lambda x: x.sum(),
    "grad": lambda x: funcgrad.grad(lambda y: jnp.sum(y * x))(X),
    "grad of it": lambda x: funcgrad.grad(lambda y: jnp.sum(y))(x),
    "jit": lambda x: jax.jit(lambda y: y * 2)(x),
    "closed over by jit": lambda x: jax.jit(lambda y: y * x)(X),
    "jax.grad": lambda x: jax.grad(lambda y: jnp.sum(y * x))(X),
    "vmap": lambda x: jax.vmap(lambda y: y * 2)(x),
    "numpy": lambda x: np.asarray(x),
    "at": lambda x: x.at[0].set(1.0),
}


@pytest.mark.parametrize("under_jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("use", KEPT_USES.values(), ids=KEPT_USES.keys())
def test_tracer_kept(use, under_jit):
    kept = []

    def keeper(x: Any) -> Any:
        kept.append(x * 2)
        return jnp.sum(x)

    if under_jit:

        def inside(x: Any) -> Any:
            funcgrad.grad(keeper)(x)
            return use(kept[0])

        call = lambda: jax.jit(inside)(X)
    else:
        funcgrad.grad(keeper)(X)
        call = lambda: use(kept[0])
    kinds = (jax.errors.UnexpectedTracerError, jax.errors.TracerArrayConversionError)
    with pytest.raises(kinds) as raised:
        call()
    if use is not KEPT_USES["numpy"]:
        assert "keeper at " in str(raised.value)
        assert "test_state.py:" in str(raised.value)
    if isinstance(raised.value, errors.LeakedTracerError):
        assert "ended" in str(raised.value)
        assert "has_aux=True" in str(raised.value)
    check_clean()


# --- nothing stays behind


def check_clean() -> None:
    assert type(_jax.current_trace()).__name__ == "EvalTrace"
    assert type(jnp.sin(1.0)) is type(jnp.asarray(1.0))
    assert float(funcgrad.grad(jnp.sin)(0.0)) == 1.0
    assert float(jax.jit(funcgrad.grad(jax.grad(lambda x: x**3)))(1.0)) == 6.0


class Planned(Exception):
    pass


def fail(*_: Any, **__: Any) -> Any:
    raise Planned


FAILING = {
    "function": lambda: funcgrad.grad(lambda x: fail(jnp.sin(x)))(1.0),
    "jitted": lambda: funcgrad.grad(jax.jit(lambda x: fail(jnp.sin(x))))(1.0),
    "under jit": lambda: jax.jit(funcgrad.grad(lambda x: fail(jnp.sin(x))))(1.0),
    "nested": lambda: funcgrad.grad(funcgrad.grad(lambda x: fail(jnp.sin(x))))(1.0),
    "under vmap": lambda: jax.vmap(funcgrad.grad(lambda x: fail(jnp.sin(x))))(X),
    "rule": lambda: funcgrad.grad(jnp.sin, rules=FAILING_RULES)(1.0),
    "rule in jit": lambda: funcgrad.grad(jax.jit(jnp.sin), rules=FAILING_RULES)(1.0),
    "rule under jit": lambda: jax.jit(funcgrad.grad(jnp.sin, rules=FAILING_RULES))(1.0),
    "rule in second order": lambda: funcgrad.grad(
        funcgrad.grad(jnp.cos), rules=FAILING_RULES
    )(1.0),
    "custom_jvp": lambda: funcgrad.grad(failing_jvp)(1.0),
    "custom_vjp fwd": lambda: funcgrad.grad(failing_fwd)(1.0),
    "custom_vjp bwd": lambda: funcgrad.grad(failing_bwd)(1.0),
    "custom_vjp bwd in jit": lambda: funcgrad.grad(jax.jit(failing_bwd))(1.0),
    "in scan": lambda: lax.scan(lambda c, x: (funcgrad.grad(fail)(x), c), 1.0, X),
}  # fmt: skip
FAILING_RULES = funcgrad.DEFAULT.override({lax.sin_p: fail})


@jax.custom_jvp
def failing_jvp(x):
    return x


failing_jvp.defjvp(fail)


@jax.custom_vjp
def failing_fwd(x):
    return x


failing_fwd.defvjp(fail, lambda r, ct: (ct,))


@jax.custom_vjp
def failing_bwd(x):
    return x


failing_bwd.defvjp(lambda x: (x, None), fail)


@pytest.mark.parametrize("call", FAILING.values(), ids=FAILING.keys())
def test_exception_leaves_nothing_behind(call):
    for _ in range(2):
        with pytest.raises(Planned):
            call()
        check_clean()


# --- size and threads


@pytest.mark.parametrize("number", [2, 8])
def test_threads_with_rules_of_their_own(number):
    """Each has its own function and its own rule for sin; all start at once, several rounds."""
    barrier = threading.Barrier(number)
    found: dict[int, Any] = {}

    def work(i: int) -> None:
        rules = funcgrad.DEFAULT.override({lax.sin_p: lambda ct, x, **_: ct * (i + 1)})
        fun = jax.jit(lambda x: jnp.sum(jnp.sin(x) * i)) if i % 2 else lambda x: jnp.sum(lax.sin(x))
        barrier.wait()
        for _ in range(5):
            found.setdefault(i, []).append(funcgrad.grad(fun, rules=rules)(X))
            found[i].append(jax.jit(funcgrad.grad(fun, rules=rules))(X))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(number):
        assert len(found[i]) == 10
        for ours in found[i]:
            np.testing.assert_allclose(ours, X * (i + 1) * (i if i % 2 else 1))
    check_clean()


def chain(length: int) -> Any:
    def sines(x: Any) -> Any:
        for _ in range(length):
            x = lax.sin(x)
        return x

    return sines


def test_the_work_of_a_gradient_is_in_proportion_to_the_chain():
    """Measured: 147 lines of the package and 176 calls an operation at each length, some 0.1 ms."""
    x = np.float32(0.5)
    funcgrad.grad(chain(1))(x)  # the rule is traced here
    for count, most in ((lines_run, 300), (calls_made, 350)):
        each = [
            count(lambda n=n: funcgrad.grad(chain(n))(x)) / n  # as a count for each operation
            for n in (250, 2000)
        ]
        assert each[1] <= 1.05 * each[0], count.__name__
        assert each[1] <= most, count.__name__


def test_chain_of_100000_operations():
    x = np.float32(0.5)
    ours = float(funcgrad.grad(chain(100_000))(x))
    expected = np.float64(1)
    value = np.float64(x)
    for _ in range(100_000):
        expected, value = expected * np.cos(value), np.sin(value)
    np.testing.assert_allclose(ours, expected, rtol=0.05)


def test_value_used_10000_times():
    def fan(x: Any) -> Any:
        total = lax.mul(x, x)
        for _ in range(10_000):
            total = lax.add(total, x)
        return total

    assert float(funcgrad.grad(fan)(np.float32(0.5))) == 10_001.0


CALLS_OF_RELU = {
    "checkpoint": jax.checkpoint(lambda x: jax.nn.relu(2.0 * x)),
    "scan": lambda x: lax.scan(lambda c, _: (jax.nn.relu(c * x), None), x, None, length=3)[0],
    "cond": lambda x: lax.cond(x > 0, lambda y: jax.nn.relu(y * x), lambda y: y, x),
}


@pytest.mark.parametrize("call", CALLS_OF_RELU.values(), ids=CALLS_OF_RELU.keys())
def test_a_cached_custom_jvp_rule_keeps_no_recorded_value(call):
    """JAX caches the jaxpr, which keeps the trace in which it was made, and what that trace holds."""
    with jax.checking_leaks():
        _, pullback = jax.jit(lambda x: funcgrad.vjp(call, x))(1.5)
    assert_same(pullback(1.0), jax.vjp(call, 1.5)[1](1.0), weak=False)


def test_a_call_on_tangents_leaks_no_tracer():
    """The rule of a custom_jvp meets a call whose program has sorted values on the way."""

    def half_sorted(x):
        ordered = lambda x: jax.lax.sort((x, jax.lax.sin(x)), dimension=0, num_keys=1)[1] - 1
        return jax.lax.cond(jnp.sum(x) > 0.2, ordered, jnp.tanh, x)

    custom = jax.custom_jvp(half_sorted)
    custom.defjvp(lambda primals, tangents: jax.jvp(half_sorted, primals, tangents))
    with jax.checking_leaks():
        ct_x = funcgrad.grad(lambda x: jnp.sum(custom(x) ** 2))(jnp.ones(1))
    expected = jax.grad(lambda x: jnp.sum(half_sorted(x) ** 2))(jnp.ones(1))
    np.testing.assert_allclose(ct_x, expected, rtol=1e-6)


@pytest.mark.parametrize("how", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("grad", [funcgrad.grad, funcgrad.vjp], ids=["grad", "vjp"])
def test_a_value_that_escapes_is_found_under_checking_leaks(grad, how):
    kept = []

    def f(x):
        kept.append(jnp.sin(x))
        return kept[-1] * 2.0

    run = grad(f) if grad is funcgrad.grad else lambda x: grad(f, x)[0]
    with jax.checking_leaks(), pytest.raises(errors.LeakedTracerError, match="was kept after"):
        how(run)(1.0)


def test_dropped_differentiation_leaves_no_residuals():
    """Arrays kept for the backward walk are gone when it is over."""
    big = np.ones((64, 64), np.float32)
    gradient = funcgrad.grad(lambda x: jnp.sum(jnp.sin(x) * jnp.cos(x)))
    gradient(big)
    gc.collect()
    before = len(jax.live_arrays())
    for _ in range(3):
        gradient(big)
    gc.collect()
    assert len(jax.live_arrays()) <= before
