"""A training step on a mesh: parameters, optimiser state and batches with shardings of several kinds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks import chips

OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))


@dataclass(frozen=True)
class Layout:
    """Where parameters and batches lie.

    Attributes:
      sizes: of the mesh's axes, by name.
      specs: of the parameters.
      read: of the parameters as the loss reads them, where that is another.
      kind: of the axes.
    """

    sizes: dict[str, int]
    specs: dict[str, P]
    read: dict[str, P] = field(default_factory=dict)
    kind: AxisType = AxisType.Auto

    @property
    def mesh(self) -> Mesh:
        return jax.make_mesh(
            tuple(self.sizes.values()), tuple(self.sizes), axis_types=(self.kind,) * len(self.sizes)
        )


DATA = {"data": 8}
BOTH = {"data": 4, "model": 2}
WHOLE = {"w": P(None, None), "b": P(None), "v": P(None, None)}
FSDP = {"w": P("data", None), "b": P(None), "v": P("data", None)}
TENSOR = {"w": P(None, "model"), "b": P("model"), "v": P("model", None)}
ALL = {"w": P("data", "model"), "b": P("model"), "v": P("model", "data")}
REDUCED = {
    "w": P(None, None, reduced={"data"}),
    "b": P(None),  # an addition takes none that is reduced
    "v": P(None, None, reduced={"data"}),
}
LAYOUTS = {
    "data": Layout(DATA, WHOLE),
    "fsdp": Layout(DATA, FSDP),
    "tensor": Layout(BOTH, TENSOR),
    "tensor, fsdp": Layout(BOTH, ALL),
    "data, explicit": Layout(DATA, WHOLE, kind=AxisType.Explicit),
    "fsdp, explicit": Layout(DATA, FSDP, kind=AxisType.Explicit),
    "tensor, explicit": Layout(BOTH, TENSOR, kind=AxisType.Explicit),
    "reduced": Layout(DATA, WHOLE, REDUCED, AxisType.Explicit),
    "fsdp, reduced": Layout(DATA, FSDP, REDUCED, AxisType.Explicit),
}


def loss(params: dict[str, Array], x: Array, y: Array, out: P | None = None) -> Array:
    h = jnp.tanh(x @ params["w"] + params["b"])
    return jnp.mean((jnp.matmul(h, params["v"], out_sharding=out) - y) ** 2)


def step_of(value_and_grad: Callable[..., Any], layout: Layout) -> Callable[..., Any]:
    """A step that returns its gradient and the loss as well.

    Where the loss reads reduced parameters, their gradient is unreduced: the sum over devices is made
    when the gradient is brought to the parameters' sharding.
    """
    named = "model" in layout.sizes and layout.kind is AxisType.Explicit
    gradient_of = value_and_grad(lambda *args: loss(*args, out=P("data") if named else None))

    def step(params: Any, state: Any, x: Array, y: Array) -> Any:
        read = (
            {name: jax.sharding.reshard(p, layout.read[name]) for name, p in params.items()}
            if layout.read
            else params
        )
        value, ct_params = gradient_of(read, x, y)
        if layout.read:
            ct_params = {
                name: jax.sharding.reshard(ct, layout.specs[name]) for name, ct in ct_params.items()
            }
        updates, state = OPTIMIZER.update(ct_params, state, params)
        return optax.apply_updates(params, updates), state, ct_params, value

    return step


def make_args(layout: Layout) -> Any:
    """Parameters, state and a batch on the layout's mesh, which must be set."""
    rng = np.random.default_rng(0)
    mesh = layout.mesh

    def put(spec: P, *shape: int) -> Array:
        x = rng.standard_normal(shape).astype(np.float32) / shape[0] ** 0.5
        return jax.device_put(x, NamedSharding(mesh, spec))

    shapes = {"w": (16, 32), "b": (32,), "v": (32, 8)}
    params = {name: put(layout.specs[name], *shape) for name, shape in shapes.items()}
    batch = put(P("data", None), 32, 16), put(P("data", None), 32, 8)
    return params, jax.jit(OPTIMIZER.init)(params), *batch


def collectives(compiled: Any) -> dict[str, int]:
    """How often collectives of each kind run in a compiled program."""
    return chips.collectives(compiled.as_text()).runs
