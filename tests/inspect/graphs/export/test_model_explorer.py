"""Model Explorer's JSON, by the fields of its own dataclasses (ai-edge-model-explorer 0.1.34)."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp

from funcgrad.inspect import graph
from tests.inspect.graphs import models
from tests.inspect.graphs.models import W, X

FIELDS = {
    "collection": {"label": str, "graphs": list, "graphSorting": str},
    "graph": {"id": str, "nodes": list},
    "node": {
        "id": str, "label": str, "namespace": str, "subgraphIds": list, "attrs": list,
        "incomingEdges": list, "outputsMetadata": list,
    },
    "edge": {"sourceNodeId": str, "sourceNodeOutputId": str, "targetNodeInputId": str},
    "metadata": {"id": str, "attrs": list},
    "pair": {"key": str, "value": str},
}  # fmt: skip


def check(kind, found):
    """Only fields that are known, each of its type."""
    for name, value in found.items():
        assert isinstance(value, FIELDS[kind][name]), (kind, name, value)


def test_fields_and_ids():
    known = json.loads(graph(models.recurrent, W, X).to_model_explorer())
    check("collection", known)
    graphs = {each["id"] for each in known["graphs"]}
    for each in known["graphs"]:
        check("graph", each)
        ids = [node["id"] for node in each["nodes"]]
        assert len(ids) == len(set(ids))
        for node in each["nodes"]:
            check("node", node)
            assert set(node.get("subgraphIds", ())) <= graphs
            for pair in node.get("attrs", ()):
                check("pair", pair)
            for edge in node.get("incomingEdges", ()):
                check("edge", edge)
                assert edge["sourceNodeId"] in ids
            for output in node.get("outputsMetadata", ()):
                check("metadata", output)
                assert all(check("pair", pair) is None for pair in output["attrs"])


def test_namespaces_attributes_and_edges():
    def fun(x):
        with jax.named_scope("outer"), jax.named_scope("inner"):
            return jnp.tanh(x) * x

    (known,) = json.loads(graph(fun, X).to_model_explorer())["graphs"]
    by_label = {node["label"]: node for node in known["nodes"]}
    tanh, product = by_label["tanh"], by_label["mul"]
    assert tanh["namespace"] == "outer/inner"
    attributes = {pair["key"]: pair["value"] for pair in tanh["attrs"]}
    assert attributes["mathematics"] == "y = tanh(x);  x̄ = ȳ (1 - y²)"
    sources = [edge["sourceNodeId"] for edge in product["incomingEdges"]]
    assert sources == [tanh["id"], by_label["x"]["id"]]
