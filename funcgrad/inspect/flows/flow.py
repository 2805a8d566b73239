"""The flow of one run: numbers of each layer, as a pytree of five small arrays."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcgrad import _jax, errors
from funcgrad.inspect.flows.flags import KINDS, Flag, Row, Thresholds, flags_of
from funcgrad.inspect.flows.measures import Part, moments_by_row, norms
from funcgrad.inspect.flows.parameters import Parameter
from funcgrad.inspect.flows.table import table


@dataclass(frozen=True)
class Layer:
    """A layer: one row, or one row for each step of the scans around it.

    Attributes:
      rows: the names of its rows.
      steps: of the rows, the numbers of the steps that they are.
      order: by which its rows are sorted among all.
      where: a line that it comes from, in words.
      size: how many elements its value has; 0 if it has no value.
      parameters: the parameters that belong to it.
    """

    rows: tuple[str, ...]
    steps: tuple[int, ...]
    order: tuple[tuple[float, ...], ...]
    where: str
    size: int
    parameters: tuple[Parameter, ...]


@dataclass(frozen=True)
class Flow:
    """By layer, numbers of values, cotangents, parameters and their gradients; printed, a table.

    A pytree of small arrays: it can leave a ``jit``, be stacked, and be summed up. Made by
    :func:`funcgrad.inspect.flow` and :func:`funcgrad.inspect.value_grad_and_flow`.

    Attributes:
      values: of what leaves each layer norm, mean, share of zeros, and whether there is such a value.
      cotangents: the same of the cotangents there.
      gradients: the same of the gradients of the layer's parameters.
      weights: of the parameters norm, and whether there are any.
      updates: the same of their updates; None if none were given.
      shares: share of dead units, whether it is known, share of saturated results, whether it is known.
      layers: the layers, whose rows the arrays have one after the other.
      thresholds: from where on a number is flagged.
      name: the function's name.
      how: how the rows were chosen, in words.

    Example:
      :func:`flow` has one.
    """

    values: Any
    cotangents: Any
    gradients: Any
    weights: Any
    updates: Any
    shares: Any
    layers: tuple[Layer, ...]
    thresholds: Thresholds
    name: str
    how: str

    def with_updates(self, updates: Any) -> Flow:
        """The same flow with the updates of the parameters, for ``update_norm`` and ``update_ratio``.

        Args:
          updates: what is added to the parameters, a tree like the gradient: what ``update`` of an optax
            optimiser returns.

        Returns:
          A :class:`Flow`. Under ``jit`` as well.

        Raises:
          errors.InputError: the tree is not like the gradient.

        Example:
          >>> import jax, jax.numpy as jnp, funcgrad
          >>> found = funcgrad.inspect.flow(lambda w: jnp.sum(w**2), jnp.ones(4))
          >>> print(f"{found.with_updates(-1e-3 * jnp.ones(4)).rows()[-1]['update_ratio']:.4f}")
          0.0010
        """
        leaves = jax.tree.leaves(updates)
        wanted = max((p.leaf for layer in self.layers for p in layer.parameters), default=-1)
        if len(leaves) <= wanted or any(
            np.shape(leaves[p.leaf]) != p.shape for layer in self.layers for p in layer.parameters
        ):
            raise errors.InputError(
                f"The flow of `{self.name}` was given updates with {len(leaves)} leaves, which are not "
                "like the gradient's. Pass what the optimiser's update returns for that gradient."
            )
        return replace(self, updates=of_parameters(self.layers, leaves, norms, 2))

    def rows(self) -> list[Row]:
        """The numbers of each layer as a dict, with those names only that it has numbers for.

        Returns:
          A list of dicts with ``layer`` (its name), ``where``, ``size``, and floats: ``value_norm``,
          ``value_rms``, ``value_mean``, ``value_zeros``, the same for ``cotangent`` and ``gradient``;
          ``weight_norm``, ``update_norm``, ``update_ratio`` (of these two), ``dead`` and ``saturated``.
          ``pandas.DataFrame(flow.rows())`` is a table of them.

        Raises:
          errors.InputError: inside ``jit``, where there are no numbers yet.
        """
        names = ("values", "cotangents", "gradients", "weights", "updates", "shares")
        arrays = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if not has_numbers(self):
            raise errors.InputError(
                f"The numbers of the flow of `{self.name}` were asked for, and it has none: it was made "
                "under jax.jit or for abstract arguments. Return it from the jitted function first."
            )
        numbers = {name: np.asarray(x, np.float64) for name, x in arrays.items()}
        steps = [(layer, i) for layer in self.layers for i in range(len(layer.rows))]
        rows = [
            (layer.order[i], _row(layer, i, {name: x[at] for name, x in numbers.items()}))
            for at, (layer, i) in enumerate(steps)
        ]
        return [row for _, row in sorted(rows, key=lambda both: both[0])]

    def __getitem__(self, layer: str) -> Row:
        """The numbers of the layer of a name.

        Raises:
          KeyError: no layer has the name.
        """
        rows = {row["layer"]: row for row in self.rows()}
        if layer not in rows:
            raise KeyError(f"No layer is named {layer!r}. There are: {', '.join(rows)}.")
        return rows[layer]

    def flags(self) -> list[Flag]:
        """What is wrong with the layers, by the thresholds, in the order of the program."""
        return [*flags_of(self.rows(), self.thresholds)]

    def log(self, prefix: str = "flow/") -> dict[str, float]:
        """All numbers as a flat dict of floats, for tensorboard or wandb.

        Args:
          prefix: what the names begin with.

        Returns:
          A dict from names such as ``flow/layers_0/cotangent_norm`` to floats, and with
          ``flow/flags/vanishing`` and the like the numbers of layers that are flagged.

        Example:
          >>> import jax, jax.numpy as jnp, funcgrad
          >>> def loss(w, x):
          ...     with jax.named_scope("layer"):
          ...         h = jnp.tanh(x @ w)
          ...     return jnp.sum(h)
          >>> found = funcgrad.inspect.flow(loss, jnp.eye(2), jnp.zeros((8, 2)))
          >>> found.log()["flow/layer/cotangent_norm"]
          4.0
        """
        found = {
            f"{prefix}{row['layer']}/{name}": number
            for row in self.rows()
            for name, number in row.items()
            if isinstance(number, float)
        }
        flagged = Counter(kind for _, kind in {(flag.layer, flag.kind) for flag in self.flags()})
        return found | {
            f"{prefix}flags/{kind.replace(' ', '_')}": float(flagged[kind]) for kind in KINDS
        }

    def to_figure(self, path: str | Path | None = None) -> Any:
        """One figure of all numbers, in which each panel says what it shows.

        Args:
          path: where to write it, as PNG, SVG or PDF; not written without one.

        Returns:
          A ``matplotlib.figure.Figure``.

        Raises:
          ImportError: matplotlib is not installed.
        """
        from funcgrad.inspect.flows.figure import figure

        drawn = figure(self)
        if path is not None:
            drawn.savefig(path)
        return drawn

    def __str__(self) -> str:
        return table(self)

    __repr__ = __str__


jax.tree_util.register_dataclass(
    Flow,
    data_fields=["values", "cotangents", "gradients", "weights", "updates", "shares"],
    meta_fields=["layers", "thresholds", "name", "how"],
)


def rows_of(layers: Sequence[Layer]) -> list[range]:
    """The numbers of each layer's rows in the arrays."""
    ends = [*itertools.accumulate(len(layer.rows) for layer in layers)]
    return [range(end - len(layer.rows), end) for end, layer in zip(ends, layers, strict=True)]


def of_parameters(
    layers: Sequence[Layer], leaves: Sequence[Any], measure: Callable[..., Any], width: int
) -> Any:
    """A measure of the parameters of each row, from the leaves of a tree like them."""
    parts, rows = [], rows_of(layers)
    for layer, own in zip(layers, rows, strict=True):
        for p in layer.parameters:
            numbers = measure(jnp.asarray(leaves[p.leaf]), p.steps).reshape(-1, width)
            parts.append(Part(own, p.size, numbers[np.array(layer.steps, int)]))
    return moments_by_row(parts, rows[-1].stop if rows else 0, width)


def has_numbers(flow: Flow) -> bool:
    """Whether the arrays have values: not inside ``jit``, and not for abstract arguments."""
    return all(
        isinstance(x, jax.Array | np.ndarray) and not isinstance(x, _jax.Tracer)
        for x in jax.tree.leaves(flow)
    )


def _row(layer: Layer, i: int, numbers: dict[str, Any]) -> Row:
    row: Row = {"layer": layer.rows[i], "where": layer.where, "size": layer.size}
    sizes = {"value": layer.size, "cotangent": layer.size}
    for plural, x in numbers.items():
        if plural == "shares":
            found = {"dead": x[0:2], "saturated": x[2:4]}
            row |= {name: float(share) for name, (share, known) in found.items() if known}
            continue
        name = plural.removesuffix("s")
        norm, *more, there = (float(number) for number in x)
        if there:
            row[f"{name}_norm"] = norm
        if there and more:
            size = sizes.get(name, sum(p.size for p in layer.parameters))
            row[f"{name}_rms"] = norm / math.sqrt(size)
            row[f"{name}_mean"], row[f"{name}_zeros"] = more
    if "update_norm" in row and row["weight_norm"] > 0:
        row["update_ratio"] = row["update_norm"] / row["weight_norm"]
    return row
