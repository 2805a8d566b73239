"""What is wrong with a layer, by thresholds that are stated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

KINDS = ("not finite", "vanishing", "exploding", "dead", "saturated", "no gradient")


@dataclass(frozen=True)
class Thresholds:
    """From where on a number of a layer is flagged.

    Attributes:
      vanishing: a cotangent's norm below so much of that at the last layer, or 0.
      exploding: a cotangent's norm above so many times that at the last layer, or a value's root mean
        square above so many times that of the first layer.
      dead: more than this share of a ReLU's units are zero in the whole batch.
      saturated: more than this share of the results of a sigmoid or a tanh lie where its slope is small:
        ``|tanh x| > 0.97``, or a sigmoid below 0.015 or above 0.985.
      batch: a unit can be dead only if at least so many elements of it are seen.

    Example:
      >>> from funcgrad.inspect import Thresholds
      >>> strict = Thresholds(dead=0.2)  # for funcgrad.inspect.flow(..., thresholds=strict)
      >>> print(strict.dead, strict.vanishing)
      0.2 0.001
    """

    vanishing: float = 1e-3
    exploding: float = 1e3
    dead: float = 0.1
    saturated: float = 0.5
    batch: int = 16


@dataclass(frozen=True)
class Flag:
    """Something that is wrong with a layer; printed, a sentence.

    Attributes:
      layer: the layer's name.
      kind: ``"not finite"``, ``"vanishing"``, ``"exploding"``, ``"dead"``, ``"saturated"`` or
        ``"no gradient"``.
      number: the number that is over a threshold.
      words: what the number is.

    Example:
      >>> from funcgrad.inspect import Flag
      >>> print(Flag("layer_0", "vanishing", 1e-5, "the cotangent's norm beside the last layer's"))
      layer_0: vanishing: the cotangent's norm beside the last layer's
    """

    layer: str
    kind: str
    number: float
    words: str

    def __str__(self) -> str:
        return f"{self.layer}: {self.kind}: {self.words}"


Row = dict[str, Any]


def flags_of(rows: Sequence[Row], by: Thresholds) -> Iterator[Flag]:
    """What is wrong with the layers, in their order."""
    last = reference(rows, "cotangent_norm")
    first = reference(rows[::-1], "value_rms")
    for row in rows:
        for kind, number, words in _of_row(row, by, last, first):
            yield Flag(row["layer"], kind, number, words)


def reference(rows: Sequence[Row], name: str) -> float | None:
    """A number of the last layer that has one: not of a single number, not zero, and finite."""
    found = (row[name] for row in reversed(rows) if row.get(name) and row["size"] > 1)
    return next((number for number in found if np.isfinite(number)), None)


def _of_row(
    row: Row, by: Thresholds, last: float | None, first: float | None
) -> Iterator[tuple[str, float, str]]:
    for what in ("value", "cotangent", "gradient", "weight", "update"):
        norm = row.get(f"{what}_norm")
        if norm is not None and not np.isfinite(norm):
            yield "not finite", norm, f"the {what}'s norm is {norm}"
    ct, rms = row.get("cotangent_norm"), row.get("value_rms")
    if ct == 0:
        yield "vanishing", 0.0, "the cotangent is zero"
    elif ct is not None and last is not None and ct < by.vanishing * last:
        yield "vanishing", ct, f"the cotangent's norm is {ct / last:.1e} of the last layer's"
    elif ct is not None and last is not None and by.exploding * last < ct < np.inf:
        yield "exploding", ct, f"the cotangent's norm is {ct / last:.1e} times the last layer's"
    if rms is not None and first is not None and by.exploding * first < rms < np.inf:
        yield "exploding", rms, f"the values are {rms / first:.1e} times the first layer's"
    if row.get("dead", 0.0) > by.dead:
        yield (
            "dead",
            row["dead"],
            f"{row['dead']:.0%} of the ReLU's units are zero in the whole batch",
        )
    if row.get("saturated", 0.0) > by.saturated:
        yield "saturated", row["saturated"], f"{row['saturated']:.0%} of the results are saturated"
    if row.get("gradient_norm") == 0:
        yield "no gradient", 0.0, "the gradient of the parameters is zero"
