"""What a check found: rows that passed, failed or did not run, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

PASSED, FAILED, NOT_RUN = "passed", "FAILED", "not run"


@dataclass(frozen=True)
class Check:
    """One row of a report.

    Attributes:
      name: the check, as in :data:`funcgrad.testing.MODES`, and what part of it.
      status: ``"passed"``, ``"FAILED"`` or ``"not run"``.
      error: the largest error found, as a share of what was allowed; None where nothing was measured.
      detail: why it did not run, what is wrong, or in which precision it ran.
      cotangent: the cotangent that shows the failure, a pytree like the output; None otherwise.
      cause: the exception that was the failure, if it was one.

    Example:
      >>> from funcgrad.testing import Check
      >>> print(Check("second", "not run", detail="order=1"))
      Check(name='second', status='not run', error=None, detail='order=1')
    """

    name: str
    status: str
    error: float | None = None
    detail: str = ""
    cotangent: Any = field(default=None, compare=False, repr=False)
    cause: BaseException | None = field(default=None, compare=False, repr=False)

    @property
    def mode(self) -> str:
        """The name in :data:`funcgrad.testing.MODES` that this row belongs to."""
        return self.name.split(" ")[0]


@dataclass(frozen=True)
class Report:
    """Everything that was checked of one function; printed, a table.

    Attributes:
      name: the function.
      checks: the rows, in the order in which they ran.

    Example:
      >>> from funcgrad.testing import Check, Report
      >>> left_out = Check("second", "not run", detail="order=1")
      >>> print(Report("loss", (Check("jax", "passed", error=0.5), left_out)))
      gradients of loss
      check   status   error/allowed
      jax     passed   0.5
      second  not run                 order=1
    """

    name: str
    checks: tuple[Check, ...]

    def of_status(self, status: str) -> tuple[Check, ...]:
        """The rows that ``"passed"``, ``"FAILED"`` or did ``"not run"``."""
        return tuple(check for check in self.checks if check.status == status)

    def __getitem__(self, mode: str) -> tuple[Check, ...]:
        """The rows of one mode."""
        return tuple(check for check in self.checks if check.mode == mode)

    def __iter__(self) -> Iterator[Check]:
        return iter(self.checks)

    def __str__(self) -> str:
        cells = [("check", "status", "error/allowed", "")]
        for check in self.checks:
            error = "" if check.error is None else f"{check.error:.2g}"
            cells.append((check.name, check.status, error, check.detail.split("\n")[0]))
        widths = [max(map(len, column)) for column in list(zip(*cells, strict=True))[:3]]
        lines = [
            "  ".join((*map(str.ljust, line, widths), line[3])).rstrip()  # the last is ragged
            for line in cells
        ]
        return "\n".join([f"gradients of {self.name}", *lines])


def passed(name: str, error: float | None = None, detail: str = "") -> Check:
    return Check(name, PASSED, error, detail)


def not_run(name: str, reason: str) -> Check:
    return Check(name, NOT_RUN, None, reason)


def failed(
    name: str,
    detail: str,
    error: float | None = None,
    cotangent: Any = None,
    cause: BaseException | None = None,
) -> Check:
    return Check(name, FAILED, error, detail, cotangent, cause)


def first_line(error: BaseException) -> str:
    """An exception in one line."""
    text = str(error).strip().split("\n")[0]
    text = text if len(text) <= 160 else text[:157] + "..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
