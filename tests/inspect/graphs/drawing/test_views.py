"""The views of a graph draw everything once, stay small, and have no circles."""

import graphlib
import time
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcgrad.inspect.graphs.drawing.same import Value, values_of
from funcgrad.inspect.graphs.drawing.views import LIMIT, views_of
from tests.inspect.graphs import pictured


@pytest.fixture(params=pictured.PICTURED, ids=lambda make: make.__name__)
def graph(request):
    return request.param()


def does_nothing(node):
    """Whether a call has no operation inside."""
    return bool(node.graphs) and not any(list(inner.walk()) for inner in node.graphs)


def literals(graph):
    """Literals, and what a call by jit is given that is one."""
    found = {t for t in graph.all_tensors() if t.kind == "literal"}
    for inner in graph.graphs():
        if inner.kind == "jit":
            found |= {given for operand, given in inner.entering() if operand in found}
    return found


def test_each_operation_is_drawn_in_one_view(graph):
    drawn = Counter(op for view in views_of(graph) for op in view.operations)
    assert set(drawn.values()) == {1}
    missing = set(graph.walk()) - set(drawn)
    assert all(does_nothing(node) for node in missing)


def test_each_value_has_one_view_of_its_own(graph):
    shown = [shown for view in views_of(graph) for shown in view.shown]
    own = [one for one in shown if not (one.is_entering or one.is_leaving)]
    values = [value for one in own for value in one.values]
    homes = Counter(t for value in values for t in (value.tensor, *value.inside))
    assert set(homes.values()) == {1}
    wanted = {*graph.all_tensors()} - literals(graph) | {*graph.results}
    assert {t for t in homes if t.kind != "literal"} | {*graph.results} == wanted


def test_no_view_is_larger_than_the_limit(graph):
    assert all(len(view.drawn) + len(view.shown) <= LIMIT for view in views_of(graph))


def test_no_view_has_a_circle(graph):
    for view in views_of(graph):
        sorter = graphlib.TopologicalSorter()
        for edge in view.edges:
            sorter.add(edge.target, edge.source)
        list(sorter.static_order())


def test_edges_are_those_of_the_graph(graph):
    """Each use of a value by an operation is an edge of the view that draws the operation."""
    nodes, unseen = {*graph.walk()}, literals(graph)
    for view in views_of(graph):
        edges = {(edge.source, edge.target) for edge in view.edges}
        keys = {t: s.key for s in view.shown for v in s.values for t in (v.tensor, *v.inside)}
        for node in view.drawn:
            if node in nodes:
                read = {(keys[t], view.key(node)) for t in node.inputs if t in keys}
                made = {(view.key(node), keys[t]) for t in node.outputs}
                assert read | made == {ends for ends in edges if view.key(node) in ends}
                assert all(t in keys or t in unseen for t in node.inputs)


def test_weights_are_inside_their_layers():
    views = views_of(pictured.transformer())
    layer = next(view for view in views if view.name == "layer_3")
    inside = [view for view in views if layer in view.path]
    arguments = {t.name for view in inside for t in view.tensors if t.kind == "argument"}
    assert all("['layer_3']" in name for name in arguments)
    assert len(arguments) == 4 + 8 + 4  # two layer norms, attention, two dense layers


def test_a_transformer_is_its_layers():
    top, *_ = views_of(pictured.transformer())
    names = [item.name for item in top.views]
    assert [name for name in names if name.startswith("layer")] == [f"layer_{i}" for i in range(12)]
    assert top.frames[0].group.name == "Transformer"


def test_a_function_used_under_one_scope_twice_is_two_groups():
    def fun(x):
        for _ in range(2):
            with jax.named_scope("same"):
                x = jnp.sin(jnp.cos(x))
            x = x + 1
        return x

    (view,) = views_of(pictured.graph(fun, np.ones(3)))
    assert [frame.group.name for frame in view.frames] == ["same", "same"]


def test_an_operand_and_the_value_inside_a_jit_are_one():
    graph = pictured.graph(jax.jit(lambda x: jnp.sin(x)), np.ones(3))
    inner = graph.nodes[0].graphs[0]
    x, y = values_of(graph)
    assert (x.tensor, x.inside) == (graph.inputs[0], inner.inputs)
    assert (y.tensor, y.inside) == (graph.results[0], inner.results)
    assert [op.op.name for op, _, _ in x.readers] == [y.maker.op.name] == ["sin"]


def test_values_inside_a_scan_are_others():
    graph = pictured.loops()
    inner = [v for v in values_of(graph) if isinstance(v, Value) and v.inside]
    assert not inner


def test_50_000_operations_take_seconds():
    graph = pictured.chain(26_930)
    start = time.process_time()
    views = views_of(graph)
    assert time.process_time() - start < 15
    assert len(graph.nodes) > 50_000
    assert len(views[0].drawn) + len(views[0].shown) <= LIMIT
    assert max(len(view.path) for view in views) <= 5
