"""Whether XLA is asked for its own figures: it compiles a whole gradient for them."""

from __future__ import annotations

MOST_COMPILED = 2_000
"""Of how many operations a function is compiled unasked."""


def why_not_compiled(operations: int, option: str) -> str:
    """Why XLA is not asked about a function of so many operations, unasked; empty if it is.

    Args:
      operations: how many operations the function has.
      option: by which the user asks: ``"compiled=True"``, on the command line ``--xla``.
    """
    if operations <= MOST_COMPILED:
        return ""
    return (
        f"{operations:,} operations are more than {MOST_COMPILED:,}, and XLA would compile their "
        f"gradient, which may take minutes. Ask by {option} (on the command line --xla)"
    )
