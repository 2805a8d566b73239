"""The most steps that a loop can take: known where it is certain, and right wherever it is known."""

from __future__ import annotations

import itertools
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from funcgrad.calls.step_bounds import most_steps
from funcgrad.extend import tape_of, walk_nodes

COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def loop_of(test: Any, body: Any, *init: Any) -> Any:
    """The params of a while loop."""
    closed = jax.make_jaxpr(
        lambda *init: lax.while_loop(lambda c: test(*c), lambda c: body(*c), init)
    )(*init)
    return next(eqn for eqn in closed.jaxpr.eqns if eqn.primitive is lax.while_p).params


def bound(test: Any, body: Any, *init: Any, start: int | None = 0) -> int | None:
    """The bound of a loop whose first carry starts as this integer."""
    params = loop_of(test, body, *init)
    others = [None] * (len(params["body_jaxpr"].out_avals) - 1)
    return most_steps(params["cond_jaxpr"], params["body_jaxpr"], [start, *others])


@pytest.mark.parametrize("sign", COMPARE)
def test_equals_the_steps_of_a_python_loop(sign):
    compare = COMPARE[sign]
    for start, end, added in itertools.product((-3, 0, 2), (-4, 2, 5), (1, 3)):
        added = added if "<" in sign else -added
        found = bound(
            lambda i, end=end: compare(i, end), lambda i, a=added: (i + a,), 0, start=start
        )
        steps, i = 0, start
        while compare(i, end):
            steps, i = steps + 1, i + added
        assert found == steps, (start, sign, end, added)


def test_a_part_of_a_conjunction_bounds_the_whole():
    body = lambda i, x: (1 + i, x * x)
    assert bound(lambda i, x: (x > 0.1) & (i < 7), body, 0, 2.0) == 7
    assert bound(lambda i, x: (i < 7) & ((x > 0.1) & (i <= 4)), body, 0, 2.0) == 5
    assert bound(lambda i, x: jnp.logical_and(i < 7, x > 0.1), body, 0, 2.0) == 7
    assert bound(lambda i, x: jnp.any((i < 7) & (x > 0.1)), body, 0, 2.0) == 7
    down = lambda i, x: (i - 2, x)
    assert bound(lambda i, x: (i - 1 >= 0) & (i > 0), down, 9, 2.0, start=9) == 5


UNKNOWN = {
    "either": (lambda i, x: (i < 7) | (x > 0.1), lambda i, x: (i + 1, x)),
    "not": (lambda i, x: ~(i < 7), lambda i, x: (i + 1, x)),
    "another direction": (lambda i, x: i < 7, lambda i, x: (i - 1, x)),
    "sometimes": (lambda i, x: i < 7, lambda i, x: (jnp.where(x > 0, i + 1, i), x)),
    "not at all": (lambda i, x: i < 7, lambda i, x: (i, x * 2)),
    "a number of the loop's": (lambda i, x: i < x, lambda i, x: (i + 1, x)),
    "another carry": (lambda i, x: x < 7, lambda i, x: (i + 1, x + 1)),
    "twice the counter": (lambda i, x: 2 * i < 7, lambda i, x: (i + 1, x)),
    "anew": (lambda i, x: i < 2**31 - 1, lambda i, x: (i + 2, x)),
    "not equal": (lambda i, x: i != 7, lambda i, x: (i + 1, x)),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_nothing_is_guessed(name):
    assert bound(*UNKNOWN[name], 0, 2.0) is None


def test_an_unsigned_counter_may_begin_anew():
    down = lambda i: (i - jnp.uint32(1),)
    assert bound(lambda i: i > 0, down, jnp.uint32(3), start=3) == 3
    assert bound(lambda i: i >= 0, down, jnp.uint32(3), start=3) is None


def test_a_start_that_is_no_number_gives_none():
    assert bound(lambda i, x: i < 7, lambda i, x: (i + 1, x), 0, 2.0, start=None) is None


def test_a_vmapped_test_gives_none():
    test, body = (lambda i, x: (i < 7) & (x < 9)), (lambda i, x: (i + 1, x * 2))
    mapped = jax.vmap(lambda x: lax.while_loop(lambda c: test(*c), lambda c: body(*c), (0, x)))
    closed = jax.make_jaxpr(mapped)(jnp.ones(3))
    (eqn,) = [eqn for eqn in closed.jaxpr.eqns if eqn.primitive is lax.while_p]
    params = eqn.params
    assert most_steps(params["cond_jaxpr"], params["body_jaxpr"], (0, None)) is None


# --- gradients


def powers(start: Any, end: int, limit: float = 1e6) -> Any:
    """Multiplied by x until it is too large, or for a number of steps."""

    def run(x):
        def step(carry):
            i, y, total = carry
            y = jnp.sin(y) * x + y
            return i + 1, y, total + jnp.tanh(y)

        going = lambda carry: (carry[0] < end) & (jnp.abs(carry[1]) < limit)
        return lax.while_loop(going, step, (start, x, 0.0))[2]

    return run


def unrolled(start: int, end: int, limit: float) -> Any:
    def run(x):
        y, total = x, 0.0
        for _ in range(start, end):
            if not abs(y) < limit:
                break
            y = np.sin(y) * x + y
            total = total + np.tanh(y)
        return total

    return run


def derivative(fun: Any, x: float, step: float = 1e-3) -> float:
    """Of a function of double precision, by four of its values."""
    near, far = (fun(x + k * step) - fun(x - k * step) for k in (1, 2))
    return (8 * near - far) / (12 * step)


def program_of(fun: Any, *args: Any) -> Any:
    tape = tape_of(fun, *args, rules=funcgrad.DEFAULT)
    return next(n.pullback for n in walk_nodes(tape) if n.op is lax.while_p)


@pytest.mark.parametrize("limit", [1e6, 2.0])
@pytest.mark.parametrize(("start", "end"), [(0, 0), (0, 1), (0, 7), (-2, 3), (5, 3), (0, 40)])
def test_gradients_of_bounded_loops(start, end, limit):
    with jax.enable_x64(True):
        fun = powers(start, end, limit)
        assert program_of(fun, 0.7).most == max(0, end - start)
        wanted = derivative(unrolled(start, end, limit), 0.7)
        for gradient in (funcgrad.grad(fun), jax.jit(funcgrad.grad(fun))):
            np.testing.assert_allclose(gradient(0.7), wanted, rtol=1e-6)


def test_a_bounded_loop_has_no_snapshots():
    program = program_of(powers(0, 7), 0.7)
    assert program.is_one_unit
    assert program.unit_length == 7
    assert program.num_marks == 1  # the number of steps


def test_places_are_no_more_than_units():
    program = program_of(powers(0, 90), 0.7)
    assert not program.is_one_unit
    assert program.places == -(-90 // program.unit_length) < 32


@pytest.mark.parametrize("zero", [0, np.int32(0), np.array(0, np.int32)])
def test_starts_are_known_in_each_form(zero):
    assert program_of(powers(zero, 7), 0.7).most == 7


def test_starts_that_jnp_makes_are_known_under_jit():
    found = []

    @jax.jit
    def record(x):
        fun = lambda x: powers(jnp.int32(0), 7)(x)
        found.append(program_of(fun, x).most)
        return x

    record(0.7)
    assert found == [7]


def test_a_traced_start_is_not_known():
    fun = lambda x, start: powers(start, 7)(x)
    with jax.enable_x64(True):
        gradient = jax.jit(funcgrad.grad(fun))
        for start in (-30, 3):
            wanted = derivative(unrolled(start, 7, 1e6), 0.7)
            np.testing.assert_allclose(gradient(0.7, start), wanted, rtol=1e-6)
