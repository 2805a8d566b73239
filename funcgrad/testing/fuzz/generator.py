"""Random well-typed programs, drawn from anything that draws as ``random.Random`` does.

``hypothesis.strategies.randoms`` is such a source, and so is ``random.Random(seed)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax

from funcgrad.testing.fuzz.expressions import Expressions, Place
from funcgrad.testing.fuzz.programs import Block, Program, Statement, Type, without_dead
from funcgrad.testing.fuzz.tastes import MIXED, Taste

POLICIES = [
    "jax.checkpoint({f0})",
    "jax.checkpoint({f0}, policy=jax.checkpoint_policies.dots_saveable)",
    "jax.checkpoint({f0}, policy=jax.checkpoint_policies.everything_saveable)",
    "jax.checkpoint({f0}, policy=jax.checkpoint_policies.save_only_these_names('kept'))",
    "jax.checkpoint({f0}, prevent_cse=False)",
    "funcgrad.checkpoint({f0}, policy='min-cut')",
    "funcgrad.checkpoint({f0}, budget=1.0)",
]


def generate(random: Any, taste: Taste = MIXED, seed: int = 0) -> Program:
    """Draw a program.

    Args:
      random: a ``random.Random``, or what draws like one.
      taste: what programs are like.
      seed: of the values of its arguments.

    Returns:
      A program that is well typed.

    Example:
      >>> from random import Random
      >>> from funcgrad.testing.fuzz.generator import generate
      >>> program = generate(Random(0))
      >>> program.text.startswith("def program(")
      True
    """
    with jax.enable_x64(True):
        while True:
            program = Writer(random, taste).program(seed)
            if taste.likes(program):
                return program


@dataclass
class Writer(Expressions):
    """Writes one program."""

    def program(self, seed: int) -> Program:
        inputs = {self.name("a"): Type(self.random.choice(self.taste.shapes), "float64")}
        for _ in range(self.random.randrange(0, 3)):
            inputs[self.name("a")] = Type(self.random.choice(self.taste.shapes), self.dtype())
        place = Place(self.taste.depth)
        statements, scope = self.statements(dict(inputs), self.taste.statements, place)
        results = self.some(scope, self.random.randrange(1, 4), lambda k: k.is_inexact)
        footer = f"weigh({places(results)})"
        block = Block("", "", (), tuple(statements), tuple(results), footer)
        block, marks = without_dead(block), frozenset(self.marks)
        return Program(tuple(inputs.items()), block, seed, self.order, marks, self.batched)

    # --- statements

    def statements(
        self, scope: dict[str, Type], limits: tuple[int, int], place: Place
    ) -> tuple[list[Statement], dict[str, Type]]:
        """Statements after which `scope` holds their variables too."""
        written: list[Statement] = []
        for _ in range(self.random.randrange(limits[0], limits[1] + 1)):
            if place.depth > 0 and self.chance(self.taste.structure):
                made = self.structure(scope, place)
            else:
                made = self.expression(scope, place)
            for statement in made:
                scope |= dict(zip(statement.names, statement.types, strict=True))
            written += made
        return written, scope

    # --- loops, branches and functions

    def structure(self, scope: dict[str, Type], place: Place) -> list[Statement]:
        again = [self.scan, self.cond, self.remat, self.custom]
        kinds = [self.call, self.call, self.scan, self.cond, self.switch, self.vmap]
        kinds += [self.remat, self.custom, self.counted, *again]
        if not place.derived:
            kinds += [self.loop, self.fori]
        return self.random.choice(kinds)(scope, place)

    def block(
        self,
        outer: dict[str, Type],
        params: dict[str, Type],
        place: Place,
        closed: bool = False,
        wanted: Sequence[Type] | None = None,
        extra: int = 0,
    ) -> tuple[Block, list[Type]]:
        """A body with these parameters; its results are of the types `wanted`, and `extra` others."""
        scope = {**({} if closed else outer), **params}
        inner = replace(place, depth=place.depth - 1)
        written, scope = self.statements(scope, self.taste.inner, inner)
        results = []
        for kind in wanted or ():
            result = self.of_type(kind, scope, written)
            if kind.dtype == "float64" and self.chance(0.6):
                name = self.name()
                written.append(Statement((name,), (kind,), "squash({0})", (result,)))
                scope[name], result = kind, name
            results.append(result)
        results += self.some(scope, extra, lambda k: k.is_inexact)
        header = ", ".join(params)
        block = Block(
            header,
            "",
            tuple(params.items()),
            tuple(written),
            tuple(results),
            f"[{places(results)}]",
            closed,
        )
        return without_dead(block), [scope[r] for r in results]

    def call(
        self,
        scope: dict[str, Type],
        place: Place,
        wrapper: str = "jax.jit({f0})",
        closed: bool = False,
    ) -> list[Statement]:
        """A function called once, or twice with other arguments."""
        reads = self.some(scope, self.random.randrange(1, 4), lambda k: k.is_inexact)
        params = {self.name("p"): scope[r] for r in reads}
        block, kinds = self.block(scope, params, place, closed, extra=self.random.randrange(1, 3))
        calls = [reads]
        if self.chance(0.3):
            calls.append([self.twin(r, scope) for r in reads])
        parts, count = [], 0
        for arguments in calls:
            parts.append(f"*{wrapper}({places(arguments, count)})")
            count += len(arguments)
        names = tuple(self.name() for _ in range(len(calls) * len(kinds)))
        flat = tuple(name for arguments in calls for name in arguments)
        statement = Statement(
            names, tuple(kinds) * len(calls), f"[{', '.join(parts)}]", flat, (block,)
        )
        return [statement]

    def remat(self, scope: dict[str, Type], place: Place) -> list[Statement]:
        place = replace(place, within=True)
        return self.call(scope, place, self.random.choice(POLICIES))

    def custom(self, scope: dict[str, Type], place: Place) -> list[Statement]:
        place = replace(place, within=True, derived=True)
        wrapper = self.random.choice(["adjoint({f0})", "dual({f0})"])
        place = replace(place, in_dual=place.in_dual or wrapper == "dual({f0})")
        if not place.in_dual and self.chance(0.05):
            wrapper = "adjoint({f0}, -2.0)"
            self.marks.add("a custom rule that differs from its function")
        return self.call(scope, place, wrapper, closed=True)

    def carried(self, scope: dict[str, Type]) -> tuple[list[str], dict[str, Type]]:
        """Initial values of a loop, and the parameters that stand for them in its body."""
        reads = self.some(scope, self.random.randrange(1, 3), lambda k: k.is_inexact)
        return reads, {self.name("c"): scope[r] for r in reads}

    def scan(self, scope: dict[str, Type], place: Place) -> list[Statement]:
        init, carry = self.carried(scope)
        rows = self.some(scope, self.random.randrange(0, 2), lambda k: k.is_float and has_rows(k))
        slices = {self.name("x"): Type(scope[r].shape[1:], scope[r].dtype) for r in rows}
        length = scope[rows[0]].shape[0] if rows else self.random.randrange(0, 4)
        extra = self.random.randrange(0, 2)
        wanted = [*carry.values()]
        params = {**carry, **slices}
        block, kinds = self.block(scope, params, place, wanted=wanted, extra=extra)
        n = len(init)
        block = with_signature(
            block,
            "carry, row",
            f"{pattern(carry)}, {pattern(slices)} = carry, row",
            f"{tuple_of(block.results[:n])}, {tuple_of(block.results[n:], n)}",
        )
        options = self.random.choice(["", "reverse=True, ", "unroll=2, "])
        operands = f"{tuple_of(init)}, {tuple_of(rows, n)}"
        text = f"leaves(lax.scan({{f0}}, {operands}, {options}length={length}))"
        stacked = [Type((length, *k.shape), k.dtype) for k in kinds[n:]]
        types = (*kinds[:n], *stacked)
        return [self.statement(text, types, [*init, *rows], block)]

    def counted(self, scope: dict[str, Type], place: Place) -> list[Statement]:
        """A fori_loop with bounds known when it is traced."""
        text = f"lax.fori_loop(0, {self.random.randrange(0, 4)}, "
        return self.fori(scope, place, text)

    def fori(
        self, scope: dict[str, Type], place: Place, text: str = "fori_loop({last}, 3, "
    ) -> list[Statement]:
        """A fori_loop whose bound only running the program tells."""
        init, carry = self.carried(scope)
        block, kinds = self.block(scope, carry, place, wanted=[*carry.values()])
        block = with_signature(
            block, "i, carry", f"{pattern(carry)} = carry", tuple_of(block.results)
        )
        reads = list(init)
        if "{last}" in text:
            reads += self.some(scope, 1, lambda k: k.is_float) or reads[:1]
            text = text.replace("{last}", f"index({{{len(init)}}}.real, 3)")
        return [self.statement(f"{text}{{f0}}, {tuple_of(init)})", kinds, reads, block)]

    def loop(self, scope: dict[str, Type], place: Place) -> list[Statement]:
        """A while_loop that stops by a number of steps or by a value."""
        init, carry = self.carried(scope)
        block, kinds = self.block(scope, carry, place, wanted=[*carry.values()])
        results = ", ".join(["i + 1", *(f"{{{i}}}" for i in range(len(init)))])
        block = with_signature(block, "carry", f"i, {', '.join(carry)} = carry", f"({results},)")
        reads = [*init, *(self.some(scope, 1, lambda k: k.is_float) or init[:1])]
        test = self.random.choice(
            [
                f"c[0] < 2 + index({{{len(init)}}}.real, 2)",
                "(c[0] < 4) & (jnp.sum(jnp.abs(c[1])) < 2.0)",
            ]
        )
        start = ", ".join(["jnp.int32(0)", *(f"{{{i}}}" for i in range(len(init)))])
        text = f"while_loop(lambda c: {test}, {{f0}}, ({start},))[1:]"
        return [self.statement(text, kinds, reads, block)]

    def cond(self, scope: dict[str, Type], place: Place) -> list[Statement]:
        return self.branches(scope, place, 2, "lax.cond(jnp.sum({0}.real) > 0.2, {f0}, {f1}")

    def switch(self, scope: dict[str, Type], place: Place) -> list[Statement]:
        text = "lax.switch(jnp.argmax(fit({0}.real, 3)), [{f0}, {f1}, {f2}]"
        return self.branches(scope, place, 3, text)

    def branches(
        self, scope: dict[str, Type], place: Place, number: int, text: str
    ) -> list[Statement]:
        reads = self.some(scope, self.random.randrange(0, 3), lambda k: k.is_inexact)
        test = self.some(scope, 1, lambda k: k.is_inexact)
        blocks, kinds = [], None
        for i in range(number):
            params = {self.name("p"): scope[r] for r in reads}
            extra = self.random.randrange(1, 3) if i == 0 else 0
            block, found = self.block(scope, params, place, wanted=kinds, extra=extra)
            kinds = kinds or found
            blocks.append(block)
        assert kinds is not None
        arguments = "".join(f", {{{i + 1}}}" for i in range(len(reads)))
        return [self.statement(f"{text}{arguments})", kinds, [*test, *reads], *blocks)]

    def vmap(self, scope: dict[str, Type], place: Place) -> list[Statement]:
        first = self.one(scope, lambda k: k.is_inexact and has_rows(k))
        if first is None:
            return self.call(scope, place)
        others = self.some(scope, self.random.randrange(0, 2), lambda k: k.is_inexact)
        axis = self.random.choice([i for i, n in enumerate(scope[first].shape) if n > 0])
        size = scope[first].shape[axis]
        reads, in_axes, params = [first, *others], [], {}
        for i, name in enumerate(reads):
            shape = scope[name].shape
            at = axis if i == 0 else 0 if shape[:1] == (size,) and self.chance(0.5) else None
            in_axes.append(at)
            shape = shape if at is None else shape[:at] + shape[at + 1 :]
            params[self.name("p")] = Type(shape, scope[name].dtype)
        place = replace(place, batched=True)
        block, kinds = self.block(scope, params, place, extra=self.random.randrange(1, 3))
        types = [Type((size, *k.shape), k.dtype) for k in kinds]
        text = f"jax.vmap({{f0}}, in_axes={tuple(in_axes)})({places(reads)})"
        return [self.statement(text, types, reads, block)]

    def statement(
        self, text: str, kinds: Sequence[Type], reads: Sequence[str], *blocks: Block
    ) -> Statement:
        names = tuple(self.name() for _ in kinds)
        return Statement(names, tuple(kinds), text, tuple(reads), blocks)


def places(names: Sequence[Any], start: int = 0) -> str:
    return ", ".join(f"{{{i}}}" for i in range(start, start + len(names)))


def tuple_of(names: Sequence[Any], start: int = 0) -> str:
    return f"({places(names, start)},)" if names else "()"


def pattern(params: dict[str, Type]) -> str:
    return f"({', '.join(params)},)" if params else "()"


def with_signature(block: Block, header: str, unpack: str, footer: str) -> Block:
    return Block(
        header, unpack, block.params, block.statements, block.results, footer, block.closed
    )


def has_rows(kind: Type) -> bool:
    return len(kind.shape) > 0 and kind.shape[0] > 0
