"""A jaxpr split in two: a forward program, and a backward program for each pattern of cotangents.

The jaxpr is traced once with our tape. The backward program is the walk over that tape. The residuals,
which its rules read, become extra outputs of the forward program, unless they are inputs or outputs
already. Both programs are cached by (jaxpr, which inputs are differentiated, rules), so that a function
called 24 times is traced once.

    y = sin(x) * w    forward:  x, w        -> y, sin(x), cos(x)       `Split.forward`
                      residuals: extra 0, extra 1, input 1             `Split.residuals`
                      backward: residuals, ct_y -> ct_x, ct_w          `Split.backward((True,))`
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Literal, NamedTuple, TypeVar

import jax
from jax import lax

from funcgrad import _jax, errors
from funcgrad._jax import (
    Atom,
    Aval,
    Cotangent,
    Equation,
    Jaxpr,
    Mask,
    Positions,
    Slot,
    Value,
    Var,
    variables,
)
from funcgrad.backward import walk
from funcgrad.fusion import Fusion, fusion_of
from funcgrad.masks import filled, mask_of, select, spread
from funcgrad.registry import Rules
from funcgrad.rule_program import cached
from funcgrad.tape import FrozenTape, LeafIndex, freeze, record

T = TypeVar("T")
Group = Literal["input", "output", "extra"]


class Call:
    """A jaxpr to be called as a jitted function, with its constants.

    Example:
      >>> import jax, jax.numpy as jnp, numpy as np
      >>> from funcgrad.extend import Call
      >>> closed = jax.make_jaxpr(lambda x: 2 * x)(1.0)
      >>> call = Call(closed.jaxpr, closed.consts, "double")
      >>> print(call.jitted(np.float32(3.0)))
      [Array(6., dtype=float32)]
    """

    def __init__(self, jaxpr: Jaxpr, consts: Sequence[Value], name: str):
        self.closed = _jax.close(jaxpr)
        self.consts = tuple(consts)
        self.jitted = _jax.jitted(self.closed, name)

    @property
    def closes_over_tracer(self) -> bool:
        return any(isinstance(const, _jax.Tracer) for const in self.consts)

    @property
    def constants(self) -> dict[Var, Value]:
        """The values of the variables that the jaxpr closes over: its first inputs."""
        return dict(zip(self.closed.jaxpr.invars[: len(self.consts)], self.consts, strict=True))

    @property
    def inputs(self) -> list[Var]:
        """The jaxpr's variables for the arguments."""
        return self.closed.jaxpr.invars[len(self.consts) :]

    @functools.cached_property
    def handed_on(self) -> Positions | None:
        """Which argument each output is, in a jaxpr without operations; None for any other."""
        jaxpr = self.closed.jaxpr
        computes = jaxpr.eqns or any(map(_jax.is_literal, jaxpr.outvars))
        return None if computes else tuple(map(jaxpr.invars.index, jaxpr.outvars))

    def __call__(self, args: Sequence[Value], params: dict[str, Any], shared: bool) -> list[Value]:
        """Run the jaxpr with the settings of the user's jitted call, whose own operations it shares."""
        args = [*self.consts, *args]
        if _jax.has_settings(params):
            return _jax.bind_jit(self.closed, args, params, shared)
        found = None if shared else self.handed_on
        return self.jitted(*args) if found is None else [args[i] for i in found]


@dataclass(frozen=True)
class Residuals:
    """Where each residual lies once the forward program has run.

    The constants that a program closes over count as its first inputs.

    Attributes:
      locations: of each residual, its group and its position in the group.
    """

    locations: tuple[tuple[Group, int], ...]

    @classmethod
    def locate(
        cls, residuals: Sequence[T], inputs: Sequence[T], outputs: Sequence[T]
    ) -> tuple[Residuals, list[T]]:
        """Where residuals lie, and those that must be given out besides, each once."""
        known: dict[int, tuple[Group, int]] = {id(x): ("input", i) for i, x in enumerate(inputs)}
        for i, x in enumerate(outputs):
            known.setdefault(id(x), ("output", i))
        extra: list[T] = []
        for x in residuals:
            if id(x) not in known:
                known[id(x)] = ("extra", len(extra))
                extra.append(x)
        return cls(tuple(known[id(x)] for x in residuals)), extra

    def find(self, inputs: Sequence[T], outputs: Sequence[T], extra: Sequence[T]) -> list[T]:
        """The residuals, from the values, the variables or the types of the three groups."""
        groups: dict[Group, Sequence[T]] = {"input": inputs, "output": outputs, "extra": extra}
        return [groups[group][i] for group, i in self.locations]


@dataclass(frozen=True, eq=False)
class Recording:
    """The tape of a jaxpr, to be walked for any pattern of cotangents.

    Attributes:
      tape: the tape, whose first slots are those of the differentiated inputs.
      slots: of the outputs, None for one that carries no gradient.
      leaf_avals: the types of the tape's leaves.
      num_inputs: the number of differentiated inputs.
      annotations: what the user said of the call besides, where the tape was recorded.
    """

    tape: FrozenTape
    slots: tuple[Slot | None, ...]
    leaf_avals: tuple[Aval, ...]
    num_inputs: int
    annotations: Any = field(default_factory=_jax.current_annotations)

    @functools.cached_property
    def present(self) -> Mask:
        """Which outputs carry a gradient."""
        return mask_of(self.slots)

    def backward(self, arrived: Mask) -> Backward:
        """Trace the walk over the tape for the cotangents that arrive."""
        num_leaves = len(self.leaf_avals)
        slots = filled(select(self.slots, arrived))
        present: list[bool] = []

        def backward(*flat: Value) -> list[Cotangent]:
            tape = self.tape.thaw(flat[:num_leaves])
            seeds = zip(slots, flat[num_leaves:], strict=True)
            cts = walk(tape, seeds, range(self.num_inputs), consume=True)
            present.extend(mask_of(cts))
            return filled(cts)

        ct_avals = [_jax.strong(_jax.cotangent_aval(self.tape.avals[slot])) for slot in slots]
        with _jax.annotated_only_as(self.annotations):
            jaxpr, consts = _jax.stage(backward, [*self.leaf_avals, *ct_avals], "backward")
        first_ct = len(consts) + num_leaves
        keep_cts = [False] * first_ct + [True] * len(ct_avals)
        jaxpr, used = _jax.prune(jaxpr, [True] * len(jaxpr.outvars), keep_cts)
        used_consts = select(consts, used[: len(consts)])
        leaves = select(range(num_leaves), used[len(consts) : first_ct])
        return Backward(Call(jaxpr, used_consts, "backward"), tuple(leaves), tuple(present))


@dataclass(frozen=True)
class Backward:
    """A backward program for one pattern of cotangents.

    Attributes:
      call: (residuals, cotangents that arrived) -> input cotangents that are not None.
      leaves: the leaves of the tape that are its residuals.
      present: which differentiated inputs get a cotangent.
    """

    call: Call
    leaves: Positions
    present: Mask

    @property
    def residual_variables(self) -> list[Var]:
        """The program's variables for its residuals."""
        return self.call.inputs[: len(self.leaves)]

    @property
    def ct_variables(self) -> list[Var]:
        """The program's variables for the cotangents that arrived."""
        return self.call.inputs[len(self.leaves) :]


@dataclass(frozen=True, eq=False)
class Split:
    """A jaxpr split in two.

    Attributes:
      forward: inputs -> (outputs, extra residuals).
      recording: the tape, and where inputs and outputs are on it.
      residuals: where the residuals lie.
      leaves: of each residual, which leaf of the tape the residual is.
      input_avals: the types of all inputs.
      closes_over_tracer: whether no cache may keep this.
      backwards: backward programs by the pattern of cotangents.

    Example:
      >>> import jax, jax.numpy as jnp, funcgrad
      >>> closed = jax.make_jaxpr(jnp.tanh)(1.0)
      >>> split = funcgrad.extend.split_of(closed, (True,), funcgrad.DEFAULT)
      >>> print(split.input_avals)
      (ShapedArray(float32[], weak_type=True),)
    """

    forward: Call
    recording: Recording
    residuals: Residuals
    leaves: Positions
    input_avals: tuple[Aval, ...]
    closes_over_tracer: bool
    backwards: dict[Mask, Backward] = field(default_factory=dict)

    @property
    def tape(self) -> FrozenTape:
        """The tape that the backward program walks."""
        return self.recording.tape

    @property
    def present(self) -> Mask:
        """Which outputs carry a gradient."""
        return self.recording.present

    @functools.cached_property
    def fusion(self) -> Fusion | None:
        """What XLA can fuse of the backward program for all cotangents; None where none is kept."""
        program = self.backwards.get(self.present)
        if program is None:
            return None
        cts = program.ct_variables
        return fusion_of(program.call.closed.jaxpr, cts).spread(program.present)

    @property
    def num_inputs(self) -> int:
        """The number of differentiated inputs."""
        return self.recording.num_inputs

    @property
    def inputs(self) -> list[Var]:
        """The forward jaxpr's variables for the inputs, without the constants that it closes over."""
        return self.forward.inputs

    @property
    def outputs(self) -> list[Atom]:
        """The forward jaxpr's variables for the outputs."""
        return self.forward.closed.jaxpr.outvars[: len(self.recording.slots)]

    @property
    def residual_variables(self) -> list[Atom]:
        """The forward jaxpr's variables for the residuals."""
        jaxpr = self.forward.closed.jaxpr
        extra = jaxpr.outvars[len(self.outputs) :]
        return self.residuals.find(jaxpr.invars, self.outputs, extra)

    def run_forward(
        self, primals: Sequence[Value], params: dict[str, Any]
    ) -> tuple[list[Value], list[Value]]:
        """The outputs and the residuals."""
        run = functools.partial(self.forward, primals, params, shared=True)
        watched = _jax.looks_for_not_finite()
        results = _jax.watched(run, len(self.recording.slots)) if watched else run()
        return self.find_residuals(primals, results)

    def find_residuals(
        self, primals: Sequence[Value], results: Sequence[Value]
    ) -> tuple[list[Value], list[Value]]:
        """Outputs and residuals, from the forward program's inputs and results."""
        num_outs = len(self.recording.slots)
        outs, extra = list(results[:num_outs]), results[num_outs:]
        return outs, self.residuals.find([*self.forward.consts, *primals], outs, extra)

    def backward(self, arrived: Mask) -> Backward:
        """The backward program for a pattern of cotangents."""
        if arrived in self.backwards:
            return self.backwards[arrived]
        program = self.recording.backward(arrived)
        if not set(program.leaves) <= set(self.leaves):
            raise errors.FuncgradError(not_kept(self))
        if not program.call.closes_over_tracer:
            self.backwards[arrived] = program
        return program

    def apply_backward(
        self,
        residuals: Sequence[Value],
        cts: Sequence[Cotangent],
        run: Callable[[Call, Sequence[Value]], list[Value]],
    ) -> list[Cotangent]:
        """Cotangents of the differentiated inputs, in order, by `run`-ning the backward program."""
        program = self.backward(mask_of(cts))
        by_leaf = dict(zip(self.leaves, residuals, strict=True))
        kept = [by_leaf[leaf] for leaf in program.leaves]
        return spread(run(program.call, [*kept, *filled(cts)]), program.present)


def not_kept(split: Split) -> str:
    """What is said where a pattern of cotangents reads a value that was not kept."""
    return (
        f"The backward program of `{_jax.function_of(split.forward.closed)}` for some of its outputs "
        "alone reads a value that was not kept: a rule does other operations when fewer cotangents "
        "arrive. Zeros in the place of the others would be a guess (0 * inf is nan). If all rules "
        "of your own compute the same from the operands whichever cotangents arrive, please report "
        "the function: this is a fault in funcgrad."
    )


class StagedPullback:
    """A node's pullback that is traced once for each pattern of cotangents, and jitted."""

    programs: dict[Any, Callable[..., Any]]
    late = False
    compiles = True
    """Whether XLA can be given its operations; else they are run one by one."""

    def __call__(
        self, residuals: Sequence[Value], cts: Sequence[Cotangent], eager: bool
    ) -> list[Cotangent]:
        arrived = mask_of(cts)
        if arrived not in self.programs:

            def backward(residuals: list[Value], given: list[Value]) -> list[Cotangent]:
                again = [_jax.to_be_read_again(x) for x in residuals]
                return self.trace_backward(again, spread(given, arrived))

            self.programs[arrived] = jax.jit(backward) if self.compiles else backward
        return self.programs[arrived](list(residuals), filled(cts))

    def jitted_forward(self, *primals: Value) -> Any:
        """The results of `trace_forward`, for a pullback that has one: traced once, and jitted."""
        if "forward" not in self.programs:

            def forward(*primals: Value) -> Any:  # profiles show this name
                return self.trace_forward(*primals)

            self.programs["forward"] = jax.jit(forward) if self.compiles else forward
        return self.programs["forward"](*primals)

    def trace_forward(self, *primals: Value) -> Any:
        """The outputs, and the values that the backward program needs of the forward one."""
        raise NotImplementedError

    def trace_backward(self, residuals: list[Value], cts: list[Cotangent]) -> list[Cotangent]:
        """The operands' cotangents, from the residuals and the outputs' cotangents."""
        raise NotImplementedError


class Traced(NamedTuple):
    """A forward program that gives out every leaf of its tape, after its outputs."""

    jaxpr: Jaxpr
    consts: list[Value]
    recording: Recording


@cached(_jax.weak_cache)
def split_of(closed: _jax.ClosedJaxpr, differentiated: Mask, rules: Rules) -> Split:
    """Split a jaxpr: trace its forward program, and its backward program for all cotangents.

    Args:
      closed: the jaxpr with its constants.
      differentiated: for each input, whether a gradient by it is wanted.
      rules: the backward rules.

    Returns:
      The two programs and what joins them.

    Example:
      >>> import jax, jax.numpy as jnp, funcgrad
      >>> closed = jax.make_jaxpr(jnp.tanh)(1.0)
      >>> split = funcgrad.extend.split_of(closed, (True,), funcgrad.DEFAULT)
      >>> print(type(split).__name__, len(split.recording.tape.nodes))
      Split 1
    """
    jaxpr, consts, recording = trace_forward(closed, differentiated, rules)
    name, avals, whole = _name_of(closed), tuple(closed.in_avals), recording.present
    if not any(whole):
        forward = Call(jaxpr, consts, name)
        return Split(forward, recording, Residuals(()), (), avals, forward.closes_over_tracer)
    program = recording.backward(whole)
    outputs, leaves = jaxpr.outvars[: len(whole)], jaxpr.outvars[len(whole) :]
    read = [leaves[i] for i in program.leaves]
    residuals, extra = Residuals.locate(read, jaxpr.invars, outputs)
    jaxpr = _jax.prune_keeping_inputs(jaxpr.replace(outvars=[*outputs, *extra]))
    forward = Call(jaxpr, consts, name)
    return Split(
        forward,
        recording,
        residuals,
        program.leaves,
        avals,
        closes_over_tracer=forward.closes_over_tracer or program.call.closes_over_tracer,
        backwards={} if program.call.closes_over_tracer else {whole: program},
    )


def trace_forward(closed: _jax.ClosedJaxpr, differentiated: Mask, rules: Rules) -> Traced:
    """Trace a jaxpr with our tape."""
    recorded: list[Any] = []
    run = _jax.runner(closed)

    def forward(*primals: Value) -> list[Value]:
        outs, slots, tape = record(run, primals, differentiated, rules, _jax.function_of(closed))
        frozen, leaves = freeze(tape)
        places = {id(x): i for i, x in enumerate(primals) if _jax.is_mutable(x)}
        recorded[:] = frozen, tuple(slots), [places.get(id(x)) for x in leaves]
        return [*outs, *(x for x in leaves if id(x) not in places)]

    jaxpr, consts = _jax.stage(forward, _jax.input_types(closed), f"{_name_of(closed)}:forward")
    tape, slots, places = recorded
    jaxpr = _giving_references(jaxpr, len(slots), len(consts), places)
    tape, jaxpr = _without_literals(tape, jaxpr, len(slots))
    tape, jaxpr = _without_copies(tape, jaxpr, len(slots))
    leaf_avals = tuple(_jax.output_types(jaxpr)[len(slots) :])
    return Traced(jaxpr, consts, Recording(tape, slots, leaf_avals, sum(differentiated)))


def _giving_references(
    jaxpr: Jaxpr, num_outs: int, num_consts: int, places: Sequence[int | None]
) -> Jaxpr:
    """The jaxpr whose leaves, after its outputs, also are those inputs that are references.

    No jaxpr that is run may return a reference; these are found among the inputs again.
    """
    if all(place is None for place in places):
        return jaxpr
    inputs, outs = jaxpr.invars[num_consts:], jaxpr.outvars[:num_outs]
    values = iter(jaxpr.outvars[num_outs:])
    leaves = [next(values) if place is None else inputs[place] for place in places]
    return jaxpr.replace(outvars=[*outs, *leaves])


def _without_literals(tape: FrozenTape, jaxpr: Jaxpr, num_outs: int) -> tuple[FrozenTape, Jaxpr]:
    """The tape with the numbers that the jaxpr gives out as literals in it, and the jaxpr without."""
    kept: list[Atom] = []
    values: list[Any] = []
    for v in jaxpr.outvars[num_outs:]:
        if _jax.is_literal(v) and _jax.typeof(v.val) == v.aval:
            values.append(v.val)
        else:
            values.append(LeafIndex(len(kept)))
            kept.append(v)
    nodes = tuple(tape.thaw(values).nodes)
    return replace(tape, nodes=nodes), jaxpr.replace(outvars=[*jaxpr.outvars[:num_outs], *kept])


def _without_copies(tape: FrozenTape, jaxpr: Jaxpr, num_outs: int) -> tuple[FrozenTape, Jaxpr]:
    """The tape and the jaxpr with the operand of a broadcast in the place of a leaf that it makes.

    `jnp.where` makes a mask as large as its result. The way back reads the small mask: a loop that does
    not change it then keeps one, not one of each step.
    """
    outs, leaves = jaxpr.outvars[:num_outs], jaxpr.outvars[num_outs:]
    copies = {eqn.outvars[0]: eqn for eqn in jaxpr.eqns if _is_widening(eqn)}
    if not any(v in copies and v not in outs for v in variables(leaves)):
        return tape, jaxpr
    kept: dict[Atom, int] = {}
    values: list[Any] = []
    for v in leaves:
        eqn = None if _jax.is_literal(v) or v in outs else copies.get(v)
        if eqn is None:
            values.append(LeafIndex(kept.setdefault(v, len(kept))))
        else:
            widen = functools.partial(eqn.primitive.bind, **eqn.params)
            values.append(LeafIndex(kept.setdefault(eqn.invars[0], len(kept)), widen))
    nodes = tuple(tape.thaw(values).nodes)
    return replace(tape, nodes=nodes), jaxpr.replace(outvars=[*outs, *kept])


def _is_widening(eqn: Equation) -> bool:
    """Whether an operation makes copies of its operand, and nothing else."""
    if eqn.primitive is not lax.broadcast_in_dim_p or len(eqn.invars) > 1:
        return False
    narrow, wide = map(_jax.type_of, (eqn.invars[0], eqn.outvars[0]))
    if eqn.params["sharding"] is not None or _jax.is_sharded(wide):
        return False
    if not all(
        isinstance(n, int) for n in (*narrow.shape, *wide.shape)
    ):  # a program to be exported
        return False
    return not _jax.is_literal(eqn.invars[0]) and prod(narrow.shape) < prod(wide.shape)


def _name_of(closed: _jax.ClosedJaxpr) -> str:
    return _jax.function_of(closed).split(" at ")[0]
