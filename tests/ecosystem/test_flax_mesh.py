"""A flax nnx model on a mesh with explicit axes: gradients, their types and collectives."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import funcgrad
from tests.compare import assert_same
from tests.sharded_steps import collectives

nnx = pytest.importorskip("flax.nnx", reason="flax is not installed")
BY_DATA = PartitionSpec("data")


def divided(*axes: str | None) -> Any:
    """The argument of a layer by which its parameter is divided."""
    return nnx.with_partitioning(nnx.initializers.lecun_normal(), axes)


class Net(nnx.Module):
    """A table of words, a norm and a perceptron: by column, then by row."""

    def __init__(self, rngs: Any):
        self.table = nnx.Embed(12, 8, rngs=rngs, embedding_init=divided(None, "model"))
        self.norm = nnx.RMSNorm(8, rngs=rngs)
        self.up = nnx.Linear(8, 16, rngs=rngs, kernel_init=divided(None, "model"), use_bias=False)
        self.down = nnx.Linear(16, 4, rngs=rngs, kernel_init=divided("model", None))

    def __call__(self, tokens: Any, named: bool) -> Any:
        """The logits; the sharding of each product is named, or left to JAX."""
        spec = BY_DATA if named else None
        x = self.norm(self.table(tokens, out_sharding=spec))
        return self.down(nnx.gelu(self.up(x)), out_sharding=spec)


def setting(mesh: Any) -> tuple[Any, Any, Any]:
    """The graph, the parameters and tokens."""
    graph, params = nnx.split(Net(nnx.Rngs(0)), nnx.Param)
    tokens = np.arange(32, dtype=np.int32).reshape(8, 4) % 12
    return graph, params, jax.device_put(tokens, NamedSharding(mesh, BY_DATA))


@pytest.fixture
def mesh():
    kinds = (AxisType.Explicit,) * 2
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=kinds)
    with jax.set_mesh(mesh):
        yield mesh


def test_gradients_have_the_types_and_collectives_of_jax_grad(mesh):
    graph, params, tokens = setting(mesh)
    assert jax.typeof(params["down"]["kernel"][...]).sharding.spec == PartitionSpec("model", None)

    def loss(params, tokens):
        return jnp.mean(nnx.merge(graph, params)(tokens, named=True) ** 2)

    ours, reference = (
        jax.jit(by.value_and_grad(loss)).lower(params, tokens).compile() for by in (funcgrad, jax)
    )
    found, expected = ours(params, tokens), reference(params, tokens)
    assert_same(found, expected, rtol=1e-5)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert jax.typeof(x) == jax.typeof(y)
    counts, of_reference = collectives(ours), collectives(reference)
    assert all(count <= of_reference.get(kind, 0) for kind, count in counts.items())


def test_nnx_grad_within_as_jax_grad_is_the_same(mesh):
    graph, params, tokens = setting(mesh)
    model = nnx.merge(graph, params)
    gradient = nnx.jit(nnx.grad(lambda model: jnp.mean(model(tokens, named=True) ** 2)))
    expected = gradient(model)
    with funcgrad.as_jax_grad() as gradients:
        found = nnx.jit(nnx.grad(lambda model: jnp.mean(model(tokens, named=True) ** 2)))(model)
    assert gradients.count
    assert_same(nnx.to_pure_dict(found), nnx.to_pure_dict(expected), rtol=1e-5)


@pytest.mark.parametrize("by", [funcgrad, jax])
def test_a_product_over_a_divided_axis_wants_its_sharding_named_on_either_side(mesh, by):
    graph, params, tokens = setting(mesh)

    def loss(params):
        return jnp.sum(nnx.merge(graph, params)(tokens, named=False))

    with pytest.raises(Exception, match="out_sharding"):
        by.grad(loss)(params)
