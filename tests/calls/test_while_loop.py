"""while_loop, and fori_loop with bounds known at run time only."""

from __future__ import annotations

from math import comb

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from funcgrad.calls.snapshots import Snapshots
from funcgrad.calls.while_loop import WhileProgram
from funcgrad.extend import tape_of, walk_nodes
from tests.compare import assert_same
from tests.programs import normal

W = normal(3, 3) * 0.5
X = normal(3, seed=1)


def rnn(w, x, n):
    """A loop of n steps with carries that are differentiated, that are not, and that add up."""

    def step(i, carry):
        h, total, count = carry
        h = jnp.tanh(w @ h + x * jnp.sin(1.0 * i))
        return h, total + jnp.sum(h**2), count + 1

    h, total, count = lax.fori_loop(0, n, step, (x, 0.0, 0))
    return jnp.sum(h) * count + total


def bounded_rnn(w, x, n):
    """The same as a scan, for jax.grad."""

    def step(carry, i):
        h, total = carry
        h = jnp.tanh(w @ h + x * jnp.sin(i))
        return (h, total + jnp.sum(h**2)), None

    (h, total), _ = lax.scan(step, (x, jnp.zeros_like(x[0])), jnp.arange(n) * 1.0)
    return jnp.sum(h) * n + total


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def on_dynamic_bounds(*, checkpoints):
    """The gradient of `rnn` whose number of steps is an argument of the jitted function."""

    def gradient(w, x, n):
        with funcgrad.loops(checkpoints=checkpoints):
            return funcgrad.grad(rnn, (0, 1))(w, x, n)

    return jax.jit(gradient)


@pytest.mark.parametrize("checkpoints", [2, 3, 32])
def test_equals_a_bounded_scan_for_any_number_of_trips(checkpoints):
    gradient = on_dynamic_bounds(checkpoints=checkpoints)
    for n in (0, 1, 2, 3, 7, 32, 33, 100):
        assert_same(gradient(W, X, n), jax.grad(bounded_rnn, (0, 1))(W, X, n), rtol=1e-12)


def test_outside_jit_and_with_jitted_function():
    expected = jax.grad(bounded_rnn, (0, 1))(W, X, 9)
    n = jnp.int32(9)
    loop = lambda w, x: jax.jit(rnn)(w, x, n)
    assert_same(funcgrad.grad(loop, (0, 1))(W, X), expected, rtol=1e-12)
    assert_same(funcgrad.grad(lax_rnn, (0, 1))(W, X, n), expected, rtol=1e-12)


def lax_rnn(w, x, n):
    """The same loop written with while_loop."""

    def step(carry):
        i, h, total = carry
        h = jnp.tanh(w @ h + x * jnp.sin(1.0 * i))
        return i + 1, h, total + jnp.sum(h**2)

    i, h, total = lax.while_loop(lambda carry: carry[0] < n, step, (0, x, 0.0))
    return jnp.sum(h) * i + total


def test_under_vmap_each_example_has_its_own_trips():
    xs, ns = jnp.stack([X, -X, 2 * X]), jnp.array([0, 3, 40])
    expected = jnp.stack(
        [jax.grad(bounded_rnn, 1)(W, x, int(n)) for x, n in zip(xs, ns, strict=True)]
    )
    gradient = funcgrad.grad(rnn, 1)
    assert_same(jax.vmap(gradient, (None, 0, 0))(W, xs, ns), expected, rtol=1e-12)
    total = lambda xs: jnp.sum(jax.vmap(rnn, (None, 0, 0))(W, xs, ns))
    assert_same(funcgrad.grad(total)(xs), expected, rtol=1e-12)
    assert_same(jax.jit(funcgrad.grad(total))(xs), expected, rtol=1e-12)


def test_second_order():
    def scalar(grad, fun):
        return lambda x, n: jnp.sum(jnp.sin(grad(fun, 1)(W, x, n)))

    ours = jax.jit(funcgrad.grad(scalar(funcgrad.grad, lax_rnn)))
    for n in (0, 1, 40):
        expected = jax.grad(scalar(jax.grad, bounded_rnn))(X, n)
        assert_same(ours(X, n), expected, rtol=1e-11)


def test_jvp_over_the_gradient():
    direction = jnp.ones(3)
    ours = jax.jvp(lambda x: funcgrad.grad(lax_rnn, 1)(W, x, 5), (X,), (direction,))
    expected = jax.jvp(lambda x: jax.grad(bounded_rnn, 1)(W, x, 5), (X,), (direction,))
    assert_same(ours, expected, rtol=1e-11)


def newton(a):
    """The cube root of a, to a tolerance; its derivative is 1 / (3 root^2)."""
    step = lambda x: x - (x**3 - a) / (3 * x**2)
    return lax.while_loop(lambda x: jnp.abs(x**3 - a) > 1e-13, step, a)


def test_newton_to_a_tolerance():
    # near the root Newton's error is squared, and so is that of the derivative
    assert_same(funcgrad.grad(newton)(27.0), jnp.float64(1 / 27), rtol=1e-12, weak=False)
    second = -2 / 9 * 27.0 ** (-5 / 3)
    assert_same(
        funcgrad.grad(funcgrad.grad(newton))(27.0), jnp.float64(second), rtol=1e-9, weak=False
    )
    many = jax.vmap(funcgrad.grad(newton))(jnp.array([8.0, 27.0, 64.0]))
    assert_same(many, jnp.array([1 / 12, 1 / 27, 1 / 48]), rtol=1e-9)


def adaptive_ode(rate, y):
    """y' = -rate y to time 1 by Heun's method with steps that adapt to its error estimate."""

    def step(carry):
        t, y, h = carry
        h = jnp.minimum(h, 1.0 - t)
        slope = -rate * y
        ahead = -rate * (y + h * slope)
        error = jnp.abs(h / 2 * (ahead - slope))
        accept = error < 1e-4
        factor = jnp.clip(0.9 * jnp.sqrt(1e-4 / (error + 1e-12)), 0.3, 2.0)
        new = y + h / 2 * (slope + ahead)
        h_next = lax.stop_gradient(h * factor)
        return jnp.where(accept, t + h, t), jnp.where(accept, new, y), h_next

    return lax.while_loop(lambda carry: carry[0] < 1.0, step, (0.0, y, 0.1))[1]


def test_adaptive_ode_solver():
    value, (ct_rate, ct_y) = funcgrad.value_and_grad(adaptive_ode, (0, 1))(2.0, 1.5)
    step = 1e-6
    for ct, there, back in (
        (ct_rate, (2.0 + step, 1.5), (2.0 - step, 1.5)),
        (ct_y, (2.0, 1.5 + step), (2.0, 1.5 - step)),
    ):
        difference = (adaptive_ode(*there) - adaptive_ode(*back)) / (2 * step)
        # stop_gradient drops how steps depend on the state, an effect of the method's error
        np.testing.assert_allclose(ct, difference, rtol=1e-2)
    np.testing.assert_allclose(value, 1.5 * np.exp(-2.0), rtol=1e-3)
    np.testing.assert_allclose(ct_y, np.exp(-2.0), rtol=1e-3)
    np.testing.assert_allclose(ct_rate, -1.5 * np.exp(-2.0), rtol=1e-2)


def nested(x):
    """Loops of run-time length in scan, cond, checkpoint and each other."""

    def step(c, n):
        c = jax.checkpoint(lambda c: lax.fori_loop(0, n, lambda i, v: jnp.sin(v) * x + v * 0.1, c))(
            c
        )
        shrink = lambda c: lax.while_loop(lambda c: jnp.sum(c) > 1.0, lambda c: c * jnp.cos(x), c)
        c = lax.cond(n > 2, shrink, lambda c: c, c)
        inner = lambda i, v: lax.fori_loop(0, n + i, lambda j, u: jnp.sin(u * x), v)
        return lax.fori_loop(0, n, inner, c), c

    c, ys = lax.scan(step, x, jnp.array([0, 1, 3, 5]))
    return jnp.sum(c) + jnp.sum(ys)


def unrolled(x):
    """The same in Python."""
    c, total = x, 0.0
    for n in (0, 1, 3, 5):
        for _ in range(n):
            c = jnp.sin(c) * x + c * 0.1
        while n > 2 and lax.stop_gradient(jnp.sum(c)) > 1.0:
            c = c * jnp.cos(x)
        total += jnp.sum(c)
        for i in range(n):
            for _ in range(n + i):
                c = jnp.sin(c * x)
    return jnp.sum(c) + total


def test_nested_in_everything():
    x = jnp.array([0.9, 1.1, 0.7])
    expected = jax.grad(unrolled)(x)
    assert_same(funcgrad.grad(nested)(x), expected, rtol=1e-12)
    assert_same(jax.jit(funcgrad.grad(nested))(x), expected, rtol=1e-12)
    batch = jnp.stack([x, 0.5 * x])
    assert_same(
        jax.vmap(funcgrad.grad(nested))(batch), jnp.stack([expected, jax.grad(unrolled)(0.5 * x)]),
        rtol=1e-11,
    )  # fmt: skip


def test_random_keys_in_the_carry():
    def draws(x, n):
        def step(carry):
            i, key, v = carry
            key, now = jax.random.split(key)
            return i + 1, key, v * jnp.sin(jax.random.normal(now, x.shape) * x)

        return jnp.sum(lax.while_loop(lambda c: c[0] < n, step, (0, jax.random.key(0), x))[2])

    def bounded(x, n):
        key, v = jax.random.key(0), x
        for _ in range(n):
            key, now = jax.random.split(key)
            v = v * jnp.sin(jax.random.normal(now, x.shape) * x)
        return jnp.sum(v)

    with funcgrad.loops(checkpoints=3):
        found = funcgrad.grad(draws)(X, 20)
    assert_same(found, jax.grad(bounded)(X, 20), rtol=1e-11)


def test_a_million_trips_in_constant_memory():
    rate = 1e-6
    loop = lambda x, n: lax.fori_loop(0, n, lambda i, v: v * (1.0 - rate * x), 1.0)
    gradient = jax.jit(funcgrad.grad(loop)).lower(1.0, 5).compile()
    n = 1_000_000
    expected = -n * rate * (1 - rate) ** (n - 1)
    np.testing.assert_allclose(gradient(1.0, n), expected, rtol=1e-9)
    # 32 states and 32 steps of 8 bytes, with their bookkeeping; n never enters
    assert gradient.memory_analysis().temp_size_in_bytes < 4096


def test_memory_grows_with_checkpoints_only():
    def temp_bytes(checkpoints):
        lowered = on_dynamic_bounds(checkpoints=checkpoints).lower(jnp.eye(64), jnp.ones(64), 3)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    state = 64 * 8
    few, many = temp_bytes(8), temp_bytes(64)
    # a checkpoint, and the unit's kept values that take as much again, in place or copied
    assert 56 * state < many - few < 4 * 2 * 56 * state


def heavy(x, n):
    """A loop of which a step reads much more than it carries on."""

    def step(i, carry):
        y, seen = carry
        wide = jnp.sin(y * jnp.arange(1.0, 300.0)) + 0.01 * i
        y = jnp.mean(jnp.tanh(wide) * wide) + x
        return y, seen.at[i % 3].set(y)

    y, seen = lax.fori_loop(0, n, step, (x, jnp.zeros(3)))
    return y + jnp.sum(seen**2)


@pytest.mark.parametrize("checkpoints", [2, 32])
def test_a_loop_of_heavy_steps_runs_each_again(checkpoints):
    def gradient(x, n):
        with funcgrad.loops(checkpoints=checkpoints):
            return funcgrad.grad(heavy)(x, n)

    found = jax.jit(gradient)
    for n in (0, 1, 2, 7, 40):
        wanted = jax.grad(heavy)(0.3, n)  # the number is known: JAX makes a scan of it
        np.testing.assert_allclose(found(0.3, n), wanted, rtol=1e-12)
    program = loop_program(lambda x: heavy(x, jnp.int32(7) + jnp.int32(x)), 0.3)
    assert program.by_steps
    assert not program.left


def loop_program(fun, *args):
    """The program of a function's while loop."""
    tape = tape_of(fun, *args, rules=funcgrad.DEFAULT)
    return next(n.pullback for n in walk_nodes(tape) if isinstance(n.pullback, WhileProgram))


def test_snapshots_do_not_hold_what_an_inner_loop_only_writes():
    def run(x, n, size):
        def inner(carry):
            j, y, rows = carry
            return j + 1, jnp.sin(y) * x, rows.at[j].set(y)

        def outer(carry):
            i, y, rows = carry
            _, y, rows = lax.while_loop(lambda c: (c[0] < 4) & (c[1] < 9), inner, (0, y, rows))
            return i + 1, y, rows

        _, y, rows = lax.while_loop(lambda c: c[0] < n, outer, (0, x, jnp.zeros(size)))
        return y + jnp.sum(rows**2)

    def sizes(size):
        program = loop_program(lambda x: run(x, jnp.int32(x) + 3, size), 0.7)
        return [program.body.carries[i].aval.shape for i in program.state]

    assert sizes(50) == [()]  # y alone: neither the rows nor the counter
    found = jax.jit(lambda x, n: funcgrad.grad(run)(x, n, 5))(0.7, 3)

    def unrolled(x):
        y, rows = x, jnp.zeros(5)
        for _ in range(3):
            for j in range(4):
                y, rows = jnp.sin(y) * x, rows.at[j].set(y)
        return y + jnp.sum(rows**2)

    np.testing.assert_allclose(found, jax.grad(unrolled)(0.7), rtol=1e-12)


@pytest.mark.parametrize("count", [2, 4, 32])
def test_repeats_stay_within_the_binomial_bound(count):
    for units in (1, 2, 3, 4, 5, 9, 16, 31, 32, 33, 100, 500):
        most = int(jnp.max(repeats(count, units)))
        bound = next(r for r in range(units) if comb(count - 1 + r, r) >= units)
        assert most <= bound, f"{units} units with {count} checkpoints"


@jax.jit
def put_if(there, snapshots, time):
    return lax.cond(there, lambda: snapshots.put(time, [jnp.float64(time)]), lambda: snapshots)


def repeats(count, units):
    """How often each unit is run again when all are walked back over, by the snapshots alone."""

    def schedule(units):
        snapshots = Snapshots.empty(count, [jnp.float64(0)])
        snapshots = lax.fori_loop(0, units, lambda t, s: put_if(True, s, jnp.int32(t)), snapshots)

        def back(loop):
            time, snapshots, runs = loop
            time, snapshots = time - 1, snapshots.drop_from(time)
            now, (state,) = snapshots.latest()
            runs = jnp.where(state == now, runs, -(2**20))  # the state is that of its time

            def ahead(loop):
                now, snapshots, runs = loop
                now, runs = now + 1, runs.at[now].add(1)
                return now, put_if(now < time, snapshots, now), runs

            _, snapshots, runs = lax.while_loop(
                lambda loop: loop[0] < time, ahead, (now, snapshots, runs)
            )
            return time, snapshots, runs.at[time].add(1)

        start = jnp.int32(units - 1), snapshots, jnp.zeros(512, jnp.int32)
        return lax.while_loop(lambda loop: loop[0] > 0, back, start)[2]

    return jax.jit(schedule)(units)


def test_effects_happen_once_and_in_order(capfd):
    def loop(x, n):
        def step(carry):
            i, v = carry
            jax.debug.print("step {}", i, ordered=True)
            return i + 1, jnp.sin(v) * x

        return lax.while_loop(lambda carry: carry[0] < n, step, (0, x))[1]

    with funcgrad.loops(checkpoints=2):
        jax.block_until_ready(jax.jit(funcgrad.grad(loop))(1.0, 5))
    jax.effects_barrier()
    assert capfd.readouterr().out.split() == [w for i in range(5) for w in ("step", str(i))]


def test_a_loop_without_differentiated_carry_stays_as_it_is():
    count = lambda x: lax.while_loop(lambda c: c < 5, lambda c: c + 1, 0) * x
    assert funcgrad.grad(count)(2.0) == 5.0
    halvings = lambda x: x * lax.while_loop(lambda c: c[1] > 1, halve, (0, lax.stop_gradient(x)))[0]
    halve = lambda c: (c[0] + 1, c[1] / 2)
    assert funcgrad.grad(halvings)(8.0) == 3.0


@pytest.mark.parametrize("checkpoints", [0, 1, 2.5, "many", True])
def test_bad_numbers_of_checkpoints(checkpoints):
    with (
        pytest.raises(funcgrad.errors.InputError, match="checkpoints"),
        funcgrad.loops(checkpoints=checkpoints),
    ):
        pass


def test_the_setting_is_restored_and_not_mistaken_by_caches():
    loop = jax.jit(funcgrad.grad(lambda x, n: lax.fori_loop(0, n, lambda i, v: v * x, 1.0)))
    sizes = []
    for checkpoints in (4, 64, 4):
        with funcgrad.loops(checkpoints=checkpoints):
            compiled = loop.lower(2.0, 5).compile()
            sizes.append(compiled.memory_analysis().temp_size_in_bytes)
    assert sizes[0] == sizes[2] < sizes[1]
    with pytest.raises(ZeroDivisionError), funcgrad.loops(checkpoints=4):
        raise ZeroDivisionError
    compiled = loop.lower(2.0, 5).compile()
    assert sizes[0] < compiled.memory_analysis().temp_size_in_bytes < sizes[1]
