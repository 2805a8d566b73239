"""Sums over the steps of a scan that are put off to its end."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import jaxprs_in_params
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import funcgrad
from benchmarks.chips import collectives
from tests.meshes import mesh_of
from tests.programs import check_program, normal

IDS = np.random.default_rng(0).integers(0, 30, (9, 2))
W, H, XS = 0.3 * normal(6, 6), normal(2, 6, seed=1), normal(9, 2, 6, seed=2)
WIDE = 0.3 * normal(16, 16)


def ends(scan):
    """A scalar of both of a scan's results."""
    carry, ys = scan
    return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves((carry, ys)))


def outer_products(w, h, xs, **how):
    def step(h, x):
        h = jnp.tanh(w @ h + x)
        return h, h**2

    return ends(lax.scan(step, h, xs, **how))


def rows(w, h, xs):
    return ends(lax.scan(lambda h, x: (jnp.tanh(h @ w + x), None), h, xs))


def inside_jit(w, h, xs):
    dense = jax.jit(lambda x, w: jnp.einsum("bi,ij->bj", x, w))
    return ends(lax.scan(lambda h, x: (jnp.tanh(dense(h, w) + x), h), h, xs))


def batches(w, h, xs):
    """A matrix for each example: the products have a batch axis."""
    return ends(lax.scan(lambda h, x: (jnp.tanh(jnp.einsum("bij,bj->bi", w, h)) + x, h), h, xs))


def twice_and_transposed(w, h, xs):
    return ends(lax.scan(lambda h, x: (jnp.tanh(h @ w + x @ w.T), h @ (2 * w)), h, xs))


def bias(w, h, xs, **how):
    """Both the weights and the bias read what is stacked for the weights; the old carry is given out."""
    return ends(lax.scan(lambda h, x: (jnp.tanh(h @ w + w[0] + x), h), h, xs, **how))


def concatenated(w, h, xs):
    """Weights that are put together inside the loop, as flax's LSTM does."""

    def step(h, x):
        into, out = jnp.split(h @ jnp.concatenate([w, w], axis=1), 2, axis=-1)
        return jnp.tanh(into + x) * jnp.tanh(out), h

    return ends(lax.scan(step, h, xs))


def embedding(table, w, h):
    return ends(lax.scan(lambda h, i: (jnp.tanh(h @ w + table[i]), h), h, IDS))


def embedding_at_fixed_places(table, w, h):
    return ends(lax.scan(lambda h, _: (jnp.tanh(h @ w + table[IDS[0]]), h), h, None, length=9))


def indexed(xs, w, h):
    """The loop's own index; the last ones are out of bounds and clamped."""
    body = lambda i, h: jnp.tanh(h @ w + lax.dynamic_slice(xs, (i, 0, 1), (1, 2, 6))[0])
    return ends((lax.fori_loop(0, 12, body, h), ()))


def nested(w, h, xs):
    def step(h, x):
        h, _ = lax.scan(lambda h, x: (jnp.tanh(h @ w + x), None), h, jnp.stack([x, 2 * x]))
        return h, h @ w

    return ends(lax.scan(step, h, xs))


def passed_on(w, h, xs):
    """A carry that is the x of the step before."""
    return ends(lax.scan(lambda h, x: (x, jnp.sin(h @ w) * x), h, xs))


def exchanged(w, h, xs):
    """Two carries change places, and one is given out."""

    def step(carry, x):
        h, k = carry
        return (jnp.tanh(k @ w) * k, jnp.sin(h) * h + x), (h, k)

    return ends(lax.scan(step, (h, 2 * h), xs))


PROGRAMS = {
    "outer products": (outer_products, WIDE, normal(16), normal(9, 16)),
    "outer products, reverse": (
        lambda *args: outer_products(*args, reverse=True),
        *(WIDE, normal(16), normal(9, 16)),
    ),
    "unroll": (lambda *args: outer_products(*args, unroll=2), WIDE, normal(16), normal(9, 16)),
    "rows": (rows, WIDE, normal(2, 16), normal(9, 2, 16)),
    "inside jit": (inside_jit, WIDE, normal(2, 16), normal(9, 2, 16)),
    "batches": (batches, 0.3 * normal(2, 16, 16), normal(2, 16), normal(9, 2, 16)),
    "concatenated": (concatenated, WIDE, normal(2, 16), normal(9, 2, 16)),
    "bias": (bias, WIDE, normal(2, 16), normal(9, 2, 16)),
    "embedding": (embedding, normal(30, 6), W, H),
    "embedding at fixed places": (embedding_at_fixed_places, normal(30, 6), W, H),
    "nested": (nested, WIDE, normal(2, 16), normal(9, 2, 16)),
    "twice and transposed": (twice_and_transposed, WIDE, normal(2, 16), normal(9, 2, 16)),
    "passed on": (passed_on, W, H, XS),
    "bias, reverse": (
        lambda *args: bias(*args, reverse=True),
        WIDE,
        normal(2, 16),
        normal(9, 2, 16),
    ),
    "bias, one step": (bias, WIDE, normal(2, 16), normal(1, 2, 16)),
    "bias, no step": (bias, WIDE, normal(2, 16), normal(0, 2, 16)),
    "exchanged": (exchanged, W, H, XS),
    "no step": (rows, WIDE, normal(2, 16), normal(0, 2, 16)),
    "one step": (rows, WIDE, normal(2, 16), normal(1, 2, 16)),
    "indexed": (indexed, normal(20, 2, 8), W, H),
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_gradient(program):
    check_program(*program)


def shapes_in_loops(jaxpr, inside=False):
    """The shapes of all values computed in the bodies of loops."""
    found = set()
    for eqn in jaxpr.eqns:
        if inside:
            found.update(v.aval.shape for v in eqn.outvars)
        for inner in jaxprs_in_params(eqn.params):
            found |= shapes_in_loops(inner, inside or eqn.primitive is lax.scan_p)
    return found


PUT_OFF = [
    "outer products",
    "rows",
    "inside jit",
    "batches",
    "bias",
    "concatenated",
    "embedding",
    "indexed",
]


@pytest.mark.parametrize("name", PUT_OFF)
def test_no_step_computes_the_cotangent_of_the_first_argument(name):
    fun, *args = PROGRAMS[name]
    shape = np.shape(args[0])
    of_ours, of_jax = (jax.make_jaxpr(grad(fun))(*args).jaxpr for grad in (funcgrad.grad, jax.grad))
    assert shape in shapes_in_loops(of_jax)
    assert shape not in shapes_in_loops(of_ours)


def test_what_must_be_stacked_is_smaller_than_what_is_added_up():
    """With more rows than columns it is cheaper to add up in the loop."""
    jaxpr = jax.make_jaxpr(funcgrad.grad(rows))(W, normal(50, 6), normal(9, 50, 6)).jaxpr
    assert (6, 6) in shapes_in_loops(jaxpr)


def temporary_bytes(fun, args):
    analysis = jax.jit(fun).lower(*args).compile().memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes


@pytest.mark.parametrize("fun", [rows, inside_jit, bias, nested])
def test_memory_stays_below_that_of_jax_grad(fun):
    args = [jnp.asarray(a, jnp.float32) for a in (W, H, normal(500, 2, 6))]
    args = jax.device_put(args, NamedSharding(mesh_of(a=1), P()))
    ours, reference = (
        temporary_bytes(grad(fun, (0, 1)), args) for grad in (funcgrad.grad, jax.grad)
    )
    assert ours <= 1.05 * reference


@pytest.mark.parametrize("placed", [True, False])
def test_rows_that_lie_on_several_devices_are_not_gathered(placed):
    """A recurrent network, each device with its part of the batch: they exchange the sums alone."""
    parted = NamedSharding(mesh_of(a=8), P(None, "a"))
    whole = NamedSharding(parted.mesh, P())
    shapes = (64, 64), (8, 64), (50, 8, 64)
    args = [jnp.asarray(0.1 * normal(*shape), jnp.float32) for shape in shapes]
    args = jax.device_put(args, [whole, whole, parted]) if placed else args
    programs = [
        jax.jit(grad(rows), in_shardings=(whole, whole, parted)).lower(*args).compile()
        for grad in (funcgrad.grad, jax.grad)
    ]
    np.testing.assert_allclose(*(program(*args) for program in programs), rtol=1e-4, atol=1e-4)
    ours, reference = (collectives(str(program.as_text())) for program in programs)
    assert {*ours.runs} == {"all-reduce"}
    assert ours.bytes <= reference.bytes
    assert (64, 64) not in shapes_in_loops(jax.make_jaxpr(funcgrad.grad(rows))(*args).jaxpr)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_sums_of_many_small_numbers_do_not_stop_growing(dtype):
    """In bfloat16, 256 + 1 is 256: the rows of an embedding are added up in float32."""

    def fun(table):
        step = lambda c, i: (c + jnp.tanh(table[i]).sum(), None)
        return lax.scan(step, dtype(0), jnp.full(2000, 3))[0]

    table = jnp.zeros((10_000, 2), dtype)
    found = funcgrad.grad(fun)(table)
    assert table.shape not in shapes_in_loops(jax.make_jaxpr(funcgrad.grad(fun))(table).jaxpr)
    np.testing.assert_allclose(np.asarray(found[3], np.float64), 2000, rtol=0.01)
    assert found.dtype == dtype
    assert not np.asarray(found[0]).any()


def test_effects_of_rules_stay_in_their_order(capsys):
    def product_vjp(ct, x, w, **params):
        jax.debug.print("{}", ct[0, 0], ordered=True)
        return ct @ w.T, x.T @ ct

    rules = funcgrad.DEFAULT.override({lax.dot_general_p: product_vjp})
    args = WIDE, normal(2, 16), normal(3, 2, 16)
    found = funcgrad.grad(rows, rules=rules)(*args)
    jax.effects_barrier()
    assert len(capsys.readouterr().out.split()) == 3
    np.testing.assert_allclose(found, jax.grad(rows)(*args), rtol=1e-5)
