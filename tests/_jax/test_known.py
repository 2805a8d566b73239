"""Equal jaxprs are one object: what was traced again is found, and nothing else is taken for it."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from funcgrad import _jax
from funcgrad.partition import split

X = np.linspace(0.1, 1.3, 4, dtype=np.float32)


@pytest.fixture(autouse=True)
def _nothing_is_known():
    """Tests trace the same programs: what one of them has traced must not be known to the next."""
    jax.clear_caches()


def traced(function, *args):
    return jax.make_jaxpr(function)(*(args or (X,)))


def scaled(factor):
    return lambda x: x * factor


def in_scope(name):
    def scoped(x):
        with jax.named_scope(name):
            return jnp.sin(x)

    return scoped


def along(axis):
    return lambda x: jnp.sum(jnp.outer(x, x), axis)


def over(axes):
    return lambda x: lax.reduce_sum_p.bind(jnp.outer(x, x), axes=axes, out_sharding=None)


def in_order(first):
    return lambda x, y: (x - y) if first else (y - x)


def picking(place):
    return lambda x, y: [x + 1.0, y + 1.0][place]


def inside(factor):
    def looped(x):
        return lax.scan(lambda c, _: (c * factor, None), x, None, length=3)[0]

    return looped


def two_lines(first):
    def function(x):
        if first:
            return jnp.sin(x)
        return jnp.sin(x)

    return function


@pytest.mark.parametrize(
    ("make", "one", "other"),
    [
        (scaled, 2.0, 3.0),
        (scaled, 0.0, -0.0),
        (scaled, np.float32(1), np.float32(-1)),
        (in_scope, "a", "b"),
        (along, 0, 1),
        (over, (np.int64(1),), (0, 1)),
        (inside, 2.0, 3.0),
        (two_lines, True, False),
    ],
    ids=["number", "sign of zero", "array", "scope", "param", "number or tuple", "inner", "line"],
)
def test_only_what_is_the_same_is_found(make, one, other):
    first = traced(make(one))
    assert _jax.known(first) is first
    different = traced(make(other))
    assert _jax.known(different) is different
    again = traced(make(one))
    assert again is not first
    assert _jax.known(again) is first


@pytest.mark.parametrize("make", [in_order, picking])
def test_operands_and_results_are_compared_by_their_places(make):
    first, different = traced(make(True), X, X), traced(make(False), X, X)
    assert _jax.known(first) is first
    assert _jax.known(different) is different
    assert _jax.known(traced(make(True), X, X)) is first


def test_types_are_compared():
    first = traced(jnp.sin, X)
    others = traced(jnp.sin, X[:2]), traced(jnp.sin, 1.0), traced(jnp.sin, np.float32(1))
    assert [_jax.known(j) is j for j in (first, *others)] == [True] * 4


def test_the_settings_of_jax_are_compared():
    first = traced(jnp.sin)
    assert _jax.known(first) is first
    with jax.default_matmul_precision("highest"):
        again = traced(jnp.sin)
        assert _jax.known(again) is again


@jax.custom_jvp
def users(x):
    return jnp.sin(x)


users.defjvp(lambda primals, tangents: (users(*primals), tangents[0]))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + np.arange(4, dtype=np.float32),
        lambda x: users(x),
        lambda x: (jax.debug.print("{}", x), x * 2)[1],
    ],
    ids=["constant", "function of the user's", "effect"],
)
def test_what_may_hold_values_is_never_taken_for_another(function):
    first, again = traced(function), traced(function)
    assert _jax.known(first) is first
    assert _jax.known(again) is again


def test_functions_of_jax_with_derivatives_of_their_own_are_found():
    first, again = (traced(lambda x: jax.nn.relu(x) * 2) for _ in range(2))
    assert _jax.known(first) is first
    assert _jax.known(again) is first


def test_what_is_known_is_forgotten_with_the_caches_of_jax():
    first = traced(lambda x: jnp.cos(x) * 7.0)
    assert _jax.known(first) is first
    alive = weakref.ref(first)
    del first
    gc.collect()
    assert alive() is not None
    jax.clear_caches()
    gc.collect()
    assert alive() is None


def looped(x, w):
    def step(c, w_t):
        return jnp.tanh(c * w_t) + 0.1, c

    c, cs = lax.scan(step, x, w)
    return jnp.sum(c) + jnp.sum(cs**2)


def branched(x, w):
    return lax.cond(w[0] > 0, lambda x: jnp.sin(x) * w[1], lambda x: x * x, x).sum()


def while_looped(x, w):
    def step(state):
        i, c = state
        return i + 1, jnp.sin(c) * w[1]

    return jnp.sum(lax.while_loop(lambda state: state[0] < 3, step, (0, x))[1])


def unrolled(x, w):
    for _ in range(3):
        x = jnp.sin(x) * w[1]
    return jnp.sum(x)


def checkpointed(x, w):
    return jnp.sum(jax.checkpoint(lambda x: jnp.sin(jnp.cos(x)) * w[0])(x))


def jitted(x, w):
    return jnp.sum(jax.jit(lambda x: jnp.sin(jnp.cos(x)))(x) * w[0])


@pytest.mark.parametrize(
    "loss",
    [looped, branched, pytest.param(while_looped, marks=pytest.mark.slow), checkpointed, jitted],
    ids=lambda f: f.__name__,
)
def test_a_body_that_is_traced_again_is_not_split_again(loss, monkeypatch):
    w = jnp.asarray(X[::-1].copy())
    splits = []
    trace_forward = split.trace_forward
    monkeypatch.setattr(
        split, "trace_forward", lambda *args: splits.append(args) or trace_forward(*args)
    )
    gradient = funcgrad.grad(loss, (0, 1))
    counts, results = [], []
    for transform in (jax.jit, jax.jit, lambda f: f, lambda f: f):
        before = len(splits)
        results.append(transform(lambda *args: gradient(*args))(X, w))
        counts.append(len(splits) - before)
    assert counts[0] > 0
    assert counts[1] == counts[3] == 0
    expected = jax.grad(unrolled if loss is while_looped else loss, (0, 1))(X, w)
    for found in results:
        for ct, ct_expected in zip(found, expected, strict=True):
            np.testing.assert_allclose(ct, ct_expected, rtol=1e-5)


@pytest.mark.parametrize("loss", [looped, branched, checkpointed], ids=lambda f: f.__name__)
def test_a_second_trace_is_the_same_program(loss):
    jax.clear_caches()
    gradient = funcgrad.value_and_grad(loss, (0, 1))
    with jax.checking_leaks():
        first, again = (str(jax.make_jaxpr(lambda *a: gradient(*a))(X, X)) for _ in range(2))
    assert first == again
