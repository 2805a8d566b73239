"""The operations of a traced program, each with how often it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from funcgrad import _jax
from funcgrad._jax import Equation, Jaxpr, Primitive
from funcgrad.catching import CALL
from funcgrad.functions import unmarked
from funcgrad.keys import FunctionId
from funcgrad.partition.work import Part, Work, parts_of, work_of
from funcgrad.registry import Rules

Path = tuple[int, ...]
"""Numbers of an equation, of a function that it calls, of an equation in that, and so on."""


@dataclass(frozen=True)
class Execution:
    """An operation of a program, at any depth, and how often it runs.

    Attributes:
      eqn: the operation.
      work: what one run of it takes; None where no count is known.
      path: which operation it is: from outside in, its number and that of the function around the next.
      times: how often it runs; in a loop of unknown length, in one step of that loop.
      loops: the loops of unknown length around it, from outside in, by the numbers in `Program.loops`.
      scopes: the user's name scopes around it, from outside in.
      calls: the operations that call the functions around it, from outside in.
      function: the function with a rule of its own whose part it is; None where there is none.
      pulls_back: the op on whose way back it is: the innermost one that is marked; None where none is.
    """

    eqn: Equation
    path: Path
    work: Work | None = None
    times: int = 1
    loops: tuple[int, ...] = ()
    scopes: tuple[str, ...] = ()
    calls: tuple[Equation, ...] = ()
    function: str | None = None
    pulls_back: str | None = None

    @property
    def op(self) -> str:
        """The op whose work it is: the one that it pulls back, or the one that it is."""
        return self.pulls_back or self.function or self.eqn.primitive.name

    @property
    def scope(self) -> str:
        """The name scopes around it: ``encoder/layer_0``."""
        return "/".join(self.scopes)

    @property
    def all_work(self) -> Work:
        """The work of all its runs; none where no count is known."""
        return Work() if self.work is None else self.work * self.times

    def inside(self, eqn: Equation, path: Path, function: str | None) -> Execution:
        """An operation in a function that this one calls."""
        names = [scope.name for scope in _jax.scopes_of_equation(eqn)]
        return replace(
            self,
            eqn=eqn,
            path=path,
            calls=(*self.calls, self.eqn),
            scopes=(*self.scopes, *(name for name in names if not name.startswith(CALL))),
            function=self.function or function,
            pulls_back=_jax.pulled_back_op(eqn.source_info) or self.pulls_back,
        )


Steps = Callable[[Equation], int | None]
"""From a ``while`` to the number of its steps; None where that is not known."""


def total(executions: Iterable[Execution]) -> Work:
    """The work of some operations, without that in loops of unknown length."""
    return sum((e.all_work for e in executions if not e.loops), Work())


def not_known(eqn: Equation) -> None:
    """The number of steps of a loop that nothing is known of."""


@dataclass
class Program:
    """What runs in a traced program, and what was chosen or not known.

    Attributes:
      steps: how many steps a ``while`` takes.
      taken: by path, how often a part of a loop or a branch ran, where that was seen.
      opaque: calls that count as operations; what they call is not looked into.
      rules: those by which functions may be ops; None where that does not matter.
      executions: the operations.
      loops: by a number of their own, the loops of unknown length in words.
      branches: of branches that differ, which one was counted, in words.
    """

    steps: Steps
    taken: Mapping[Path, int] = field(default_factory=dict)
    opaque: frozenset[Primitive] = frozenset()
    rules: Rules | None = None
    executions: list[Execution] = field(default_factory=list)
    loops: dict[int, str] = field(default_factory=dict)
    branches: dict[str, None] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        jaxpr: Jaxpr,
        steps: Steps,
        taken: Mapping[Path, int] | None = None,
        opaque: frozenset[Primitive] = frozenset(),
        rules: Rules | None = None,
    ) -> Program:
        """What runs in a jaxpr."""
        program = cls(steps, taken or {}, opaque, rules)
        for i, eqn in enumerate(jaxpr.eqns):
            program.executions += program.executed(program.inside(Execution(eqn, ()), eqn, (i,)))
        return program

    def executed(self, own: Execution) -> Iterator[Execution]:
        """An operation, or those in the functions that it calls."""
        parts = None if own.eqn.primitive in self.opaque else parts_of(own.eqn)
        if parts is None:
            yield replace(own, work=work_of(own.eqn))
        elif parts[0].is_branch and (*own.path, 0) not in self.taken:
            yield from self.most(parts, own)
        else:
            for i, part in enumerate(parts):
                path = (*own.path, i)
                yield from self.within(part, replace(self.running(part, own, path), path=path))

    def within(self, part: Part, around: Execution) -> Iterator[Execution]:
        """The operations of a function that an operation calls."""
        for i, eqn in enumerate(part.jaxpr.eqns):
            yield from self.executed(self.inside(around, eqn, (*around.path, i)))

    def inside(self, around: Execution, eqn: Equation, path: Path) -> Execution:
        """An operation in a function that another one calls."""
        name, mark = unmarked(_jax.called_function(eqn) or "")
        own = mark or eqn.primitive is _jax.custom_vjp_call_p
        if not own and name and self.rules is not None:
            own = self.rules.find(FunctionId(name)) is not None
        return around.inside(eqn, path, name.split(" at ")[0] if own else None)

    def running(self, part: Part, own: Execution, path: Path) -> Execution:
        """A call of a function, which runs as often as was seen, or as `part` says."""
        if path in self.taken:
            return replace(own, times=self.taken[path])
        count = self.steps(own.eqn) if part.steps is None else part.steps
        if count is not None:
            return replace(own, times=own.times * (count + part.more))
        self.loops[id(own.eqn)] = in_words(own)
        return replace(own, loops=(*own.loops, id(own.eqn)))

    def most(self, parts: list[Part], own: Execution) -> list[Execution]:
        """The operations of the branch with the most work; a loop of unknown length is more than any."""
        tried = []
        for i, part in enumerate(parts):
            inside = Program(self.steps, self.taken, self.opaque, self.rules)
            inside.executions += inside.within(part, replace(own, path=(*own.path, i)))
            tried.append(inside)
        sizes = [inside.size for inside in tried]
        index = sizes.index(max(sizes))
        if len(set(sizes)) > 1:
            self.branches[f"branch {index} of {len(parts)} of {in_words(own)}"] = None
        self.branches |= tried[index].branches
        self.loops |= tried[index].loops
        return tried[index].executions

    @property
    def size(self) -> tuple[bool, float, float]:
        """By which branches are compared: loops of unknown length, operations, bytes."""
        total = sum((execution.all_work for execution in self.executions), Work())
        return bool(self.loops), total.operations, total.bytes


def in_words(own: Execution) -> str:
    """An operation and its place in the source, or that of the innermost call around it that has one."""
    eqns = (own.eqn, *reversed(own.calls))
    places = (_jax.where(eqn.source_info) for eqn in eqns)
    return f"{own.eqn.primitive.name} at {next(filter(None, places), '<unknown line>')}"
