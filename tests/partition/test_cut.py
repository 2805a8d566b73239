"""The cut is minimal (against trying every subset), and replaying from it gives the same values."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.csgraph

import funcgrad
from funcgrad import _jax
from funcgrad.partition import cut, plan
from funcgrad.partition.costs import CHEAP_ONLY
from funcgrad.partition.plan import equations_between
from tests.counts import calls_made, lines_run


def random_program(seed, length=7):
    """A jaxpr of cheap and costly operations on arrays of two sizes, and some of its variables."""
    rng = np.random.default_rng(seed)

    def fun(x, y):
        values = [x, y]
        for _ in range(length):
            a, b = (values[i] for i in rng.integers(0, len(values), 2))
            kind = rng.integers(0, 5)
            if kind == 0:
                values.append(jnp.tanh(a))
            elif kind == 1:
                values.append(a * b if a.shape == b.shape else jnp.sum(a) * b)
            elif kind == 2:
                values.append(a > 0.5)
            elif kind == 3:
                values.append(a.astype(jnp.float32) + 1)
            else:
                values.append(jnp.concatenate([a.astype(jnp.float32)] * 2))
        return values

    closed = jax.make_jaxpr(fun)(jnp.ones(3), jnp.ones(3))
    produced = [v for eqn in closed.jaxpr.eqns for v in eqn.outvars]
    targets = [produced[i] for i in sorted(set(rng.integers(0, len(produced), 3)))]
    return closed.jaxpr, targets


def variables(jaxpr):
    return [*jaxpr.invars, *(v for eqn in jaxpr.eqns for v in eqn.outvars)]


def size(v):
    return v.aval.size * v.aval.dtype.itemsize + 1


@pytest.mark.parametrize("seed", range(12))
def test_no_subset_is_cheaper(seed):
    jaxpr, targets = random_program(seed)
    free = [jaxpr.invars[0]]
    kept = cut.minimum_cut(jaxpr.eqns, targets, dict.fromkeys(free, 0))
    known = {*kept, *free}
    equations_between(jaxpr.eqns, known, targets)  # raises KeyError if they do not lead there
    assert all(CHEAP_ONLY.of(e) == 0 for e in equations_between(jaxpr.eqns, known, targets))
    cost = sum(size(v) for v in kept if v not in free)
    candidates = [v for v in variables(jaxpr) if v not in free]
    for count in range(min(4, len(candidates))):
        for subset in itertools.combinations(candidates, count):
            if sum(map(size, subset)) < cost:
                assert not reaches(jaxpr, {*subset, *free}, targets), f"{subset} beats {kept}"


def reaches(jaxpr, start, targets):
    known = set(start)
    for eqn in jaxpr.eqns:
        inputs = [v for v in eqn.invars if not _jax.is_literal(v)]
        if CHEAP_ONLY.of(eqn) == 0 and all(v in known for v in inputs):
            known.update(eqn.outvars)
    return all(v in known for v in targets)


def test_what_depends_on_constants_alone_is_kept_once():
    def fun(w, xs):
        def step(c, x):
            return jnp.tanh(jnp.exp(w) * c + x), c

        return jax.lax.scan(step, xs[0], xs)

    _, pullback = funcgrad.vjp(fun, jnp.ones(4), jnp.ones((9, 4)))
    shapes = [r.shape for r in pullback.residuals]
    assert shapes.count((9, 4)) <= 3, "exp(w) was stacked"


@pytest.mark.parametrize(
    ("elements", "stacks"), [(1000, 2), (400_000, 1)], ids=["16 MB at most", "more"]
)
def test_a_quotient_is_computed_again_where_many_bytes_are_kept(elements, stacks):
    def fun(c, xs):
        return jax.lax.scan(lambda c, x: (x + 1.0 / (c * c + 1.0), None), c, xs)[0]

    shapes = jax.ShapeDtypeStruct((elements,), jnp.float32), jax.ShapeDtypeStruct((9,), jnp.float32)
    pullback = jax.eval_shape(lambda *args: funcgrad.vjp(fun, *args)[1], *shapes)
    assert sum(leaf.shape == (9, elements) for leaf in jax.tree.leaves(pullback)) == stacks


def test_masks_are_kept_as_booleans():
    def fun(c, xs):
        return jax.lax.scan(lambda c, x: (jnp.where(c * x > 0.1, jnp.sin(c), 2 * x), None), c, xs)[
            0
        ]

    _, pullback = funcgrad.vjp(fun, jnp.ones(4), jnp.ones((9, 4)))
    kinds = {(r.shape, r.dtype.name) for r in pullback.residuals}
    assert len([k for k in kinds if k == ((9, 4), "float32")]) <= 1


def long_body(steps):
    """A body of four equations a step, as its equations and every third of their variables."""

    def body(c, x):
        for _ in range(steps):
            c = jnp.tanh(c) * x + c * 0.5
        return c

    eqns = jax.make_jaxpr(body)(1.0, 1.0).jaxpr.eqns
    return eqns, [e.outvars[0] for e in eqns[::3]]


def test_the_work_of_a_cut_is_in_proportion_to_the_body():
    """Measured: 42 lines and 30 to 33 calls an equation at each length, 0.04 s in all for 4,800."""
    short, long = long_body(150), long_body(1200)
    assert len(long[0]) > 4000
    assert cut.minimum_cut(*long, {})
    for count, most in ((lines_run, 84), (calls_made, 66)):
        each = [
            count(lambda body=body: cut.minimum_cut(*body, {})) / len(body[0])
            for body in (short, long)
        ]
        assert each[1] <= 1.1 * each[0], count.__name__
        assert each[1] <= most, count.__name__


def test_the_graph_of_a_cut_is_in_proportion_to_the_body(monkeypatch):
    """What SciPy is given, once: two nodes and at most four edges an equation."""
    graphs = []
    maximum_flow = scipy.sparse.csgraph.maximum_flow

    def observed(graph, *args):
        graphs.append(graph)
        return maximum_flow(graph, *args)

    monkeypatch.setattr(scipy.sparse.csgraph, "maximum_flow", observed)
    eqns, targets = long_body(1200)
    cut.minimum_cut(eqns, targets, {})
    (graph,) = graphs
    assert graph.shape[0] <= 2 * len(eqns) + 6
    assert graph.nnz <= 4 * len(eqns)


TWO = {
    "scatter": lambda x: (jnp.sqrt(x), x.at[jnp.array([0])].min(0.5)),
    "clip": lambda x: (jnp.sqrt(x), jnp.clip(jnp.sin(x), -0.5, 0.5)),
    "sort": lambda x: (jnp.sqrt(x), jnp.sort(jnp.exp(x))),
    "maximum of two": lambda x: (jnp.sqrt(x), jnp.maximum(x, jnp.sin(x)) + jnp.minimum(x, 0.2)),
}


@pytest.mark.parametrize("fun", TWO.values(), ids=TWO)
def test_the_equations_before_the_cotangents_are_the_same_for_each_pattern(fun) -> None:
    """Else a pattern does not find what was kept for another one."""
    split = funcgrad.extend.split_of(jax.make_jaxpr(fun)(jnp.ones(3)), (True,), funcgrad.DEFAULT)
    whole = plan.joint_of(split)
    before = whole.equations[len(split.forward.closed.jaxpr.eqns) :]
    assert len({plan.meaning(eqn) for eqn in before}) == len(before)
    for arrived in ((True, False), (False, True)):
        part = plan.joint_of_pattern(split, split.backward(arrived), whole)
        assert part.equations == whole.equations
