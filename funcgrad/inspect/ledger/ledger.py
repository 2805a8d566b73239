"""The ledger: every array that rules read on the way back, as a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from funcgrad.inspect.ledger.entries import (
    ARGUMENT,
    CONSTANT,
    KEPT,
    OFFLOADED,
    PUT_OFF,
    RECOMPUTED,
    Residual,
)
from funcgrad.inspect.ledger.flat import short_line
from funcgrad.inspect.ledger.suggest import Suggestion
from funcgrad.inspect.tables import shortened, table
from funcgrad.partition.budget import Estimate

ROWS = 20
"""The most rows of the printed table; the rows that are left out are counted."""


@dataclass(frozen=True)
class Region:
    """A checkpointed function within a function.

    Attributes:
      name: ``name at file:line`` of the function.
      estimate: bytes kept, bytes alive at most, and operations computed again.
      everything: the same if nothing were computed again.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> lean = funcgrad.checkpoint(lambda x: jnp.exp(jnp.sin(x)))
      >>> [region] = funcgrad.inspect.residuals(lean, jnp.ones(4)).regions
      >>> print(region.estimate.kept < region.everything.kept)
      True
    """

    name: str
    estimate: Estimate
    everything: Estimate

    def __str__(self) -> str:
        return (
            f"{self.name}: keeps {self.estimate.kept:,} of {self.everything.kept:,} bytes, "
            f"at most {self.estimate.peak:,} alive, repeats {self.estimate.repeated:.3g} operations"
        )


@dataclass(frozen=True)
class Ledger:
    """What the way back of a function keeps; printed, a table.

    Attributes:
      name: of the function.
      residuals: every array that a rule reads on the way back, the largest first.
      steps: the steps of the way back: one for each op that is pulled back, those of a loop's body once.
      devices: the number of devices over which the arguments are divided.
      regions: the checkpointed functions in it.
      temp_size_in_bytes: XLA's own count of temporary memory for the whole gradient, on one device;
        None where its backend does not say, or was not asked.
      kept_by_jax: the bytes that ``jax.grad`` keeps, arguments and constants left out; None if JAX
        cannot differentiate the function in reverse.
      jax_problem: the first line of JAX's error in that case.
      suggestions: what to checkpoint; the one that leaves the fewest bytes alive first.
      not_tried: why no suggestion was tried; empty if some were.
      failed: checkpoints that were tried and raised an error, with its name.
      not_compiled: why XLA was not asked, though nobody said that it should not be; else empty.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> ledger = funcgrad.inspect.residuals(jnp.tanh, jnp.ones(3))
      >>> print(ledger.kept, ledger.steps)  # bytes, and ops that are pulled back
      12 1
    """

    name: str
    residuals: tuple[Residual, ...]
    steps: int
    devices: int
    regions: tuple[Region, ...]
    temp_size_in_bytes: int | None
    kept_by_jax: int | None
    jax_problem: str
    suggestions: tuple[Suggestion, ...]
    not_tried: str = ""
    failed: tuple[str, ...] = ()
    not_compiled: str = ""

    # --- totals

    def of(self, *status: str) -> tuple[Residual, ...]:
        """The entries of some kinds; see :class:`Residual` for their names."""
        return tuple(entry for entry in self.residuals if entry.status in status)

    @property
    def kept(self) -> int:
        """The bytes kept for the way back, over all devices, that nothing else keeps alive."""
        return _total(self.of(KEPT))

    @property
    def kept_per_device(self) -> int:
        """The same on each device."""
        return sum(entry.bytes_per_device for entry in self.of(KEPT))

    @property
    def arguments(self) -> int:
        """The bytes of arguments that rules read: they are alive anyway."""
        return _total(self.of(ARGUMENT))

    @property
    def constants(self) -> int:
        """The bytes of arrays that the function closes over and rules read."""
        return _total(self.of(CONSTANT))

    @property
    def in_pullback(self) -> int:
        """The bytes of the leaves of the pullback of ``funcgrad.vjp``: all that it holds."""
        return _total(self.of(KEPT, OFFLOADED, ARGUMENT, CONSTANT))

    def alive(self) -> list[int]:
        """The kept bytes that are still held after each step of the way back, from before the first."""
        freed = [0] * (self.steps + 1)
        for entry in self.of(KEPT):
            freed[self.steps if entry.freed is None else entry.freed] += entry.bytes
        held = [self.kept]
        for i in range(1, self.steps + 1):
            held.append(held[-1] - freed[i])
        return held

    @property
    def suggestion(self) -> Suggestion | None:
        """What to checkpoint: the first of the suggestions; None if there is nothing to gain."""
        return self.suggestions[0] if self.suggestions else None

    # --- tables

    def __str__(self) -> str:
        return "\n".join([*self._head(), "", *_table(self.residuals, self.steps), *self._foot()])

    __repr__ = __str__

    def _head(self) -> Iterator[str]:
        count = len(self.of(KEPT))
        arrays = f"{count} array{'s' * (count != 1)}"
        per = f" ({self.kept_per_device:,} on each of {self.devices})" if self.devices > 1 else ""
        yield f"{self.name}: {self.kept:,} B kept in {arrays} for the way back{per}"
        others = [
            ("arguments, alive anyway", self.of(ARGUMENT)),
            ("constants, alive anyway", self.of(CONSTANT)),
            ("waiting in other memory", self.of(OFFLOADED)),
            ("computed again", self.of(RECOMPUTED)),
            ("put off by scans, on the way back", self.of(PUT_OFF)),
        ]
        found = [f"{_total(entries):,} B {what}" for what, entries in others if entries]
        if found:
            yield "besides: " + "; ".join(found)
        beside = []
        if self.kept_by_jax is not None:
            beside.append(f"jax.grad keeps {self.kept_by_jax:,} B")
        elif self.jax_problem:
            beside.append(f"jax.grad cannot: {self.jax_problem}")
        if self.temp_size_in_bytes is not None:
            beside.append(f"XLA's temporary memory for the gradient: {self.temp_size_in_bytes:,} B")
        if beside:
            yield "; ".join(beside)
        if self.not_compiled:
            yield f"XLA's temporary memory for the gradient: not asked for, {self.not_compiled}"

    def _foot(self) -> Iterator[str]:
        if self.regions:
            yield from ["", "checkpoints:", *(f"  {region}" for region in self.regions)]
        if self.suggestions:
            yield from ["", "what to checkpoint:", *(f"  {each}" for each in self.suggestions)]
        elif self.not_tried:
            yield from ["", f"what to checkpoint: not tried, {self.not_tried}"]
        else:
            yield from [
                "",
                "what to checkpoint: nothing; no checkpoint that was tried frees a fifth",
            ]
        if self.failed:
            yield f"not to checkpoint, since it raised an error: {', '.join(self.failed)}"

    def to_pandas(self) -> Any:
        """The entries as a ``pandas.DataFrame``, a row each.

        Raises:
          ImportError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError(
                "Ledger.to_pandas was asked for a DataFrame, but pandas is not installed. "
                "`pip install pandas`, or read Ledger.residuals."
            ) from error
        names = [f.name for f in fields(Residual) if f.name != "asked_by"]
        rows = [
            {name: getattr(entry, name) for name in names}
            | {"bytes_per_step": entry.bytes_per_step, "dtype": str(entry.dtype)}
            | {"asked_by": "; ".join(map(str, entry.asked_by)), "rules": _rules(entry)}
            for entry in self.residuals
        ]
        return pandas.DataFrame(rows, columns=[*names, "bytes_per_step", "asked_by", "rules"])

    def to_figure(self, path: str | Path | None = None, *, rows: int = 16) -> Any:
        """A picture: the bytes by scope, and how they are freed on the way back.

        Args:
          path: where to write it, as PNG, SVG or PDF; not written without one.
          rows: the most scopes that are drawn; the smaller ones are added up.

        Returns:
          A ``matplotlib.figure.Figure``.

        Raises:
          ImportError: matplotlib is not installed.
        """
        from funcgrad.inspect.ledger.picture import picture_of

        drawn = picture_of(self, rows)
        if path is not None:
            drawn.savefig(path)
        return drawn


def _total(entries: Iterable[Residual]) -> int:
    return sum(entry.bytes for entry in entries)


def _rules(entry: Residual) -> str:
    return "; ".join(dict.fromkeys(ask.rule for ask in entry.asked_by))


COLUMNS = ("bytes", "array", "", "made by", "asked by", "freed after", "other choice")

SCOPE = 32
"""The most letters of a name scope in the printed table: its middle is left out."""


def _table(entries: Sequence[Residual], steps: int) -> list[str]:
    """The rows of the largest arrays."""
    rows = [_row(entry, steps) for entry in entries[:ROWS]]
    lines = [table(COLUMNS, rows, words=range(1, len(COLUMNS)))]
    left = entries[ROWS:]
    if left:
        lines.append(f"... and {len(left)} smaller ones, {_total(left):,} B")
    return lines


def _row(entry: Residual, steps: int) -> tuple[str, ...]:
    made = entry.name or "closed over"
    if entry.op:
        line = f" at {short_line(entry.where)}" if entry.where else ""
        made = f"{shortened(entry.scope, SCOPE)}: " * bool(entry.scope) + entry.op + line
    asks = [str(ask) for ask in entry.asked_by[:1]]
    more = len(entry.asked_by) - 1
    asked = "".join(asks) + (f" and {more} more" if more > 0 else "")
    freed = "" if entry.freed is None else f"step {entry.freed} of {steps}"
    per_step = f" ({entry.bytes_per_step:,} a step)" if entry.steps else ""
    return (
        f"{entry.bytes:,}", entry.type + per_step, entry.status, made, asked, freed, entry.otherwise
    )  # fmt: skip
