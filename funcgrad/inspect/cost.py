"""What a function and its gradient cost: operations and bytes, by op and by name scope."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import jax

from funcgrad import errors
from funcgrad.arguments import check_callable, name_of
from funcgrad.catching import catching
from funcgrad.default import DEFAULT
from funcgrad.inspect.arrays import check_has_values
from funcgrad.inspect.asking_xla import why_not_compiled
from funcgrad.inspect.costs.beside_jax import BesideJax, beside_jax
from funcgrad.inspect.costs.executions import Execution, Program, not_known, total
from funcgrad.inspect.costs.steps_taken import NOTHING_RUN, steps_taken
from funcgrad.inspect.costs.sums import Sums
from funcgrad.inspect.costs.ways import Traced, Ways, by_xla
from funcgrad.inspect.tables import number, table
from funcgrad.partition.work import Work
from funcgrad.registry import Rules
from funcgrad.surface import public
from funcgrad.transforms import vjp

BOUND = 5
"""A gradient takes at most so many times the operations of its function, as docs/cost.md counts."""

RUN = "run"

SHOWN = 16
"""How many rows of a table are printed."""


@dataclass(frozen=True)
class CostRow:
    """The work that one op, or one name scope, takes on both ways.

    Attributes:
      name: the op, or the scope ``encoder/layer_0``, which is empty outside all scopes.
      count: how often operations of it run in the function.
      function: their work.
      backward: the work of pulling them back. A sum at a value that is read twice is with the op that
        is pulled back last. The row of a call (`scan`, a checkpointed function) has what is no part of
        a rule inside it: what is computed again, and sums.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> found = funcgrad.inspect.cost(jnp.dot, jnp.ones((2, 3)), jnp.ones((3, 4)), xla=False)
      >>> [row] = found.by_op
      >>> print(row.name, row.count, row.function.flops)
      dot_general 1 48.0
    """

    name: str
    count: int
    function: Work
    backward: Work


@dataclass(frozen=True)
class OpenLoop:
    """A loop whose number of steps is not known.

    Attributes:
      name: ``while at file:line (function)``.
      program: ``function``, ``forward`` or ``backward``.
      step: the work of one step, and of one step of each such loop inside it.

    Example:
      >>> import jax, funcgrad
      >>> double = lambda x: jax.lax.while_loop(lambda x: x < 10, lambda x: 2 * x, x)
      >>> found = funcgrad.inspect.cost(double, 1.0, xla=False)
      >>> print(found.loops[0].program, found.loops[0].step.flops)  # a product and a comparison
      function 2.0
    """

    name: str
    program: str
    step: Work


@dataclass(frozen=True)
class NotCounted:
    """A primitive of whose work no count is known.

    Attributes:
      name: the primitive.
      function: how often the function runs it.
      gradient: how often value and gradient do.

    Example:
      >>> from funcgrad.inspect import NotCounted
      >>> print(NotCounted("foreign_solve", function=1, gradient=2))
      NotCounted(name='foreign_solve', function=1, gradient=2)
    """

    name: str
    function: int
    gradient: int


@dataclass(frozen=True)
class Cost:
    """What a function and its gradient cost; printed, tables.

    Attributes:
      name: the function.
      function: the work of the function alone.
      forward: the work of the function where its gradient is taken.
      backward: the work of all that the gradient needs besides, be it done on the way forward.
      by_op: a row for each op, the greatest work first.
      by_scope: a row for each name scope, the greatest work first.
      loops: the loops of unknown length, whose work is in no other figure.
      branches: of branches that differ, which ones were counted: those with the most work.
      not_counted: the primitives without a count, which are in no figure.
      xla_function: XLA's figures for the function; None where XLA was not asked or does not know.
      xla_gradient: XLA's figures for the value and the gradient, as one program.
      beside: the gradient beside that of ``jax.grad``; None where that was not asked.
      not_compiled: why XLA was not asked, though nobody said that it should not be; else empty.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> found = funcgrad.inspect.cost(jnp.dot, jnp.ones((2, 3)), jnp.ones((3, 4)), xla=False)
      >>> print(found.function.flops, found.backward.flops)  # 2·2·3·4, and twice that
      48.0 96.0
    """

    name: str
    function: Work
    forward: Work
    backward: Work
    by_op: tuple[CostRow, ...]
    by_scope: tuple[CostRow, ...]
    loops: tuple[OpenLoop, ...] = ()
    branches: tuple[str, ...] = ()
    not_counted: tuple[NotCounted, ...] = ()
    xla_function: Work | None = None
    xla_gradient: Work | None = None
    beside: BesideJax | None = None
    not_compiled: str = ""

    @property
    def gradient(self) -> Work:
        """The work of the value and the gradient."""
        return self.forward + self.backward

    @property
    def ratio(self) -> float | None:
        """Operations of value and gradient, by those of the function.

        None where a loop's length is not known, or where the gradient runs a primitive without a count
        more often than the function. If it runs such ones just as often, the true ratio is smaller.
        """
        more = any(own.gradient != own.function for own in self.not_counted)
        if self.loops or more or not self.function.operations:
            return None
        return self.gradient.operations / self.function.operations

    def scopes(self, depth: int | None = None) -> tuple[CostRow, ...]:
        """The rows by name scope, with those below a depth added to the scope that they are in.

        Args:
          depth: how many names a scope has at most; None for as many as still give a short table.

        Example:
          >>> import jax, jax.numpy as jnp, funcgrad
          >>> def model(x):
          ...     for i in range(2):
          ...         with jax.named_scope(f"layer_{i}"), jax.named_scope("activation"):
          ...             x = jnp.tanh(x)
          ...     return jnp.sum(x)
          >>> found = funcgrad.inspect.cost(model, jnp.ones(3), xla=False)
          >>> [row.name for row in found.scopes(1)]
          ['layer_0', 'layer_1', '']
        """
        if depth is not None:
            return _at_depth(self.by_scope, depth)
        deepest = max((row.name.count("/") + 1 for row in self.by_scope), default=1)
        tables = (_at_depth(self.by_scope, depth) for depth in range(deepest, 0, -1))
        return next((rows for rows in tables if len(rows) <= SHOWN), _at_depth(self.by_scope, 1))

    def as_dict(self) -> dict[str, Any]:
        """All figures in dicts, lists, strings and numbers, as JSON takes them."""
        return asdict(self) | {"ratio": self.ratio, "bound": BOUND}

    def __str__(self) -> str:
        return "\n\n".join(part for part in _printed(self) if part)


@public
def cost(
    fun: Callable[..., Any],
    *args: Any,
    has_aux: bool = False,
    rules: Rules = DEFAULT,
    steps: int | Literal["run"] | None = None,
    xla: bool | None = None,
    against_jax: bool = False,
) -> Cost:
    """Count the operations and bytes of a function and of its gradient, by op and by name scope.

    The traced programs are counted, before XLA changes them: an operation in a ``scan`` as often as the
    scan has steps, and of branches the one with the most work. Nothing is run, unless `steps` says so.

    Args:
      fun: a function of pytrees of arrays; its gradient is that by all floating-point leaves.
      *args: its arguments, or ``jax.ShapeDtypeStruct`` in their place.
      has_aux: `fun` returns a pair of its output and auxiliary data.
      rules: the backward rules.
      steps: how many steps each ``while`` in `fun` takes. Without it such a loop's work is given for one
        step. The gradient has loops of its own, over units of steps; their number is not known. With
        ``"run"`` value and gradient are run, and the steps and branches that were taken are counted.
      xla: compile `fun` and its gradient, and ask XLA for its figures too. None does so if `fun` has at
        most 2,000 operations; the printed cost says so where XLA was not asked.
      against_jax: count the gradient by ``jax.vjp`` too, and the rules of each op apart.

    Returns:
      A :class:`Cost`.

    Raises:
      errors.InputError: an argument has an axis of symbolic length, or no values although `steps` is
        ``"run"``; or `steps` is nothing of the kind.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> loss = lambda w, x: jnp.sum(jnp.tanh(w @ x))
      >>> found = funcgrad.inspect.cost(loss, jnp.ones((4, 8)), jnp.ones((8, 16)))
      >>> [(row.name, row.function.flops, row.backward.flops) for row in found.by_op[:1]]
      [('dot_general', 1024.0, 2048.0)]
      >>> round(found.ratio, 2)
      3.0
    """
    check_callable(fun)
    _check(fun, args, steps)
    ways = Ways.of(fun, args, functools.partial(vjp, rules=rules), has_aux)
    with catching(rules):
        plain = Traced.of(jax.make_jaxpr(ways.run)(*ways.given))
    taken = steps_taken(plain, ways) if steps == RUN else NOTHING_RUN
    given = steps if isinstance(steps, int) else None
    function = Program.of(plain.jaxpr, lambda eqn: given, taken.function, rules=rules)
    forward = Program.of(ways.forward.jaxpr, not_known, taken.forward)
    backward = Program.of(ways.backward.jaxpr, not_known, taken.backward)
    early = [execution for execution in forward.executions if execution.pulls_back]
    late = [execution for execution in forward.executions if not execution.pulls_back]
    both = [*early, *backward.executions]
    programs = {"function": function, "forward": forward, "backward": backward}
    not_compiled = ""
    if xla is None:
        not_compiled = why_not_compiled(len(function.executions), "xla=True")
        xla = not not_compiled
    xla_function = by_xla(ways.run, ways.given) if xla else None
    xla_gradient = by_xla(ways.gradient, ways.given) if xla else None
    ours = total([*forward.executions, *backward.executions])
    return Cost(
        name_of(fun),
        total(function.executions),
        total(late),
        total(both),
        _rows(function.executions, both, lambda execution: execution.op),
        _rows(function.executions, both, lambda execution: execution.scope),
        tuple(_open_loops(programs)),
        tuple(dict.fromkeys(words for program in programs.values() for words in program.branches)),
        tuple(_not_counted(function, forward, backward)),
        xla_function,
        xla_gradient,
        beside_jax(fun, args, has_aux, rules, ours, xla_gradient) if against_jax else None,
        not_compiled,
    )


def _check(fun: Callable[..., Any], args: Sequence[Any], steps: Any) -> None:
    if steps not in (None, RUN) and (not isinstance(steps, int) or steps < 0):
        raise errors.InputError(
            f"The cost of `{name_of(fun)}` was asked for with steps={steps!r}. Pass the number of steps "
            "that each while loop takes, an integer; or 'run'; or leave it out."
        )
    if steps == RUN:
        check_has_values(fun, args, "cost, with steps='run',")
    for path, x in jax.tree_util.tree_leaves_with_path(tuple(args)):
        shape = getattr(x, "shape", ())
        if not all(isinstance(n, int) for n in shape):
            raise errors.InputError(
                f"The cost of `{name_of(fun)}` was asked for, but leaf {jax.tree_util.keystr(path)} of "
                f"its arguments has the shape {shape}, in which a length is not known. Pass numbers."
            )


# --- figures


def _rows(
    function: Iterable[Execution], backward: Iterable[Execution], key: Callable[[Execution], str]
) -> tuple[CostRow, ...]:
    """The work by a key of the operations, the greatest first."""
    sums = Sums()
    for execution in function:
        if not execution.loops:
            sums.add(key(execution), execution.times, execution.all_work)
    for execution in backward:
        if not execution.loops:
            sums.add(key(execution), second=execution.all_work)
    return _sorted(sums)


def _at_depth(rows: Iterable[CostRow], depth: int) -> tuple[CostRow, ...]:
    sums = Sums()
    for row in rows:
        name = "/".join(row.name.split("/")[:depth])
        sums.add(name, row.count, row.function, row.backward)
    return _sorted(sums)


def _sorted(sums: Sums) -> tuple[CostRow, ...]:
    return tuple(sorted(sums.rows(CostRow), key=_size, reverse=True))


def _size(row: CostRow) -> tuple[float, float]:
    both = row.function + row.backward
    return both.operations, both.bytes


def _open_loops(programs: dict[str, Program]) -> Iterable[OpenLoop]:
    for name, program in programs.items():
        for loop, words in program.loops.items():
            inside = [e for e in program.executions if loop in e.loops]
            yield OpenLoop(words, name, sum((e.all_work for e in inside), Work()))


def _not_counted(function: Program, *gradient: Program) -> Iterable[NotCounted]:
    ours, *both = map(_runs_without_count, (function, *gradient))
    theirs = sum(both, Counter())
    for name in sorted({*ours, *theirs}):
        yield NotCounted(name, ours[name], theirs[name])


def _runs_without_count(program: Program) -> Counter[str]:
    counts: Counter[str] = Counter()
    for execution in program.executions:
        if execution.work is None:
            counts[execution.eqn.primitive.name] += execution.times
    return counts


# --- what is printed


def _printed(cost: Cost) -> Iterable[str]:
    yield f"Cost of {cost.name}"
    yield _totals(cost)
    yield _in_short(cost)
    yield _by("op", cost.by_op)
    if len(cost.by_scope) > 1:
        yield _by("scope", cost.scopes())
    if cost.beside is not None:
        yield str(cost.beside)
    yield "\n".join(_notes(cost))


FIGURES = ("flops", "transc.", "bytes")
"""The columns: flops, transcendentals and bytes."""


def _totals(cost: Cost) -> str:
    rows = [
        ("function", cost.function),
        ("forward", cost.forward),
        ("backward", cost.backward),
        ("XLA: function", cost.xla_function),
        ("XLA: value and gradient", cost.xla_gradient),
    ]
    known = [(name, *_figures(work)) for name, work in rows if work is not None]
    return table(("", *FIGURES), known)


def _figures(work: Work) -> tuple[str, ...]:
    return number(work.flops), number(work.transcendentals), number(work.bytes)


def _in_short(cost: Cost) -> str:
    if cost.ratio is None:
        in_full = not (cost.loops or cost.not_counted)
        why = "has no operations" if in_full else "is not counted in full"
        return (
            f"Value and gradient by function: not known, since the function or its gradient {why}."
        )
    at_most = "at most " if cost.not_counted else ""
    verdict = "within" if cost.ratio <= BOUND else "above"
    moved = cost.gradient.bytes / max(cost.function.bytes, 1.0)
    return (
        f"Value and gradient take {at_most}{cost.ratio:.2f} times the operations of the function "
        f"({verdict} the {BOUND} of a cheap gradient), and move {moved:.2f} times its bytes."
    )


def _by(title: str, rows: Sequence[CostRow]) -> str:
    head = (title, "runs", *FIGURES, *(f"{name} back" for name in FIGURES), "back/function")
    cells = [
        (
            row.name or "(none)",
            number(row.count),
            *_figures(row.function),
            *_figures(row.backward),
            _ratio(row),
        )
        for row in rows[:SHOWN]
    ]
    more = f"\nand {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    return table(head, cells) + more


def _ratio(row: CostRow) -> str:
    own = row.function.operations
    return f"{row.backward.operations / own:.2f}" if own else ""


def _notes(cost: Cost) -> Iterable[str]:
    for loop in cost.loops:
        operations, moved = number(loop.step.operations), number(loop.step.bytes)
        yield (
            f"Not in the figures, {loop.program}: {loop.name}, whose number of steps is not known; "
            f"a step takes {operations} operations and {moved} bytes."
        )
    for words in cost.branches:
        yield f"Counted as if taken, since it has the most work: {words}."
    for own in cost.not_counted:
        yield (
            f"Not in the figures: {own.name}, of whose work no count is known. The function runs it "
            f"{number(own.function)} times, value and gradient {number(own.gradient)} times."
        )
    if cost.not_compiled:
        yield f"XLA's own figures are not asked for: {cost.not_compiled}."
    if cost.xla_function is not None or cost.xla_gradient is not None:
        yield "XLA counts after fusion, and the body of a loop once however often it runs."
