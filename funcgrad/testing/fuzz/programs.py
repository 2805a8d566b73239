"""A program as data: statements over typed variables that can be printed, run and made smaller.

Blocks (bodies of loops, branches, functions) read the variables of the blocks around them, unless they
are closed. What runs is what is printed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import funcgrad
from funcgrad.testing.fuzz import prelude


@dataclass(frozen=True)
class Type:
    """Shape and dtype of a variable."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def is_float(self) -> bool:
        return self.dtype.startswith("float")

    @property
    def is_inexact(self) -> bool:
        return self.is_float or self.dtype.startswith("complex")


@dataclass(frozen=True)
class Block:
    """A function's body.

    Attributes:
      header: ``"carry, xs"``, the parameters as in a ``def``.
      unpack: a line that takes them apart, or nothing.
      params: the variables that they bind, and their types.
      statements: what is computed, in order.
      results: the variables returned.
      footer: how they are returned; ``{0}`` is the first.
      closed: it reads nothing of the blocks around it.
    """

    header: str
    unpack: str
    params: tuple[tuple[str, Type], ...]
    statements: tuple[Statement, ...]
    results: tuple[str, ...]
    footer: str
    closed: bool = False


@dataclass(frozen=True)
class Statement:
    """``names = text``, a list of names if there are `blocks`.

    In the text, ``{0}`` is the first of `reads` and ``{f0}`` the first of `blocks`.
    """

    names: tuple[str, ...]
    types: tuple[Type, ...]
    text: str
    reads: tuple[str, ...]
    blocks: tuple[Block, ...] = ()


@dataclass(frozen=True)
class Program:
    """A scalar function of arrays.

    Attributes:
      inputs: name and type of each argument.
      block: what is computed; its results are weighed to one scalar.
      seed: of the values of the arguments.
      order: 1 where JAX has no second derivative of something in it.
      marks: what keeps finite differences from meaning something.
      batched: False where ``jax.vmap`` has no rule for something in it.
    """

    inputs: tuple[tuple[str, Type], ...]
    block: Block
    seed: int = 0
    order: int = 2
    marks: frozenset[str] = frozenset()
    batched: bool = True

    @property
    def size(self) -> int:
        """How many statements there are, those in blocks included."""
        return sum(1 for _ in statements_in(self.block))

    @property
    def text(self) -> str:
        return source(self)

    def values(self) -> tuple[Any, ...]:
        """The arguments."""
        return tuple(jnp.asarray(x) for x in arguments(self))

    def function(self, reference: bool = False) -> Callable[..., Any]:
        """The program; with `reference`, its while loops are scans, as jax.grad needs them."""
        names = {**NAMES, **(REFERENCE if reference else {})}
        exec(compile(source(self), f"<program {self.seed}>", "exec"), names)
        return names["program"]


NAMES: dict[str, Any] = {
    "funcgrad": funcgrad, "jax": jax, "jnp": jnp, "lax": lax, "np": np, "while_loop": lax.while_loop,
    "fori_loop": lax.fori_loop, **{name: fn for name, fn in vars(prelude).items() if callable(fn)},
}  # fmt: skip
REFERENCE = {"while_loop": prelude.bounded_while, "fori_loop": prelude.bounded_fori}


def arguments(program: Program) -> list[np.ndarray]:
    """Standard normal values of the arguments' types."""
    random = np.random.default_rng(program.seed)
    return [draw(random, kind) for _, kind in program.inputs]


def draw(random: np.random.Generator, kind: Type) -> np.ndarray:
    values = random.standard_normal(kind.shape)
    if kind.dtype.startswith("complex"):
        values = values + 1j * random.standard_normal(kind.shape)
    return np.asarray(values, kind.dtype)


def statements_in(block: Block) -> Iterator[Statement]:
    """Every statement, those of inner blocks included."""
    for statement in block.statements:
        yield statement
        for inner in statement.blocks:
            yield from statements_in(inner)


# --- printing


def source(program: Program) -> str:
    """The program as a Python function named ``program``."""
    lines = [f"def program({', '.join(name for name, _ in program.inputs)}):"]
    lines += ["    " + line for line in block_lines(program.block)]
    return "\n".join(lines) + "\n"


def block_lines(block: Block) -> list[str]:
    lines = [block.unpack] if block.unpack else []
    for statement in block.statements:
        functions = {}
        for i, inner in enumerate(statement.blocks):
            functions[f"f{i}"] = f"f{i}_{statement.names[0]}"
            lines.append(f"def {functions[f'f{i}']}({inner.header}):")
            lines += ["    " + line for line in block_lines(inner)]
        text = statement.text.format(*statement.reads, **functions)
        comment = ", ".join(f"{t.dtype}{list(t.shape)}" for t in statement.types)
        names = ", ".join(statement.names)
        lines.append(f"{f'[{names}]' if statement.blocks else names} = {text}  # {comment}")
    return [*lines, f"return {block.footer.format(*block.results)}"]


FILE = '''"""{title}"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import funcgrad
from funcgrad.testing.fuzz.one import main_of_file
from funcgrad.testing.fuzz.prelude import *  # noqa: F403

fori_loop, while_loop = lax.fori_loop, lax.while_loop


{source}

ARGUMENTS = [
{values}]

if __name__ == "__main__":
    raise SystemExit(main_of_file(program, ARGUMENTS, globals(), {mode!r}, {rtol!r}))
'''


def as_file(program: Program, mode: str, title: str, rtol: float) -> str:
    """A Python file that runs the program and compares its gradients."""
    values = [f"    np.asarray({x.tolist()!r}, {str(x.dtype)!r}),\n" for x in arguments(program)]
    shapes = [f".reshape{x.shape}" if 0 in x.shape else "" for x in arguments(program)]
    lines = [v[:-2] + s + ",\n" for v, s in zip(values, shapes, strict=True)]
    title = title.replace("\\", "/").replace('"""', "'''")
    return FILE.format(
        title=title, source=source(program), values="".join(lines), mode=mode, rtol=rtol
    )


# --- making smaller


def shrink(
    program: Program, fails: Callable[[Program], bool], more: Callable[[], bool] = lambda: True
) -> Program:
    """A smaller program for which `fails` still holds, found greedily as long as `more()`."""
    progress = True
    while progress:
        progress = False
        for candidate in smaller(program):
            if not more():
                return program
            if fails(candidate):
                program, progress = candidate, True
                break
    return program


def smaller(program: Program) -> Iterator[Program]:
    """Programs with one thing less; all arguments stay, since their values belong together."""
    scope = dict(program.inputs)
    for block in (*fewer_results(program.block, scope), *smaller_blocks(program.block, scope)):
        block = without_dead(block)
        if block != program.block:
            yield replace(program, block=block)


def fewer_results(block: Block, scope: dict[str, Type]) -> Iterator[Block]:
    """The block that stops at an earlier variable."""
    known = dict(scope)
    for statement in block.statements:
        known |= dict(zip(statement.names, statement.types, strict=True))
    for name, kind in known.items():
        if (name,) != block.results and kind.is_inexact:
            yield replace(block, results=(name,), footer="weigh({0})")


def smaller_blocks(block: Block, scope: dict[str, Type]) -> Iterator[Block]:
    """The block with a variable replaced by an earlier one, here or in an inner block."""
    known = ({} if block.closed else dict(scope)) | dict(block.params)
    for i, statement in enumerate(block.statements):
        before, rest = block.statements[: i + 1], block.statements[i + 1 :]
        for name, kind in zip(statement.names, statement.types, strict=True):
            other = next((n for n, k in known.items() if k == kind), None)
            if other is not None:
                later = tuple(renamed(s, name, other) for s in rest)
                results = tuple(other if r == name else r for r in block.results)
                yield replace(block, statements=(*before, *later), results=results)
        for j, inner in enumerate(statement.blocks):
            for less in smaller_blocks(inner, known):
                blocks = (*statement.blocks[:j], less, *statement.blocks[j + 1 :])
                changed = replace(statement, blocks=blocks)
                yield replace(block, statements=(*before[:-1], changed, *rest))
        known |= dict(zip(statement.names, statement.types, strict=True))


def renamed(statement: Statement, name: str, other: str) -> Statement:
    """The statement reading `other` in the place of `name`."""
    blocks = tuple(
        replace(
            inner,
            statements=tuple(renamed(s, name, other) for s in inner.statements),
            results=tuple(other if r == name else r for r in inner.results),
        )
        for inner in statement.blocks
    )
    reads = tuple(other if r == name else r for r in statement.reads)
    return replace(statement, reads=reads, blocks=blocks)


def without_dead(block: Block) -> Block:
    """The block without statements that nothing reads."""
    wanted, kept = set(block.results), []
    for statement in reversed(block.statements):
        if wanted.isdisjoint(statement.names):
            continue
        inner = tuple(without_dead(b) for b in statement.blocks)
        statement = replace(statement, blocks=inner)
        wanted |= reads_of(statement)
        kept.append(statement)
    return replace(block, statements=tuple(reversed(kept)))


def reads_of(statement: Statement) -> set[str]:
    """Every variable that a statement reads, or that its blocks do."""
    inner = [set(b.results).union(*map(reads_of, b.statements)) for b in statement.blocks]
    return set(statement.reads).union(*inner)
