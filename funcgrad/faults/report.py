"""What is said of a fault: the op, its operands, its place, and what helps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from funcgrad import _jax
from funcgrad._jax import INF, Equation, Fault, LoopStep, Value
from funcgrad.catching import CALL
from funcgrad.faults.advice import Facts, advice
from funcgrad.registry import Rule, Rules


@dataclass(frozen=True)
class Summary:
    """The values of an array in a few numbers.

    Attributes:
      type: its dtype and shape, such as ``float32[8,5]``.
      low, high: the least and the greatest of its finite values (of a complex array's absolute values);
        None if there is none, or no order.
      nans, infs: how many of its elements are NaN and how many infinite.
      there: its element that belongs to the result's first bad element, where the op works element by
        element; else None.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> print(funcgrad.inspect.nonfinite(jnp.log, 0.0).result)
      float32[], with 1 inf, there -inf
    """

    type: str
    low: float | None = None
    high: float | None = None
    nans: int = 0
    infs: int = 0
    there: Any = None

    def __str__(self) -> str:
        parts = [self.type]
        if self.low is not None and self.high is not None:
            same = self.low == self.high
            extent = f"from {_number(self.low)} to {_number(self.high)}"
            parts.append(f"all {_number(self.low)}" if same else extent)
        counts = [f"{n} {name}" for n, name in ((self.nans, "nan"), (self.infs, "inf")) if n]
        parts += [f"with {' and '.join(counts)}"] if counts else []
        parts += [f"there {_number(self.there)}"] if self.there is not None else []
        return ", ".join(parts)


def _number(x: Any) -> str:
    return f"{x:.6g}" if isinstance(x, (int, float, complex)) else str(x)


@dataclass(frozen=True)
class NonFinite:
    """Where a NaN or an infinity begins. It is false if every result is finite; printed, a few lines.

    Attributes:
      kind: ``nan`` or ``inf``; ``nan or inf`` where no more is known; None if every result is finite.
      reaches: the results that are not finite: ``value``, ``gradient by w['b']``.
      op: the primitive that made it, or None: then `source` says where it comes from.
      source: the argument, or the value that the function closes over, that is not finite already;
        ``a constant`` if `op` reads a number in the program that is not finite; else None.
      backward: whether that happened on the way back.
      pulls_back: on the way back, the op whose derivative `op` is a part of.
      call: on the way back, the call whose backward program `op` is a part of.
      rule: the rule of `pulls_back` and its source, where it is one rule.
      where: ``file:line (function)`` in the user's source.
      scope: the name scopes around it, such as ``encoder/layer_0``.
      steps: the loops around it with the step of each, from outside in.
      example: under a ``jax.vmap`` around the derivative, the number of the example for each vmap, the
        outermost first.
      vmapped: whether the op is under a ``jax.vmap`` in the function. Where JAX puts the vmapped axis
        first, as it does for ``in_axes=0``, the example is the first number of `index`.
      index: of the first bad element in the op's result.
      result: what the op gave.
      operands: what it was given.
      became_nan: the op at which an infinity became a NaN, and its place; None if the kind is the same.
      suggestion: what helps, where the cause is a known one.
      problem: why nothing is known but the results that are not finite; else None.

    Example:
      >>> import jax.numpy as jnp, funcgrad
      >>> found = funcgrad.inspect.nonfinite(jnp.log, 0.0)
      >>> print(bool(found), found.kind, found.op)
      True inf log
    """

    kind: str | None = None
    reaches: tuple[str, ...] = ()
    op: str | None = None
    source: str | None = None
    backward: bool = False
    pulls_back: str | None = None
    call: str | None = None
    rule: str | None = None
    where: str | None = None
    scope: str = ""
    steps: tuple[LoopStep, ...] = ()
    example: tuple[int, ...] = ()
    vmapped: bool = False
    index: tuple[int, ...] = ()
    result: Summary | None = None
    operands: tuple[Summary, ...] = ()
    became_nan: str | None = None
    suggestion: str | None = None
    problem: str | None = None

    def __bool__(self) -> bool:
        return self.kind is not None

    def __str__(self) -> str:
        if not self:
            return "Every result is finite."
        rows = [
            ("line", self.where),
            ("scope", self.scope),
            ("step", ", ".join(map(_shown_step, self.steps))),
            ("example", ", ".join(map(str, self.example))),
            ("result", self._shown_result()),
            *((f"operand {i}", str(x)) for i, x in enumerate(self.operands)),
            ("then", self.became_nan and f"the infinity became a nan at {self.became_nan}"),
            ("reaches", in_short(self.reaches)),
            ("try", self.suggestion),
            ("unknown", self.problem),
        ]
        lines = [f"  {name + ':':<11}{text}" for name, text in rows if text]
        return "\n".join([self._headline(), *lines])

    def _headline(self) -> str:
        article = {"nan": "a nan", "inf": "an infinity"}.get(str(self.kind), "a nan or an infinity")
        if self.op is None:
            begins = f"is there from the start, in {self.source}" if self.source else "was made"
            return f"{article.capitalize()} {begins}"
        begins = f"{article.capitalize()} begins at `{self.op}`"
        if self.source is not None:
            begins += f", which reads {self.source} that is not finite"
        if not self.backward:
            return f"{begins}, on the way forward"
        if self.pulls_back is None:
            return f"{begins}, run again on the way back through `{self.call}`"
        rule = f" in {self.rule}," if self.rule else ""
        return f"{begins},{rule} on the way back through `{self.pulls_back}`"

    def _shown_result(self) -> str | None:
        if self.result is None:
            return None
        at = f" at index [{', '.join(map(str, self.index))}]" if self.index else ""
        vmapped = "; under vmap, whose axis is the first for in_axes=0" if self.vmapped else ""
        return f"{self.result}{at}{vmapped}"


def in_short(names: Sequence[str]) -> str:
    """Some names in a line: the first few, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


SHOWN = 4


def _shown_step(step: LoopStep) -> str:
    if step.index is None:
        return f"of a {step.loop}; which one is not known, its derivative goes over several at once"
    of = "" if step.length is None else f" of {step.length}"
    return f"{step.index}{of} of a {step.loop}"


def report(
    fault: Fault,
    reaches: Sequence[str],
    labels: Sequence[str],
    rules: Rules,
    example: tuple[int, ...] = (),
) -> NonFinite:
    """What is said of a fault.

    Args:
      fault: the fault.
      reaches: the results that are not finite.
      labels: the names of the program's inputs.
      rules: by which the program differentiates.
      example: the example under vmap that the program is of.
    """
    bad = np.asarray(fault.outs[fault.position if fault.eqn is not None else 0])
    index = _first(bad, fault.kind)
    result = summary(bad, index)
    if fault.eqn is None:
        source = labels[fault.position]
        return NonFinite(
            fault.kind, tuple(reaches), None, source, example=example, index=index, result=result
        )
    eqns = fault.equations
    sources = [eqn.source_info for eqn in eqns]
    elementwise = _jax.is_elementwise(fault.eqn.primitive)
    operands = [_operand(x, bad.shape, index, elementwise) for x in fault.operands]
    own = _jax.pulled_back_op(sources[-1])
    calls = [op for source in reversed(sources[:-1]) if (op := _jax.pulled_back_op(source))]
    became = fault.became
    facts = Facts(
        fault.eqn.primitive.name,
        own,
        fault.kind,
        str(bad.dtype),
        tuple(operand.there for operand in operands),
        became is not None,
        fault.cause == "constant",
    )
    return NonFinite(
        kind=fault.kind,
        reaches=tuple(reaches),
        op=_name_of(fault.eqn),
        source="a constant" if fault.cause == "constant" else None,
        backward=own is not None or bool(calls),
        pulls_back=own,
        call=calls[0] if calls else None,
        rule=_rule_named(own, rules),
        where=fault.where,
        scope="/".join(name for eqn in eqns for name in _scopes(eqn)),
        steps=_steps(fault),
        example=example,
        vmapped=any(map(_jax.is_vmapped, sources)),
        index=index,
        result=result,
        operands=tuple(operands),
        became_nan=None if became is None else _op_and_place(became),
        suggestion=advice(facts),
    )


def _steps(fault: Fault) -> tuple[LoopStep, ...]:
    """The steps around a fault; the unknown one of a loop that goes in units comes once."""
    found: list[LoopStep] = []
    for _, step in fault.around:
        if step is not None and (step.index is not None or found[-1:] != [step]):
            found.append(step)
    return tuple(found)


def _op_and_place(eqn: Equation) -> str:
    place = _jax.where(eqn.source_info)
    return f"`{_name_of(eqn)}`" + (f", {place}" if place else "")


def _scopes(eqn: Equation) -> list[str]:
    """The user's name scopes around an equation, in its own program."""
    names = [scope.name for scope in _jax.scopes_of_equation(eqn)]
    return [name for name in names if not name.startswith(CALL)]


def _name_of(eqn: Equation) -> str:
    """The name of a primitive; of a call, with the name of the function."""
    called = eqn.params.get("name")
    name = eqn.primitive.name
    return f"{name}({called})" if called and _jax.inner_jaxprs(eqn.params) else name


def _rule_named(name: str | None, rules: Rules) -> str | None:
    """The one rule of the op of this name, with its source; None if several ops are named so."""
    found = {entry for op, entry in rules.items() if str(op).split(" at ")[0] == name}
    if len(found) != 1:
        return None
    (rule,) = found
    return f"{rule.name} ({rule.source})" if isinstance(rule, Rule) else None


# --- values


def _first(x: np.ndarray, kind: str) -> tuple[int, ...]:
    """The index of the first element of this kind."""
    test = np.isinf if kind == INF else np.isnan
    return tuple(int(i) for i in np.argwhere(test(x))[0])


def summary(x: np.ndarray, index: tuple[int, ...] | None = None) -> Summary:
    """An array in a few numbers, and its element at `index`."""
    shown = f"{x.dtype}[{','.join(map(str, x.shape))}]"
    there = None if index is None else x[index].item()
    if not _jax.has_numbers(x):
        if x.dtype.kind not in "iu" or not x.size:
            return Summary(shown, there=there)
        return Summary(shown, int(x.min()), int(x.max()), there=there)
    nans, infs = int(np.isnan(x).sum()), int(np.isinf(x).sum())
    sizes = np.abs(x) if np.iscomplexobj(x) else x
    finite = sizes[np.isfinite(sizes)].astype(np.float64)
    if not finite.size:
        return Summary(shown, None, None, nans, infs, there)
    return Summary(shown, float(finite.min()), float(finite.max()), nans, infs, there)


def _operand(
    x: Value, shape: tuple[int, ...], index: tuple[int, ...], elementwise: bool
) -> Summary:
    """An operand in a few numbers, with the element that went into the result's element at `index`."""
    if not _jax.is_array(x):
        return Summary(str(_jax.typeof(x)))
    array = np.asarray(x)
    fits = elementwise and array.ndim in (0, len(shape))
    if not fits:
        return summary(array)
    sizes = zip(index, array.shape, strict=array.ndim > 0)
    return summary(array, tuple(0 if size == 1 else i for i, size in sizes))
