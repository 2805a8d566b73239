"""Dead code is removed inside while loops, at any depth, and what is left computes the same."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from funcgrad import _jax


def without(fun, *args, used):
    """The equations of `fun`, pruned, for some of its results; and what these are."""
    jaxpr = jax.make_jaxpr(fun)(*args).jaxpr
    targets = [jaxpr.outvars[i] for i in used]
    eqns = _jax.without_dead_carries(jaxpr.eqns, targets)
    known = dict(zip(jaxpr.invars, args, strict=True))
    return eqns, _jax.eval_equations(eqns, known, targets)


def loops_in(eqns):
    for eqn in eqns:
        if eqn.primitive is lax.while_p:
            yield eqn
        for inner in _jax.inner_jaxprs(eqn.params):
            yield from loops_in(inner.eqns)


def writing(x, y, buffer):
    """A loop that writes into a buffer which it does not read, and has a sum of its own."""

    def step(carry):
        i, x, total, buffer = carry
        return i + 1, jnp.sin(x) * y, total + x, buffer.at[i].set(x)

    return lax.while_loop(lambda carry: carry[0] < 5, step, (0, x, x, buffer))[1:]


def test_a_buffer_and_a_sum_that_nobody_needs_are_not_carried():
    args = 0.5, 1.5, jnp.zeros(5)
    eqns, (x,) = without(writing, *args, used=[0])
    (loop,) = loops_in(eqns)
    assert [v.aval.shape for v in loop.outvars] == [(), ()]  # the counter and x
    np.testing.assert_array_equal(x, writing(*args)[0])


def test_what_a_needed_carry_reads_is_carried():
    args = 0.5, 1.5, jnp.zeros(5)
    eqns, (total,) = without(writing, *args, used=[1])
    (loop,) = loops_in(eqns)
    assert len(loop.outvars) == 3  # the counter, x and the total
    np.testing.assert_array_equal(total, writing(*args)[1])


def test_inside_a_jit_and_another_loop():
    def run(x, y, buffer):
        step = lambda i, carry: tuple(jax.jit(writing)(carry[0], y, carry[2]))
        x, total, buffer = lax.fori_loop(0, jnp.int32(3), step, (x, x, buffer))
        return x, total, buffer

    args = 0.5, 1.5, jnp.zeros(5)
    eqns, (x,) = without(run, *args, used=[0])
    assert all(v.aval.shape == () for loop in loops_in(eqns) for v in loop.outvars)
    np.testing.assert_array_equal(x, run(*args)[0])
    whole, results = without(run, *args, used=[0, 1, 2])
    assert any(v.aval.shape == (5,) for loop in loops_in(whole) for v in loop.outvars)
    for found, wanted in zip(results, run(*args), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_a_loop_with_effects_stays_whole():
    def run(x, buffer):
        def step(carry):
            i, x, buffer = carry
            jax.debug.print("{}", i)
            return i + 1, jnp.sin(x), buffer.at[i].set(x)

        return lax.while_loop(lambda carry: carry[0] < 3, step, (0, x, buffer))

    jaxpr = jax.make_jaxpr(run)(0.5, jnp.zeros(5)).jaxpr
    assert _jax.without_dead_carries(jaxpr.eqns, [jaxpr.outvars[1]]) == jaxpr.eqns
