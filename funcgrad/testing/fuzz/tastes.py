"""What random programs are like: how large, how deep, of which operations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from funcgrad.testing.fuzz import vocabulary
from funcgrad.testing.fuzz.programs import REFERENCE, Block, Program, Statement, statements_in
from funcgrad.testing.fuzz.vocabulary import Word

SHAPES = [(), (2,), (3,), (2, 3), (3, 2), (2, 2), (1, 3), (2, 1), (1,), (2, 1, 3)]


@dataclass(frozen=True)
class Taste:
    """What programs are like.

    Attributes:
      words: what a statement may compute.
      statements: at least and at most so many of them at the top.
      inner: the same of inner blocks.
      depth: how deep blocks are nested.
      structure: how often a statement is a loop, a branch, a function and so on.
      shapes: of the arguments.
      narrow: how often a program has float32 values.
      complexes: how often it has a complex argument.
      values: largest number of elements of a variable.
      nesting: how deep the innermost block is at least.
      sizes: at least and at most so many statements in all.
      loops: at least and at most so many loops whose length only running the program tells.
      ranks: the ``jax.numpy_rank_promotion`` under which each statement has a type: "raise" to draw
        none that broadcasts between ranks.
    """

    words: tuple[Word, ...] = tuple(vocabulary.ALL)
    statements: tuple[int, int] = (4, 9)
    inner: tuple[int, int] = (1, 4)
    depth: int = 2
    structure: float = 0.25
    shapes: tuple[tuple[int, ...], ...] = tuple(SHAPES)
    narrow: float = 0.05
    complexes: float = 0.05
    values: int = 40
    nesting: int = 0
    sizes: tuple[int, int] = (1, 16)
    loops: tuple[int, int] = (0, 1)
    ranks: Literal["allow", "raise"] = "allow"

    def likes(self, program: Program) -> bool:
        """Is the program of the size and the depth that was asked for?"""
        loops = sum(map(has_unknown_length, statements_in(program.block)))
        return (
            self.sizes[0] <= program.size <= self.sizes[1]
            and depth_of(program.block) >= self.nesting
            and self.loops[0] <= loops <= self.loops[1]
        )


def depth_of(block: Block) -> int:
    """How many blocks are around the innermost one."""
    return max((1 + depth_of(b) for s in block.statements for b in s.blocks), default=0)


def has_unknown_length(statement: Statement) -> bool:
    """Is it a loop whose length only running the program tells?"""
    return statement.text.startswith(tuple(REFERENCE))


MIXED = Taste()
NESTED = Taste(
    words=tuple(vocabulary.CHEAP),
    statements=(1, 1),
    inner=(1, 2),
    depth=4,
    structure=0.75,
    shapes=((), (2,)),
    narrow=0.0,
    complexes=0.0,
    values=8,
    nesting=2,
    sizes=(3, 6),
    loops=(0, 0),
)

LOOPED = replace(NESTED, nesting=1, sizes=(2, 4), loops=(1, 1))
SMALL = replace(MIXED, statements=(1, 4), inner=(1, 2), sizes=(1, 8))
