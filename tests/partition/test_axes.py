"""Which rows keep apart: the claims about each operation, and what changing one row changes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from funcgrad.partition.axes import CALLS, LINKS, rows_apart
from tests.programs import normal

B = 3  # as many rows as columns, so that sizes tell nothing
X, Y, V = (jnp.asarray(normal(*s, seed=i)) for i, s in enumerate([(B, 3), (B, 3), (B,)]))
M = normal(B, 3, 3, seed=3) + 4 * jnp.eye(3)
SPD = M @ M.transpose(0, 2, 1)
PICKED = jnp.array([2, 0, 1])


def loop(x):
    body = lambda x: jnp.where((x[:, :1] > 0.1), x / 2, x)
    return lax.while_loop(lambda x: jnp.any(x > 0.1), body, x)


def counted(w, x):
    return lax.fori_loop(0, 3, lambda _, x: jnp.sin(x @ w), x)


def batched_loop(x):
    one = lambda v: lax.while_loop(lambda v: v.sum() > 0.1, lambda v: v / 2, v)
    return jax.vmap(one)(x)


def prefix_sums(x, w):
    return lax.scan(lambda c, v: (c + v, c * v), x[:, 0], w * 1.0)[1].T


def switch(i, x, w):
    return lax.switch(i, [lambda x, w: x @ w, lambda x, w: x * 2, lambda x, w: jnp.exp(x)], x, w)


APART = {
    "elementwise": (lambda x, y: jnp.where(x > 0, jnp.tanh(x) * y, jnp.maximum(x, y)), X, Y),
    "broadcast": (lambda v, x: v[:, None] * x, V, X),
    "broadcast shared": (lambda x, w: x * w[None, :], X, V),
    "reduce": (lambda x: jnp.sum(x, 1) + jnp.argmax(x, 1), X),
    "cumulative": (lambda x: jnp.cumsum(x, 1) + lax.cumlogsumexp(x, 1, reverse=True), X),
    "sort": (lambda x: jnp.sort(x, 1) + lax.top_k(x, 3)[0], X),
    "dot": (lambda x, w: x @ w, X, X),
    "batched dot": (lambda m, x: jnp.einsum("bij,bj->bi", m, x), M, X),
    "reshape": (lambda m: m.reshape(B, 9).reshape(B, 3, 3, 1)[..., 0], M),
    "reshape from the right": (lambda m: m.reshape(9, 3).reshape(3, 3, 3), M.transpose(1, 2, 0)),
    "transpose": (lambda m: jnp.transpose(m, (2, 0, 1)).sum(0), M),
    "slices": (lambda x: jnp.concatenate([x[:, :2], jnp.pad(x[:, ::2], ((0, 0), (1, 0)))], 1), X),
    "split": (lambda x: jnp.split(x, 3, 1)[1] + x[:, ::-1], X),
    "dynamic slice": (lambda x, i: lax.dynamic_slice_in_dim(x, i[0], 2, 1), X, PICKED),
    "dynamic update": (lambda x, i: lax.dynamic_update_slice(x, x[:, :1], (0, i[0])), X, PICKED),
    "gather a row each": (jax.vmap(lambda x, i: x[i] * x[1]), X, PICKED),
    "gather shared": (jax.vmap(lambda i, w: w[i], (0, None)), PICKED, X),
    "scatter a row each": (jax.vmap(lambda x, i, v: x.at[i].add(v)), X, PICKED, V),
    "window": (lambda x: lax.conv(x[:, None], jnp.ones((1, 1, 2)), (1,), "SAME")[:, 0], X),
    "fft": (lambda x: jnp.abs(jnp.fft.rfft(x, axis=1)), X),
    "linear algebra": (lambda m: jnp.linalg.cholesky(m) + jnp.linalg.inv(m), SPD),
    "solve": (jax.vmap(lambda m, v: jnp.linalg.solve(m, v)), M, X),
    "eigenvalues": (lambda m: jnp.linalg.eigh(m)[0] + jnp.linalg.svd(m)[1], SPD),
    "random": (jax.vmap(lambda k: jax.random.normal(k, 3)), jax.random.split(jax.random.key(0), B)),
    "jit": (lambda x: jax.jit(lambda y: jax.checkpoint(jnp.sin)(jax.nn.relu(y)))(x), X),
    "loop of a number of steps": (lambda x, w: counted(w, x), X, X),
    "loop of examples": (batched_loop, jnp.abs(X)),
    "scan": (prefix_sums, X, V),
    "switch": (lambda x, i, w: switch(i[0], x, w), X, PICKED, X),
    "barrier": (lambda x, w: lax.optimization_barrier((x, w))[0], X, X),
}  # fmt: skip

MIXED = {
    "sum": (lambda x: x - jnp.sum(x, 0), X),
    "sort": (lambda x: jnp.sort(x, 0), X),
    "reversal": (lambda x: x[::-1], X),
    "dot": (lambda x: x.T @ x, X),
    "transpose": (lambda x: x * x.T, X),
    "slice": (lambda x: x * x[0], X),
    "reshape": (lambda x: x.reshape(9)[::-1].reshape(3, 3), X),
    "indexed": (lambda x, i: x[i], X, PICKED),
    "cumulative": (lambda x: jnp.cumsum(x, 0), X),
    "loop with one test": (loop, X),
    "scan along": (lambda x: lax.scan(lambda c, v: (c + v, c), x[0], x)[1], X),
    "collective": (jax.vmap(lambda x: x + lax.psum(x, "i"), axis_name="i"), X),
    "scatter": (lambda x, i: x.at[i].add(x), X, PICKED),
    "pad": (lambda x: jnp.pad(x, ((1, 0), (0, 0)))[:3], X),
}


def program(fun, *args):
    return jax.make_jaxpr(fun)(*args)


def rows_changed(fun, args, places, row):
    """Which rows of the output change if one row of all arguments that have rows does."""

    def changed(x, place):
        at = (slice(None),) * (place[0] or 0) + (row,)
        return x if place[0] is None or x.dtype != X.dtype else x.at[at].add(0.1)

    before, after = (np.asarray(fun(*xs)) for xs in (args, map(changed, args, places)))
    return [i for i in range(B) if not np.array_equal(before[i], after[i])]


AXIS = {"reshape from the right": 2, "transpose": 1}


@pytest.mark.parametrize("name", APART)
def test_rows_that_keep_apart(name):
    fun, *args = APART[name]
    places = rows_apart(program(fun, *args), [(0, AXIS.get(name, 0))])
    assert places is not None
    if AXIS.get(name, 0) == 0 and args[0].dtype == X.dtype:
        for row in range(B):
            assert rows_changed(fun, args, places, row) == [row]


@pytest.mark.parametrize("name", MIXED)
def test_rows_that_are_mixed(name):
    fun, *args = MIXED[name]
    assert rows_apart(program(fun, *args), [(0, 0)]) is None


def test_which_inputs_have_the_rows():
    fun = lambda x, w, b, v, s: jnp.tanh(x @ w + b) * v[:, None] * s
    places = rows_apart(program(fun, X, X, V, V, 1.0), [(0, 0)])
    assert places == [(0,), (None,), (None,), (0,), (None,)]


def test_rows_of_two_axes():
    fun = lambda m, x, v, w: m * x[:, None, :] + (v[None, :] + w[:, None])[..., None]
    places = rows_apart(program(fun, M, X, V, V), [(0, 0), (0, 1)])
    assert places == [(0, 1), (0, None), (None, 0), (0, None)]


def test_an_operation_that_is_not_known_mixes():
    assert (
        rows_apart(
            program(lambda x: lax.reduce_window(x, 0.0, lax.add, (2, 1), (1, 1), "SAME"), X),
            [(0, 0)],
        )
        is None
    )


def test_every_primitive_is_one():
    assert None not in LINKS
    assert None not in CALLS
