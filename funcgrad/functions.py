"""A call of a function as one node, whose pullback is a rule of the user's.

The call becomes a ``jax.custom_vjp`` over the arrays among its arguments, so that every transform of
JAX's takes it: a vmapped call's rule is vmapped. What the rule reads is found as for a primitive.
"""

from __future__ import annotations

import functools
import inspect
import re
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.tree_util import (
    Partial,
    tree_broadcast,
    tree_flatten,
    tree_leaves,
    tree_structure,
    tree_unflatten,
)

from funcgrad import _jax, errors
from funcgrad._jax import Cotangent, Positions, Value
from funcgrad.broadcasting import unbroadcast
from funcgrad.keys import FunctionId, same
from funcgrad.registry import Rule
from funcgrad.rule_program import RuleProgram, program_of

# --- calls


@dataclass(frozen=True)
class Argument:
    """One argument of a call: a parameter's, or one of several that a starred parameter takes."""

    parameter: str
    value: Any
    element: Any = None
    is_operand: bool = False

    @property
    def name(self) -> str:
        """By what name a rule is given it."""
        return self.element if isinstance(self.element, str) else self.parameter


IsOperand = Callable[[inspect.Parameter, Any], bool]
"""Whether a parameter's argument is an operand."""


def _has_arrays(parameter: inspect.Parameter, value: Any) -> bool:
    return _jax.holds_arrays(value)


@dataclass(frozen=True, eq=False)
class Call:
    """A function's arguments, of which those with arrays in them are the operands."""

    signature: inspect.Signature
    arguments: tuple[Argument, ...]
    takes_numbers: bool = False
    """Whether the numbers in operands are arrays, as an op's are."""

    @classmethod
    def of(
        cls,
        function: Any,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        is_operand: IsOperand = _has_arrays,
    ) -> Call:
        """The call ``function(*args, **kwargs)``, with the defaults."""
        signature = signature_of(function)
        bound = signature.bind(*args, **kwargs)
        given = {*bound.arguments}
        bound.apply_defaults()
        arguments: list[Argument] = []
        for name, value in bound.arguments.items():
            operand = is_operand if name in given else _has_arrays  # a default is a param
            arguments += _arguments_of(signature.parameters[name], value, operand)
        return cls(signature, tuple(arguments), is_operand is not _has_arrays)

    @property
    def operands(self) -> list[Argument]:
        return [a for a in self.arguments if a.is_operand]

    def agrees(self, op: FunctionId) -> bool:
        """Whether the arguments that the op fixes are this call's."""
        values = {a.parameter: a.value for a in self.arguments}
        return op.fixed is None or op.fixed.agrees(self.signature, values)

    def with_operands(self, values: Sequence[Any]) -> Call:
        """The same call with other values for its operands."""
        new = iter(values)
        arguments = tuple(
            Argument(a.parameter, next(new), a.element, True) if a.is_operand else a
            for a in self.arguments
        )
        return Call(self.signature, arguments, self.takes_numbers)

    def params_for(self, function: Any) -> dict[str, Any]:
        """Arguments that are no operands, by name; of those left at defaults what `function` takes."""
        params = [a for a in self.arguments if not a.is_operand]
        takes, takes_all = keywords_of(signature_of(function))
        return {
            a.name: a.value for a in params if takes_all or a.name in takes or self.is_explicit(a)
        }

    def is_explicit(self, a: Argument) -> bool:
        """Whether an argument differs from its default, and is not the object of a method."""
        default = self.signature.parameters[a.parameter].default
        return a.parameter != "self" and not same(default, a.value)

    def run(self, function: Any) -> Any:
        """What `function` returns for these arguments."""
        collected: dict[str, Any] = {}
        for a in self.arguments:
            if a.element is None:
                collected[a.parameter] = a.value
            elif isinstance(a.element, str):
                collected.setdefault(a.parameter, {})[a.element] = a.value
            else:
                collected[a.parameter] = (*collected.get(a.parameter, ()), a.value)
        bound = inspect.BoundArguments(self.signature, collected)  # type: ignore[arg-type]
        return function(*bound.args, **bound.kwargs)


@_jax.cache()
def signature_of(function: Any) -> inspect.Signature:
    """A function's own signature, not that of one that it wraps."""
    return inspect.signature(function, follow_wrapped=False)


def keywords_of(signature: inspect.Signature) -> tuple[set[str], bool]:
    """Names that a function takes by keyword, and whether it takes all."""
    parameters = signature.parameters.values()
    takes = {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    return takes, any(p.kind is p.VAR_KEYWORD for p in parameters)


def _arguments_of(parameter: inspect.Parameter, value: Any, operand: IsOperand) -> list[Argument]:
    """A parameter's arguments: several, if it is starred."""
    name = parameter.name
    if parameter.kind is parameter.VAR_KEYWORD:
        return [Argument(name, x, key, operand(parameter, x)) for key, x in value.items()]
    if parameter.kind is parameter.VAR_POSITIONAL and operand(parameter, value):
        return [Argument(name, x, i, True) for i, x in enumerate(value)]
    return [Argument(name, value, is_operand=operand(parameter, value))]


# --- what a rule is given


@dataclass(frozen=True)
class Form:
    """How a call's operands are made of arrays, and its other arguments.

    Attributes:
      names: of the operands.
      tree: the structure of the tuple of operands.
      places: which leaves are arrays.
      constants: the other leaves.
      params: arguments that are no operands, by name.
      defaults: those of the params that have their default values, which a rule need not take.
      numbers: positions, among operands and numbers, of params that are numbers.
    """

    names: tuple[str, ...]
    tree: Any
    places: Positions
    constants: tuple[Any, ...]
    params: tuple[tuple[str, Any], ...]
    defaults: frozenset[str]
    numbers: Positions

    @classmethod
    def of(cls, call: Call) -> tuple[Form, list[Value]]:
        """The form of a call, and its arrays."""
        operands = call.operands
        leaves, tree = tree_flatten(tuple(a.value for a in operands))
        is_array = [
            _jax.is_array_leaf(x) or (call.takes_numbers and _jax.is_number(x)) for x in leaves
        ]
        params = [a for a in call.arguments if not a.is_operand]
        numeric = [a for a in call.arguments if a.is_operand or _jax.is_number(a.value)]
        form = cls(
            tuple(a.name for a in operands),
            tree,
            tuple(i for i, there in enumerate(is_array) if there),
            tuple(leaf for leaf, there in zip(leaves, is_array, strict=True) if not there),
            tuple((a.name, a.value) for a in params),
            frozenset(a.name for a in params if not call.is_explicit(a)),
            tuple(i for i, a in enumerate(numeric) if not a.is_operand),
        )
        return form, [leaves[i] for i in form.places]

    @classmethod
    def of_primitive(cls, count: int, params: tuple[tuple[str, Any], ...]) -> Form:
        """The form of a primitive applied to so many arrays."""
        places = tuple(range(count))
        names = tuple(f"operand {i}" for i in places)
        return cls(names, tree_structure(places), places, (), params, frozenset(), ())

    def operands(self, arrays: Sequence[Value]) -> tuple[Any, ...]:
        """The operands that are made of these arrays."""
        given, constants = iter(arrays), iter(self.constants)
        count = self.tree.num_leaves
        leaves = [next(given if i in self.places else constants) for i in range(count)]
        return tree_unflatten(self.tree, leaves)

    def arrays_cts(self, cts: Sequence[Any], operands: Sequence[Any]) -> list[Cotangent]:
        """The cotangents of the arrays, from those of the operands."""
        filled = tree_broadcast(tuple(cts), operands, is_leaf=_is_none)
        leaves = tree_leaves(filled, is_leaf=_is_none)
        return [leaves[i] for i in self.places]


def _is_none(node: Any) -> bool:
    return node is None


def apply_rule(
    rule: Rule, op: FunctionId, form: Form, ct: Any, operands: tuple[Any, ...], out: Any
) -> tuple[Any, ...]:
    """Call a function's rule; return the operands' cotangents."""
    args, kwargs = arguments_for(rule, op, form, ct, operands, out)
    result = errors.call_rule(rule, op, args, kwargs)
    cts = tuple(result) if isinstance(result, (tuple, list)) else (result,)
    if len(cts) == len(operands) + len(form.numbers):
        cts = tuple(ct for i, ct in enumerate(cts) if i not in form.numbers)
    if len(cts) != len(operands):
        problem = errors.wrong_count(len(cts), len(operands))
        raise errors.Unlocated(errors.RuleResultError, rule, op, problem)
    return cts


def arguments_for(
    rule: Rule, op: FunctionId, form: Form, ct: Any, operands: tuple[Any, ...], out: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A rule's arguments: operands by position, or by name where a param stands between them."""
    try:
        signature = inspect.signature(rule.fn, follow_wrapped=False)
    except (TypeError, ValueError):
        return (ct, *operands), {"out": out, **dict(form.params)}
    takes, takes_all = keywords_of(signature)
    params = {
        name: value
        for name, value in form.params
        if takes_all or name in takes or name not in form.defaults
    }
    named = {name for name in form.names if name in takes}
    pairs = list(zip(form.names, operands, strict=True))
    by_name = {name: x for name, x in pairs if name in named}
    rest = [x for name, x in pairs if name not in named]
    for args, kwargs in (((ct, *operands), params), ((ct, *rest), {**params, **by_name})):
        with_out = {**kwargs, "out": out}
        try:
            signature.bind(*args, **with_out)
        except TypeError:
            continue
        return args, with_out
    raise errors.Unlocated(
        errors.RuleError,
        rule,
        op,
        errors.wrong_signature(signature, ("ct", *form.names), ("out", *params)),
    )


# --- one node


def node_of(op: FunctionId, rule: Rule, call: Call, run: Callable[[Call], Any]) -> Any:
    """Run a call so that it is one node with `rule`, whatever transforms are around it."""
    form, arrays = Form.of(call)
    custom = custom_vjp_of(op, rule, form, lambda operands: run(call.with_operands(operands)))
    try:
        return custom(*arrays)
    except jax.errors.UnexpectedTracerError as problem:
        if "TapeTracer" not in str(problem):
            raise
        raise errors.ClosedOverError(op, rule, _jax.here()) from problem


def custom_vjp_of(
    op: FunctionId, rule: Rule, form: Form, run: Callable[[Any], Any], marked: bool = True
) -> Any:
    """A function of a call's arrays, with the rule as its derivative."""

    def on_arrays(*arrays: Value) -> Any:
        return run(form.operands(arrays))

    def forward(*arrays: Any) -> Any:
        values = [x.value for x in arrays]
        wanted = tuple(i for i, x in enumerate(arrays) if x.perturbed)
        out = on_arrays(*values)
        outs, out_tree = tree_flatten(out)
        if _jax.is_hashable(form):
            on_leaves = rule_on_arrays_once(rule, op, form, out_tree)
        else:
            on_leaves = rule_on_arrays(rule, op, form, out_tree)
        in_avals = [jax.typeof(x) for x in values]
        out_avals = [jax.typeof(y) for y in outs]
        # an override's error can be located by the call around it, an op's under jax.grad cannot
        with errors.located_at(_jax.here_if_known if marked else _jax.here):
            program = program_of(on_leaves, op, {}, in_avals, out_avals, wanted, len(outs) > 1)
        both = (*values, *outs)
        application = Application(program, len(values))
        return out, Partial(application, *(both[i] for i in program.reads))

    def backward(saved: Any, ct: Any) -> tuple[Any, ...]:
        return saved(tree_leaves(ct, is_leaf=_is_symbolic_zero))

    for function in (on_arrays, backward):
        name_after(function, op, mark_of(op, rule) if marked else "")
    custom = jax.custom_vjp(on_arrays)
    on_arrays.again = lambda *arrays: tree_leaves(custom(*arrays))  # type: ignore[attr-defined]
    custom.defvjp(forward, backward, symbolic_zeros=True)
    return custom


def run_with_rule(
    op: FunctionId,
    rule: Rule,
    params: tuple[tuple[str, Any], ...],
    run: Callable[[Any], Any],
    operands: Sequence[Value],
    marked: bool = True,
) -> list[Value]:
    """The outputs of `run`, which has the rule as its derivative: a tuple of several, or the one."""
    form = Form.of_primitive(len(operands), params)
    out = custom_vjp_of(op, rule, form, run, marked)(*operands)
    return [*out] if isinstance(out, tuple) else [out]


def called_again(fun: Any) -> Callable[..., list[Any]] | None:
    """Another call of the function that a custom derivative's function runs, if it is one of these."""
    return getattr(_jax.function_behind(fun), "again", None)


def rule_on_arrays(rule: Rule, op: FunctionId, form: Form, out_tree: Any) -> Rule:
    """A function's rule as one over the arrays of its operands and the leaves of its output."""

    def on_arrays(ct: Any, *arrays: Any, out: Any) -> list[Any]:
        operands = form.operands(arrays)
        leaves = [[x] if out_tree.num_leaves == 1 else x for x in (ct, out)]
        ct, out = (tree_unflatten(out_tree, x) for x in leaves)
        return form.arrays_cts(apply_rule(rule, op, form, ct, operands, out), operands)

    functools.update_wrapper(on_arrays, rule.fn)
    return Rule(on_arrays, (op,), broadcasts=rule.broadcasts)


rule_on_arrays_once = _jax.cache()(rule_on_arrays)


@dataclass(frozen=True)
class Application:
    """A rule's program, as the residuals of a custom_vjp carry it."""

    program: RuleProgram
    count: int

    def __call__(self, *residuals_and_cts: Value) -> tuple[Cotangent, ...]:
        *residuals, cts = residuals_and_cts
        cts = [None if _is_symbolic_zero(ct) else ct for ct in cts]
        eager = _jax.is_eager(_jax.current_trace())
        found = self.program(residuals, cts, eager)
        leaves: list[Cotangent] = [None] * self.count
        signature = self.program.signature
        for i, ct in zip(signature.wanted, found, strict=True):
            aval = _jax.tangent_aval(signature.operands[i])
            leaves[i] = None if ct is None else unbroadcast(ct, aval)
        return tuple(leaves)


def _is_symbolic_zero(ct: Any) -> bool:
    return isinstance(ct, _jax.SymbolicZero)


# --- how a trace names a node


def name_after(fn: Any, op: FunctionId, mark: str) -> None:
    """Let a trace name `fn` after the op, with a mark that says by which rule it is one node."""
    name, place = op.description.rsplit(" at ", 1)
    file, line = place.rsplit(":", 1)
    code = fn.__code__.replace(co_filename=file, co_firstlineno=int(line))
    named = types.FunctionType(code, {}, f"{name}{mark}", None, fn.__closure__)
    fn.__wrapped__ = named  # read by JAX when it names a function
    fn.__signature__ = inspect.Signature(
        [inspect.Parameter("arrays", inspect.Parameter.VAR_POSITIONAL)]
    )


def mark_of(op: FunctionId, rule: Rule) -> str:
    """What marks a function's name in a trace that is one node by this rule."""
    return f"[{rule.name}@{rule.source}#{op.serial}]"


MARKED = re.compile(r"^(.*?)(\[.*@.*\])( at .*)$")


def unmarked(description: str) -> tuple[str, str]:
    """A function's name as a trace has it, without the mark, and the mark or an empty string."""
    found = MARKED.match(description) if "[" in description else None
    return (found[1] + found[3], found[2]) if found else (description, "")
