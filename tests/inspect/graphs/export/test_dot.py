"""Graphviz's language: read back with a small parser of its statements."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp

from funcgrad.inspect import graph
from tests.inspect.graphs import models
from tests.inspect.graphs.models import W, X

STATEMENT = re.compile(
    r"^(digraph \"[^\"]*\" \{|subgraph cluster[_0-9]+ \{|label=\".*\";|\}|node \[.*\];"
    r"|[to]\d+ \[.*\];|[to]\d+ -> [to]\d+( \[style=dotted\])?;)$"
)


def statements(text):
    found = [line.strip() for line in text.splitlines()]
    assert all(STATEMENT.match(line) for line in found), found
    assert text.count("{") == text.count("}")
    return found


def test_every_value_and_operation_once_and_every_edge():
    found = graph(models.recurrent, W, X)
    lines = statements(found.to_dot())
    nodes = [line.split()[0] for line in lines if re.match(r"[to]\d+ \[", line)]
    expected = [f"t{t.index}" for t in found.all_tensors()] + [f"o{n.index}" for n in found.walk()]
    assert sorted(nodes) == sorted(expected)
    edges = {line.rstrip(";") for line in lines if "->" in line}
    for node in found.walk():
        assert all(f"t{tensor.index} -> o{node.index}" in edges for tensor in node.inputs)
        assert all(f"o{node.index} -> t{tensor.index}" in edges for tensor in node.outputs)


def test_scopes_and_calls_are_nested_clusters():
    def fun(x):
        with jax.named_scope("outer"), jax.named_scope("inner"):
            x = jnp.sin(x)
            return jax.jit(lambda x: jnp.cos(x))(x)

    lines = statements(graph(fun, X).to_dot())
    labels = [line for line in lines if line.startswith("label=")]
    assert labels == ['label="outer";', 'label="inner";', 'label="jit: <lambda>";']
    assert lines.index('label="inner";') < lines.index('o0 [shape=box, label="sin"];')


def test_text_is_quoted():
    found = graph(lambda params: params["a"] * 2, {"a": X})
    found.inputs[0].name = 'say "a"\\'
    assert r'label="say \"a\"\\\nf32[3]"' in found.to_dot()
