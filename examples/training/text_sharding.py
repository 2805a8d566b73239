"""Where the text transformer's arrays lie on a mesh of devices, and what the devices exchange."""

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")
ROWS = PartitionSpec(("data", "fsdp"))
"""A batch is divided by its examples, among all devices that have the same part of a layer's width."""
WIDER, NARROWER = PartitionSpec(None, "fsdp", "tensor"), PartitionSpec(None, "tensor", "fsdp")
WHOLE = PartitionSpec()
SPECS = {
    "query.kernel": WIDER,
    "key.kernel": WIDER,
    "value.kernel": WIDER,
    "up.kernel": WIDER,
    "join.kernel": NARROWER,
    "down.kernel": NARROWER,
    "token.embedding": PartitionSpec(None, "tensor"),
    "place.embedding": PartitionSpec(None, "tensor"),
    "out.kernel": PartitionSpec("fsdp", None),
    "out.bias": WHOLE,
    "norm.scale": WHOLE,
    "norm_attention.scale": WHOLE,
    "norm_perceptron.scale": WHOLE,
}
"""How each parameter is divided, by the last two words of its path. Layers' are stacked: axis 0."""
COLLECTIVES = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"


def mesh_of(shape: str) -> Mesh:
    """A mesh of the first devices, with the axes data, fsdp and tensor, from a text such as 2x2x2.

    Raises:
      SystemExit: if it is not three numbers, or there are fewer devices.
    """
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*x[1-9]\d*", shape):
        raise SystemExit(
            f"--mesh {shape}: give three numbers, of {' x '.join(AXES)}, such as 2x2x2."
        )
    sizes = tuple(int(size) for size in shape.split("x"))
    needed, devices = int(np.prod(sizes)), jax.devices()
    if needed > len(devices):
        raise SystemExit(f"--mesh {shape} needs {needed} devices; JAX has {len(devices)}.")
    kinds = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh(sizes, AXES, axis_types=kinds, devices=devices[:needed])


def shardings_of(state: Any, mesh: Mesh) -> Any:
    """The sharding of each array in a pytree of parameters and of what an optimizer keeps for them.

    Args:
      state: a pytree of arrays, or of their shapes. An array is known by the end of its path. Those
        that have no axes, such as the number of steps, are whole on every device.
      mesh: with the axes of `AXES`.

    Raises:
      KeyError: if an array has axes and is not in `SPECS`.
    """

    def sharding(path: Any, leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
        spec = SPECS[".".join(name.split(".")[-2:])] if leaf.ndim else WHOLE
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(sharding, state)


def by_rows(mesh: Mesh) -> Callable[[Any], Any]:
    """A wrapper of a layer, that keeps the values before and after it divided by examples.

    Without it XLA divides values as the weights are, which takes more communication.
    """

    def rows(x: jax.Array) -> jax.Array:
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, ROWS))

    return lambda layer: lambda params, x: rows(layer(params, rows(x)))


def spread(tokens: np.ndarray, mesh: Mesh) -> jax.Array:
    """A batch, int32 (batch, length), on the mesh; a process makes the parts of its own devices."""
    sharding = NamedSharding(mesh, ROWS)
    return jax.make_array_from_callback(tokens.shape, sharding, lambda index: tokens[index])


def collectives(program: Any) -> Counter[str]:
    """How many operations between devices a compiled program has, by their kind."""
    return Counter(re.findall(rf" ({COLLECTIVES})(?:-start)?\(", program.as_text()))
