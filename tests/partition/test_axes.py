"""Which rows keep apart: the claims about each operation, and what changing one row changes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from funcgrad._jax import hi_call_p, implementation_of, is_elementwise
from funcgrad.partition.axes import CALLS, rows_apart
from funcgrad.partition.links import LINKS, SPARSE
from tests.meshes import mesh_of
from tests.programs import normal
from tests.rules import primitives

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


IMAGES, KERNELS = normal(B, 2, 2, 5, seed=5), normal(B, 4, 2, 3, seed=6)  # NCW, OIW


def convolved(x, kernel, groups=1):
    return lax.conv_general_dilated(x, kernel, (1,), "SAME", feature_group_count=groups)


def pool(x, fun, init):
    return lax.reduce_window(x, init, fun, (1, 2), (1, 1), "SAME")


def tridiagonal(v):
    return lax.linalg.tridiagonal_solve(v, v + 4, v, v[:, None])


def called(x, how):
    squares = lambda v: np.asarray(v) ** 2
    each = lambda v: jax.pure_callback(squares, v, v, vmap_method=how)
    return jax.vmap(each)(x)


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
    "convolution of each": (jax.vmap(convolved, (0, None)), IMAGES, KERNELS[0]),
    "convolution by each": (lambda k, x: jax.vmap(convolved, (None, 0))(x, k), KERNELS, IMAGES[0]),
    "convolution of each by each": (jax.vmap(convolved), IMAGES, KERNELS),
    "convolution in groups": (jax.vmap(lambda x, k: convolved(x, k[:, :1], 2)), IMAGES, KERNELS),
    "convolution of one feature": (jax.vmap(jnp.convolve), X, Y),
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
    "stack": (jax.vmap(lambda v: jnp.stack([v[0] * v, v]) @ v), X),
    "stack behind": (lambda x: jnp.stack([x, x + 1], axis=2), X),
    "unstack": (lambda x: sum(jnp.unstack(x, axis=1)), X),
    "unstack before": (lambda m: jnp.unstack(m, axis=0)[0], M.transpose(1, 0, 2)),
    "tile": (lambda x: jnp.tile(x, (1, 2)), X),
    "pooling": (lambda x: pool(x, lax.max, -jnp.inf) + pool(x, lax.add, 0.0), X),
    "window of any function": (lambda x: pool(x, lambda a, b: jnp.tanh(a * b), 1.0), X),
    "pooling's derivative": (jax.vmap(jax.grad(lambda v: pool(v[None], lax.max, -jnp.inf).prod())), X),
    "pooling's tangent": (lambda x: jax.jvp(lambda x: pool(x, lax.max, -jnp.inf), (x,), (x**2,))[1], X),
    "reduction by any function": (lambda x: lax.reduce(x, 1.0, lambda a, b: a * b - a, (1,)), X),
    "approximate top k": (lambda x: lax.approx_max_k(x, 2)[0], X),
    "tridiagonal": (jax.vmap(tridiagonal), jnp.abs(X)),
    "householder": (lambda m: jnp.linalg.qr(m)[0], M),
    "schur": (lambda m: lax.linalg.schur(m)[0] + lax.linalg.hessenberg(m)[0], M),
    "map": (lambda x: lax.map(lambda v: v / jnp.sum(v), x), X),
    "callback": (lambda x: called(x, "broadcast_all"), X),
    "callback one by one": (lambda x: called(x, "sequential"), X),
    "device_put": (lambda x: jax.device_put(x), X),
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
    "merged": (lambda m: jnp.cumsum(m.reshape(9, 3), 0).reshape(3, 3, 3), M),
    "merged with another": (lambda m: m.transpose(1, 0, 2).reshape(9, 3).reshape(3, 3, 3), M),
    "convolution along": (lambda x: convolved(x.T[None], jnp.ones((3, 3, 3)))[0].T, X),
    "convolution over features": (lambda x: convolved(x[None], jnp.ones((3, 3, 3)))[0], X),
    "window": (lambda x: pool(x.T, lax.add, 0.0).T, X),
    "stack": (lambda x: jnp.stack([x[0], x[1], x[2]]), X),
    "tile": (lambda x: jnp.tile(x, (2, 1))[::2], X),
    "callback": (lambda x: jax.pure_callback(np.sort, x, x, vmap_method="sequential"), X),
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


AXIS = {"reshape from the right": 2, "transpose": 1, "unstack before": 1}


@pytest.mark.parametrize("name", APART)
def test_rows_that_keep_apart(name):
    fun, *args = APART[name]
    places = rows_apart(program(fun, *args), [(0, AXIS.get(name, 0))]).places
    assert places is not None
    if AXIS.get(name, 0) == 0 and args[0].dtype == X.dtype:
        for row in range(B):
            assert rows_changed(fun, args, places, row) == [row]


@pytest.mark.parametrize("name", MIXED)
def test_rows_that_are_mixed(name):
    fun, *args = MIXED[name]
    assert rows_apart(program(fun, *args), [(0, 0)]) == (None, None)


def test_which_inputs_have_the_rows():
    fun = lambda x, w, b, v, s: jnp.tanh(x @ w + b) * v[:, None] * s
    places = rows_apart(program(fun, X, X, V, V, 1.0), [(0, 0)]).places
    assert places == [(0,), (None,), (None,), (0,), (None,)]


def test_rows_of_two_axes():
    fun = lambda m, x, v, w: m * x[:, None, :] + (v[None, :] + w[:, None])[..., None]
    places = rows_apart(program(fun, M, X, V, V), [(0, 0), (0, 1)]).places
    assert places == [(0, 1), (0, None), (None, 0), (0, None)]


def unknown(x):
    primitive = jax.extend.core.Primitive("unknown")
    primitive.def_abstract_eval(lambda x: x)
    return primitive.bind(x)


def test_of_an_operation_that_cannot_be_read_it_is_not_known():
    places, eqn = rows_apart(program(unknown, X), [(0, 0)])
    assert places is None
    assert str(eqn.primitive) == "unknown"


@pytest.mark.parametrize(("spec", "places"), [(P(None, "a"), [(0,)]), (P("a"), None)], ids=str)
def test_shard_map(spec, places):
    """Rows keep apart where each device has them all."""
    parts = jax.shard_map(jnp.sin, mesh=mesh_of(AxisType.Auto, a=3), in_specs=spec, out_specs=spec)
    assert rows_apart(program(parts, X), [(0, 0)]).places == places


def test_what_it_makes_of_a_constant_does_not_matter():
    fun = lambda x, w: x * jnp.sum(unknown(w))
    assert rows_apart(program(fun, X, X), [(0, 0)]).places == [(0,), (None,)]


def test_rows_of_what_stays_as_it_is_may_be_mixed():
    fun = lambda x, w: x * w * jnp.cumsum(jnp.sin(w), 0)
    closed = program(fun, X, X)
    assert rows_apart(closed, [(0, 0)]) == (None, None)
    assert rows_apart(closed, [(0, 0)], (False, True)).places == [(0,), (None,)]


@pytest.mark.parametrize("repeat", ["scan", "while", "cond"])
def test_what_is_made_of_rows_does_not_stay_as_it_is(repeat):
    """A carry that starts as a constant, and a branch of constants, are mixed after all."""

    def fun(x, w):
        if repeat == "cond":
            w = lax.cond(w[0, 0] > 0, lambda x, w: x, lambda x, w: w, x, w)
        elif repeat == "scan":
            w = lax.scan(lambda w, _: (w + x, None), w, None, 2)[0]
        else:
            w = lax.while_loop(lambda w: w[0, 0] < 0, lambda w: w + x, w)
        return x * jnp.cumsum(w, 0)

    assert rows_apart(program(fun, X, X), [(0, 0)], (False, True)) == (None, None)


UNKNOWN = {
    "references are not followed": ("free_ref", "freeze", "get", "new_ref", "swap", "addupdate"),
    "JAX has no vmap of it": ("check", "rng_uniform", "spsolve"),
    "JAX makes it where it linearizes, for itself": ("call_hi_primitive_linearized",),
    "it has no operand that has examples": (
        *("after_all", "axis_index", "create_token", "empty", "empty2", "iota"),
        *("iota_2x32_shape", "zeros_like"),
    ),
    "it has no output": ("dce_sink", "debug_callback", "debug_print", "inspect_sharding"),
}
"""Why a primitive that our rules know is in no table here."""


@pytest.mark.parametrize("place", primitives.own_primitives())
def test_every_primitive_with_a_rule_is_known(place):
    primitive = primitives.own_primitives()[place]
    if primitives.kind_of(place, primitive) not in ("own rule", "zero by nature"):
        return
    known = primitive in {**LINKS, **CALLS} or primitive.name in SPARSE or is_elementwise(primitive)
    known = known or implementation_of(primitive) is not None or primitive is hi_call_p
    reasons = [why for why, names in UNKNOWN.items() if primitive.name in names]
    assert known or reasons, f"{primitive}: {reasons or 'neither known nor a reason'}"


def test_every_primitive_is_one():
    assert None not in LINKS
    assert None not in CALLS
