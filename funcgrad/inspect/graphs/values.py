"""The numbers of a graph: those of one run of the function, and of the walk back from it.

The function's trace is run once under the tape, in compiled parts. Each value is tapped where it is
made: that gives the value and its whole gradient. If several read it, each use is tapped too: that gives
what the reader adds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcgrad import _jax
from funcgrad._jax import Cotangent, Value, Var
from funcgrad.arguments import check_cotangents
from funcgrad.backward import walk
from funcgrad.inspect.graphs.nodes import Graph, OpNode, TensorNode
from funcgrad.inspect.graphs.repeats import run_in_parts
from funcgrad.inspect.graphs.trace import Traced
from funcgrad.nested import holding
from funcgrad.places.asked import by_rule, lengths_around
from funcgrad.places.editing import Action, Editor, Key
from funcgrad.places.program import SHARDS, TEST, Block, Place
from funcgrad.places.taps import sink_for
from funcgrad.tape import record

MOST_OPERATIONS = 2000
MOST_BYTES = 2**28
"""The largest function that is run unasked, and how much is kept of its run."""

Known = Mapping[tuple[Block, Var], TensorNode]


def fill(graph: Graph, function: Traced, known: Known, values: bool | int | None, cts: Any) -> None:
    """Run the function, if that is wanted, and write the numbers into the graph."""
    note = _why_not(graph, function, values, cts)
    if note is not None:
        graph.note = note
        return
    limit = math.inf if values is True else MOST_BYTES if values is None else values
    chosen, graph.note = _within(limit, known)
    probes = Probes(_run_beside(graph, function))
    nodes = {node.place: node for node in graph.walk()}
    for where, tensor in chosen.items():
        probes.add(where, tensor, nodes)
    probes.read(*_run(function, probes, cts))


def _why_not(graph: Graph, function: Traced, values: bool | int | None, cts: Any) -> str | None:
    """Why a function is not run; None if it is."""
    leaves, others = function.leaves, [*function.program.consts, *jax.tree.leaves(cts)]
    if values is False:
        return "No numbers: values=False."
    if any(isinstance(x, (jax.ShapeDtypeStruct, _jax.Tracer)) for x in leaves):
        return "No numbers: an argument is abstract."
    if not _jax.is_eager(_jax.current_trace()) or any(isinstance(x, _jax.Tracer) for x in others):
        return "No numbers: the graph is made inside a function that JAX traces (`jit`, `vmap`)."
    if any(_jax.is_mutable(x) for x in leaves):
        return "No numbers: an argument is a reference, which a run would change."
    count = sum(1 for _ in graph.walk())
    if values is None and count > MOST_OPERATIONS:
        return f"No numbers: {count:,} operations are more than {MOST_OPERATIONS:,}. Ask by values=True."
    return None


def _within(limit: float, known: Known) -> tuple[dict[tuple[Block, Var], TensorNode], str]:
    """The values that are tapped, the largest left out until the rest fit, and a note of that."""
    sizes = {
        where: _size(where[0], tensor) for where, tensor in known.items() if _is_array(where[1])
    }
    chosen, total = {}, 0
    for where in sorted(sizes, key=sizes.__getitem__):
        total += sizes[where]
        if total > limit:
            break
        chosen[where] = known[where]
    left = len(sizes) - len(chosen)
    if not left:
        return chosen, ""
    total = sum(sizes.values())
    return chosen, (
        f"The numbers of the {left:,} largest of {len(sizes):,} values are left out: all would be "
        f"{total:,} bytes, more than {int(limit):,}. Ask by values=True, or by values=<bytes>."
    )


def _is_array(v: Var) -> bool:
    """Whether a variable is an array of numbers, not a random key, a token or a reference."""
    shape, dtype = getattr(v.aval, "shape", ()), getattr(v.aval, "dtype", None)
    return isinstance(dtype, np.dtype) and all(isinstance(n, int) for n in shape)


def _size(block: Block, tensor: TensorNode) -> int:
    """The bytes of a value, its gradient, and what its readers add."""
    arrays = (
        1 + tensor.is_active + (len(tensor.contributions) if len(tensor.contributions) > 1 else 0)
    )
    elements = math.prod((*lengths_around(block, tensor.aval), *tensor.shape))
    return arrays * elements * tensor.dtype.itemsize


@dataclass
class Probes:
    """The taps of a run, and which value of the graph each is of.

    Attributes:
      actions, uses: the taps, as an `Editor` takes them.
      sinks: of each tap that has a cotangent, the value's type and the lengths of the scans around it.
      values: by key, the value that a tap gives.
      contributions: by key, the value, and the number of the contribution that a tap gives.
      may_be_absent: the keys of values in branches and loops of run-time length.
      beside: the calls that are not entered, of which the function is run beside for its values.
    """

    beside: frozenset[Place] = frozenset()

    actions: dict[tuple[Block, Var], list[Action]] = field(default_factory=dict)
    uses: dict[tuple[Place | Block, int], Action] = field(default_factory=dict)
    sinks: dict[Key, tuple[Any, list[int]]] = field(default_factory=dict)
    values: dict[Key, TensorNode] = field(default_factory=dict)
    contributions: dict[Key, tuple[TensorNode, int]] = field(default_factory=dict)
    may_be_absent: set[Key] = field(default_factory=set)

    def add(
        self, where: tuple[Block, Var], tensor: TensorNode, nodes: Mapping[Place, OpNode]
    ) -> None:
        """Tap a value where it is made and, if several read it, where it is read."""
        block, v = where
        around = calls_around(block)
        if any(not nodes[call].is_entered and call not in self.beside for call in around):
            return
        if any(around.kind == TEST for around in _up(block)) or _is_of_some_devices(block, v.aval):
            return
        key = self._key(v.aval, block, tensor.is_active)
        self.actions[where] = [Action(key, tapped=True)]
        self.values[key] = tensor
        if any(around.kind.startswith("branch") or around.kind == "while" for around in _up(block)):
            self.may_be_absent.add(key)
        if len(tensor.contributions) < 2:
            return
        for i, one in enumerate(tensor.contributions):
            key = self._key(v.aval, block, True)
            reader = block if one.reader is None else one.reader.place
            self.uses[reader, one.operand] = Action(key, tapped=True, found=False)
            self.contributions[key] = tensor, i

    def _key(self, aval: Any, block: Block, with_sink: bool) -> Key:
        key = (len(self.values) + len(self.contributions),)
        if with_sink:
            outside = _jax.type_outside(aval) if "device" in block.axes else aval
            self.sinks[key] = outside, lengths_around(block, aval)
        return key

    def read(
        self,
        values: Mapping[Key, Value],
        present: Mapping[Key, Value],
        cts: Mapping[Key, Value],
    ) -> None:
        """Write what a run has found into the graph."""
        for key, tensor in self.values.items():
            if key in present:
                tensor.present = np.asarray(present[key])
                if not tensor.present.any():
                    tensor.is_active = False
                    continue
            tensor.value, tensor.gradient = values[key], cts.get(key)
            tensor.is_active = tensor.gradient is not None
            if len(tensor.contributions) == 1:
                tensor.contributions[0] = replace(tensor.contributions[0], gradient=tensor.gradient)
        for key, (tensor, i) in self.contributions.items():
            tensor.contributions[i] = replace(tensor.contributions[i], gradient=cts.get(key))


def _up(block: Block) -> list[Block]:
    """The block and those around it."""
    return [block, *([] if block.call is None else _up(block.call.block))]


def _is_of_some_devices(block: Block, aval: Any) -> bool:
    """Whether a value in a shard_map may be there on some devices alone, or is a part of a sum."""
    kinds = [around.kind for around in _up(block)]
    if SHARDS not in kinds:
        return False
    inside = kinds[: kinds.index(SHARDS)]
    return _jax.is_part_of_sum(aval) or any(
        kind.startswith("branch") or kind == "while" for kind in inside
    )


def _run_beside(graph: Graph, function: Traced) -> frozenset[Place]:
    """The calls with a derivative or a rule of their own of which the function can be run beside.

    None is that prints or has another effect, or in which something is changed by an override.
    """
    changed = {*function.placed, *function.opened}
    return frozenset(
        node.place
        for node in graph.walk()
        if not node.is_entered
        and node.place.op in _jax.FUNCTIONS
        and not node.place.equation.effects
        and not any(inner.place in changed for held in node.graphs for inner in held.walk())
    )


def calls_around(block: Block) -> list[Place]:
    """The calls around a block, from the inside out."""
    return [around.call for around in _up(block) if around.call is not None]


def _run(
    function: Traced, probes: Probes, cts: Any
) -> tuple[dict[Key, Value], dict[Key, Value], dict[Key, Value]]:
    """The tapped values of one run, whether each is present, and cotangents of the walk back."""
    program, leaves = function.program, function.leaves
    placed = {place: by_rule(place, rule) for place, rule in function.placed.items()}
    taps = frozenset([*probes.values, *probes.contributions])
    editor = Editor(
        probes.actions, placed, function.opened, taps, uses=probes.uses, beside=probes.beside
    )
    differentiated = [_jax.is_inexact(v.aval) for v in program.jaxpr.invars]
    outs = [v.aval for v in program.jaxpr.outvars]
    seeds = None if cts is None else check_cotangents(cts, function.out_tree, outs, function.name)
    trees: dict[str, Any] = {}
    given, tree = jax.tree.flatten((leaves, seeds))

    def run(*given: Value) -> list[Value]:
        leaves, seeds = jax.tree.unflatten(tree, given)
        kinds = dict.fromkeys((of, *around) for of, around in probes.sinks.values())
        zeros = {(of, *around): sink_for(of, around) for of, *around in kinds}
        sinks = {key: zeros[of, *around] for key, (of, around) in probes.sinks.items()}

        def flat(*args: Value) -> list[Value]:
            given = dict(zip(sinks, args[len(leaves) :], strict=True))
            outs, found = editor.run(program, args[: len(leaves)], given)
            more, trees["found"] = jax.tree.flatten(found)
            return [*outs, *more]

        args = [*leaves, *sinks.values()]
        wanted = [*differentiated, *[True] * len(sinks)]
        results, slots, tape = record(flat, args, wanted, function.rules, function.name)
        count = len(program.jaxpr.outvars)
        found = jax.tree.unflatten(trees["found"], results[count:])
        seeds = _ones(results[:count]) if seeds is None else seeds
        arrived = walk(tape, zip(slots, seeds, strict=False), range(sum(wanted)), consume=True)
        of_sinks = zip(sinks, arrived[sum(differentiated) :], strict=True)
        values = {key: value for key, (value, _) in found.items()}
        present = {key: found[key][1] for key in probes.may_be_absent}
        numbers = values, present, {key: ct for key, ct in of_sinks if ct is not None}
        once, trees["numbers"] = _each_once(numbers)
        return once

    with holding(function.rules, function.name):
        closed = _jax.stage_closed(run, [_jax.typeof(x) for x in given], function.name)
        once = run_in_parts(_jax.without_taps(closed), given)
    tree, numbers = trees["numbers"]
    return jax.tree.unflatten(tree, [once[i] for i in numbers])


def _each_once(given: Any) -> tuple[list[Value], tuple[Any, list[int]]]:
    """The arrays of a pytree, each once, with its structure and the number of each leaf's array.

    Many cotangents are one array: those that a sum hands on to its operands.
    """
    leaves, tree = jax.tree.flatten(given)
    numbers: dict[int, int] = {}
    for x in leaves:
        numbers.setdefault(id(x), len(numbers))
    return [*{id(x): x for x in leaves}.values()], (tree, [numbers[id(x)] for x in leaves])


def _ones(outs: Sequence[Value]) -> list[Cotangent]:
    """Cotangents by which a gradient is that of the sum of the results."""
    return [jnp.ones_like(y) if _jax.is_inexact(_jax.typeof(y)) else None for y in outs]
