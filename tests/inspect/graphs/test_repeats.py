"""A program in parts has the results of the whole, and compiles a repeated stretch once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from funcgrad import _jax
from funcgrad.inspect.graphs.repeats import parts_of, run_in_parts
from tests.meshes import mesh_of

X = np.linspace(-1.0, 1.0, 6, dtype=np.float32)
WEIGHTS = [np.cos(np.arange(36, dtype=np.float32) + i).reshape(6, 6) / 3 for i in range(12)]


def dense(x, w):
    h = jnp.tanh(w @ x - jnp.mean(x)) * jax.nn.sigmoid(x)
    return x + h * jnp.exp(-jnp.square(h)) - jnp.sin(h) / (1.0 + jnp.square(x))


def network(weights, x):
    for w in weights:
        x = dense(x, w)
    return jnp.sum(jnp.log1p(jnp.square(x)))


def staged(fun, *args):
    """The function as a closed jaxpr of flat values, and the flat values."""
    leaves, tree = jax.tree.flatten(args)
    flat = lambda *leaves: jax.tree.leaves(fun(*jax.tree.unflatten(tree, leaves)))
    return _jax.stage_closed(flat, [_jax.typeof(jnp.asarray(x)) for x in leaves], "f"), leaves


def programs(fun, *args):
    """How many operations each program has that is compiled, and how many parts are run."""
    parts = parts_of(staged(fun, *args)[0].jaxpr)
    return sorted(len(part.eqns) for part in {part.key: part for part in parts}.values()), len(
        parts
    )


def assert_as_whole(fun, *args):
    """Parts agree with JAX's own run of the function; return the programs."""
    expected = jax.tree.leaves(jax.jit(fun)(*args))
    for found, value in zip(run_in_parts(*staged(fun, *args)), expected, strict=True):
        np.testing.assert_allclose(found, value, rtol=2e-6, atol=1e-6)
    return programs(fun, *args)


def test_layers_are_compiled_once_whatever_the_depth():
    gradients = jax.value_and_grad(network)
    compiled, run = programs(gradients, WEIGHTS, X)
    half, run_of_half = programs(gradients, WEIGHTS[:6], X)
    assert compiled == half
    assert run == run_of_half + 2 * 6  # forward and back
    assert assert_as_whole(network, WEIGHTS[:8], X)[1] == 8 + 1


def test_what_is_not_repeated_is_one_part():
    compiled, run = assert_as_whole(network, WEIGHTS[:1], X)
    assert (len(compiled), run) == (1, 1)
    assert programs(lambda x: x, X) == ([], 0)
    assert run_in_parts(*staged(lambda x: (x, 2.0, x), X))[1] == 2.0


def long(link):
    """A layer of which the same operations read as `link` says, by the number of the layer."""

    def fun(x):
        for i in range(12):
            a, b = jnp.sin(x), jnp.cos(x)
            for _ in range(4):
                a, b = link(i, a, b)
            x = a - b
        return x

    return fun


LINKS = {
    "operands in another order": lambda i, a, b: (a - b, b * a) if i % 2 else (b - a, b * a),
    "an operand twice": lambda i, a, b: (a - b, b * (a if i % 3 else b)),
    "another literal": lambda i, a, b: (a - b, b * (0.25 + i % 2 / 4)),
    "zeros of two signs": lambda i, a, b: (a - b, b + lax.atan2(a, -0.0 if i % 2 else 0.0)),
    "another param": lambda i, a, b: (a - b, lax.cumsum(b, reverse=bool(i % 2)) / 9),
    "a value of a far layer": lambda i, a, b: (a - b * X if i != 7 else a - X, b),
}


@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
def test_layers_that_differ_are_other_programs(link):
    assert_as_whole(long(link), X)


def test_a_value_that_only_some_layers_hand_on_is_known():
    """All that is summed after the loop: the fifth layer's, the eleventh's, and the first's twice."""

    def fun(weights, x):
        kept = [x := dense(x, w) for w in weights]
        return kept[4] + kept[10] * kept[0] + kept[0] + kept[-1]

    assert_as_whole(fun, WEIGHTS, X)


def test_calls_inside_layers():
    def fun(weights, x):
        for w in weights:
            x, _ = lax.scan(lambda h, _, w=w: (dense(h, w), None), x, None, 2)
            x = jax.jit(dense)(x, w) + lax.cond(x[0] > 0, jnp.sin, jnp.cos, x)
            for _ in range(4):
                x = jnp.sin(x) - jnp.cos(x)
        return x

    compiled, run = assert_as_whole(fun, WEIGHTS[:6], X)
    assert run >= 6 > len(compiled)


def test_effects_keep_their_order_and_happen_once():
    seen = []

    def fun(x):
        for i in range(12):
            jax.debug.callback(lambda x, i=i: seen.append(i), x, ordered=True)
            for _ in range(4):
                x = jnp.sin(x) - jnp.cos(x)
        return x

    run_in_parts(*staged(fun, X))
    jax.effects_barrier()
    assert seen == [*range(12)]


def test_sharded_arrays_stay_sharded():
    sharding = NamedSharding(mesh_of(i=8), PartitionSpec("i"))
    x = np.linspace(-1.0, 1.0, 16, dtype=np.float32)

    def fun(x):
        for _ in range(6):
            for _ in range(3):
                x = jnp.sin(x) - jnp.cos(x) * jnp.mean(x)
            x = lax.with_sharding_constraint(x, sharding)
        return x

    (closed, _), expected = staged(fun, x), jax.jit(fun)(x)
    for given in (x, jax.device_put(x, sharding)):
        (found,) = run_in_parts(closed, [given])
        assert found.sharding.num_devices == 8
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert len(parts_of(closed.jaxpr)) >= 6


def test_random_keys_pass_from_part_to_part():
    def fun(key, x):
        for _ in range(6):
            key = jax.random.fold_in(key, 1)
            x = x + jax.random.uniform(key, x.shape)
            for _ in range(8):
                x = jnp.sin(x) - jnp.cos(x)
        return x

    assert_as_whole(fun, jax.random.key(0), X)
    assert programs(fun, jax.random.key(0), X)[1] > 1
