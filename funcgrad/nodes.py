"""The nodes of a tape and of the tapes inside them."""

from __future__ import annotations

from collections.abc import Iterator

from funcgrad.tape import FrozenTape, Node, Tape


def walk_nodes(tape: Tape | FrozenTape) -> Iterator[Node]:
    """All nodes of a tape, each followed by those inside it.

    Args:
      tape: the tape of a differentiation, as :func:`tape_of` gives it.

    Returns:
      An iterator over nodes, in the order in which they ran.

    Example:
      :func:`tape_of` has one.
    """
    for node in tape.nodes:
        yield node
        for inner in node.pullback.inner.values():
            yield from walk_nodes(inner)
