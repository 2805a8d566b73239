"""The numbers of a graph are those of the run: JAX's values, and its gradients by perturbations."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

import funcgrad
from funcgrad import at
from funcgrad.inspect import graph
from tests.inspect.graphs import models
from tests.inspect.graphs.models import STEPS, W, X
from tests.meshes import mesh_of, sharded


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def made_by(found, op, number=0):
    """The first output of the operation of this name."""
    return found.find(at(op=op)).nodes[number].outputs[0]


def test_values_and_gradients_of_arguments():
    found = graph(models.lecture, 0.5, 2.0)
    w, x = found.inputs
    expected = jax.grad(models.lecture, (0, 1))(0.5, 2.0)
    close([w.gradient, x.gradient], expected)
    close(found.results[0].value, models.lecture(0.5, 2.0))
    close(found.results[0].gradient, 1.0)
    assert not found.note


def test_each_reader_of_a_value_adds_its_part():
    found = graph(models.twice, X)
    h = made_by(found, "sin")
    close(h.value, jnp.sin(X))
    close(h.gradient, jax.grad(models.twice, 2)(X, None, jnp.zeros(3)))
    by_reader = {one.reader.op.name: one.gradient for one in h.contributions}
    at_uses = jax.grad(models.twice, 1)(X, (jnp.zeros(3), jnp.zeros(3)))
    close(by_reader["mul"], at_uses[0])
    close(by_reader["exp"], at_uses[1])


def test_what_the_function_returns_is_a_contribution_too():
    def fun(x):
        h = jnp.sin(x)
        return h, jnp.exp(h)

    found = graph(fun, X)
    returned, read = made_by(found, "sin").contributions
    assert returned.reader is None
    close(returned.gradient, jnp.ones(3))
    close(read.gradient, jnp.exp(jnp.sin(X)))


def test_in_a_scan_the_first_axis_is_the_step():
    found = graph(models.recurrent, W, X)
    h = made_by(found, "tanh")
    assert h.steps == 1
    assert h.shape == (3,)
    noise = jnp.zeros((STEPS, 3))
    close(h.gradient, jax.grad(models.recurrent, 2)(W, X, noise))
    carry, expected = X, []
    for w in W:
        carry = jnp.tanh(w @ carry)
        expected.append(carry)
    close(h.value, jnp.stack(expected))


def test_in_a_while_loop_it_is_the_last_step():
    found = graph(models.looped, X)
    doubled = made_by(found, "mul")
    y = X
    for _ in range(3):
        y = jnp.sin(y) * 2.0
    close(doubled.value, y)
    close(doubled.gradient, jnp.ones(3))  # the result is the sum
    (sine,) = found.find(at(op="sin")).values
    close(sine.gradient, jnp.full(3, 2.0))
    unrolled = lambda x: (jnp.sin(jnp.sin(jnp.sin(x) * 2) * 2) * 2).sum()
    close(found.inputs[0].gradient, jax.grad(unrolled)(X))
    assert bool(doubled.present)


def test_a_loop_without_steps_has_no_numbers_inside():
    found = graph(lambda x: models.looped(x, count=0), X)
    doubled = made_by(found, "mul")
    assert doubled.value is None
    assert not doubled.present.any()
    assert not doubled.maker.is_pulled


@pytest.mark.parametrize(("taken", "other", "x"), [("sin", "cos", X), ("cos", "sin", -X)])
def test_a_branch_that_is_not_taken_has_no_numbers(taken, other, x):
    found = graph(models.branched, x)
    value, absent = made_by(found, taken), made_by(found, other)
    close(value.value, getattr(jnp, taken)(x))
    assert absent.value is None
    assert absent.gradient is None
    if taken == "sin":
        close(value.gradient, jax.grad(models.branched, 1)(x, jnp.zeros(3)))


@pytest.mark.parametrize("fun", [models.checkpointed, models.jitted])
def test_inside_calls(fun):
    sine = made_by(graph(fun, X), "sin")
    close(sine.value, jnp.sin(X))
    close(sine.gradient, jax.grad(fun, 1)(X, jnp.zeros(3)))


def test_a_branch_inside_a_scan_is_known_for_the_steps_in_which_it_is_taken():
    def fun(xs):
        def step(carry, x):
            return carry + lax.cond(x > 0, jnp.sin, jnp.cos, x), None

        return lax.scan(step, 0.0, xs)[0]

    sine = made_by(graph(fun, X), "sin")
    np.testing.assert_array_equal(sine.present, X > 0)
    close(sine.value[:2], jnp.sin(X[:2]))


def test_cotangents_of_ones_own():
    fun = lambda x: {"a": jnp.sin(x), "n": 3}
    cts = {"a": jnp.array([1.0, 2.0, 3.0]), "n": np.zeros((), jax.dtypes.float0)}
    found = graph(fun, X, cts=cts)
    _, pullback = jax.vjp(fun, X)
    close(found.inputs[0].gradient, pullback(cts)[0])
    with pytest.raises(funcgrad.errors.CotangentError):
        graph(fun, X, cts=cts["a"])


def test_overrides_have_their_gradients():
    def triple_vjp(ct, x, *, out, **_):
        return 3 * ct

    rules = funcgrad.DEFAULT.override({jnp.sin: triple_vjp, jax.nn.softmax: triple_vjp})
    rules = rules.override({lax.cos_p: triple_vjp}, at=at("there"))

    def fun(x):
        with jax.named_scope("there"):
            y = jnp.cos(jnp.sin(x))
        return jnp.cos(jax.nn.softmax(y)).sum()

    found = graph(fun, X, rules=rules)
    last = made_by(found, "cos", 1)
    # three overridden operations, each with slope 3, before the last cos
    close(found.inputs[0].gradient, 27 * -jnp.sin(last.maker.inputs[0].value))
    names = {node.op.name: node.op.formula for node in found.nodes}
    assert all("3 * ct" in names[name] for name in ("sin", "softmax"))
    by_place, everywhere = (node.op for node in found.find(at(op="cos")))
    assert "3 * ct" in by_place.formula
    assert "3 * ct" not in everywhere.formula
    assert not by_place.mathematics
    assert everywhere.mathematics


def test_abstract_arguments_have_structure_alone():
    struct = jax.ShapeDtypeStruct((3,), jnp.float32)
    found = graph(models.twice, struct)
    assert all(t.value is None for t in found.tensors if t.kind != "literal")
    assert "abstract" in found.note
    assert [node.op.name for node in found.nodes if node.is_pulled]


def test_under_jit_there_is_structure_alone():
    notes = []
    jax.jit(lambda x: notes.append(graph(models.twice, x).note) or x)(X)
    assert "abstract" in notes[0]


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap])
def test_a_function_that_reads_what_is_traced_around_it_is_not_run(transform):
    """By its closure, or only as the cotangent."""
    found = []

    def around(y):
        found.append(graph(lambda x: jnp.sum(jnp.sin(x) * y), X))
        found.append(graph(jnp.sin, np.ones(3, np.float32), cts=y))
        return y

    transform(around)(X)
    for one in found:
        assert "that JAX traces" in one.note
        assert [tensor.value for tensor in one.inputs] == [None]


def test_under_jit_a_function_of_arrays_is_not_run_either():
    notes = []
    jax.jit(lambda y: notes.append(graph(models.twice, X).note) or y)(X)
    assert "that JAX traces" in notes[0]


def test_values_can_be_limited():
    assert graph(models.twice, X, values=False).inputs[0].value is None
    small = graph(lambda x: jnp.sum(jnp.sin(x)), jnp.ones(100), values=100)
    assert small.results[0].value is not None
    assert small.inputs[0].value is None
    assert "2 largest of 3" in small.note


def test_a_function_of_very_many_operations_is_not_run_unasked(monkeypatch):
    monkeypatch.setattr("funcgrad.inspect.graphs.values.MOST_OPERATIONS", 3)
    found = graph(models.twice, X)
    assert found.inputs[0].value is None
    assert "more than 3" in found.note
    assert graph(models.twice, X, values=True).inputs[0].value is not None


def test_a_reference_is_not_written_to():
    ref = jax.new_ref(jnp.ones(3))

    def fun(ref, x):
        ref[...] = x * 2
        return x.sum()

    found = graph(fun, ref, X)
    assert "reference" in found.note
    np.testing.assert_array_equal(ref[...], jnp.ones(3))


def test_sharded_arrays_on_eight_devices():
    mesh = mesh_of(i=8)
    x = jax.device_put(jnp.arange(16.0), NamedSharding(mesh, PartitionSpec("i")))
    sine = made_by(graph(lambda x: jnp.sum(jnp.exp(jnp.sin(x))), x), "sin")
    close(sine.gradient, jnp.exp(jnp.sin(jnp.arange(16.0))))
    assert sine.value.sharding.num_devices == 8


def of_reference(x):
    ref = jax.new_ref(jnp.zeros(3))
    ref[...] += jnp.sin(x)
    return (ref[...] ** 2).sum()


def of_shards(x):
    body = sharded(jnp.sin, PartitionSpec("i"), PartitionSpec("i"))
    return (body(jnp.tile(x, 4)) ** 2).sum()


MATRIX = 3 * jnp.eye(3) + 0.1


@pytest.mark.parametrize(
    "fun",
    [
        lambda x: x.sum(),
        lambda x: (jnp.linalg.solve(MATRIX, x) ** 2).sum(),
        lambda x: jnp.abs(jnp.fft.fft(x)).sum(),
        lambda x: jnp.linalg.svd(MATRIX * x)[1].sum(),
        lambda x: lax.top_k(x, 2)[0].sum(),
        lambda x: jax.grad(lambda y: (jnp.sin(y) ** 2).sum())(x).sum(),
        lambda x: jax.vmap(lambda v: lax.scan(lambda c, _: (jnp.sin(c), None), v, None, 3)[0])(
            x
        ).sum(),
        of_reference,
        of_shards,
    ],
    ids=["nothing", "solve", "complex", "svd", "top_k", "grad", "vmap", "reference", "shard_map"],
)
def test_gradients_of_other_functions(fun):
    found = graph(fun, X)
    np.testing.assert_allclose(found.inputs[0].gradient, jax.grad(fun)(X), rtol=1e-4, atol=1e-5)
    assert found.to_json()
    assert all(map(str, found.backward(inside=True)))


@pytest.mark.parametrize(
    ("fun", "args"),
    [(lambda: jnp.sin(1.0), ()), (lambda x: 3.0, (X,)), (lambda n: n * 2, (jnp.arange(3),))],
    ids=["no argument", "a constant", "integers"],
)
def test_where_there_is_no_gradient(fun, args):
    found = graph(fun, *args)
    assert all(tensor.gradient is None for tensor in found.inputs)
    assert not [*found.backward()]


def test_the_function_runs_once():
    runs = []

    def fun(x):
        jax.debug.callback(lambda: runs.append(1))
        return jnp.sin(x).sum()

    graph(fun, X)
    jax.effects_barrier()
    assert len(runs) == 1
