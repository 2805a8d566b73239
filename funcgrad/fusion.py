"""Where XLA is asked to compute a cotangent once.

XLA fuses arithmetic into each kernel that reads its result, and so computes it in each of them. In a
loop that Python unrolls, several kernels read a cotangent, one of which makes the next:

    c[t+1] = f[t] * c[t] + i[t]        ct_f[t] = ct_c[t+1] * c[t]
                                       ct_c[t] = ct_c[t+1] * f[t]

The kernel of ct_f[t] computes ct_c[T], ..., ct_c[t+2], ct_c[t+1] again: over all steps that is
quadratic, in what XLA compiles as in what it runs. A cotangent that has passed many operations which XLA
can fuse is therefore *held* (``_jax.held_p``) before it goes on to several operands. So is a sum of many
terms, which XLA would keep until it adds them up at once.

XLA's own rule (``InstructionFusion``) is followed as far as a walk knows the program: a value is written
if an operation reads it that XLA does not fuse, or if it reaches a reader on two ways of which XLA can
fuse one alone. Holding it then would be a copy more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, NamedTuple

from jax import lax

from funcgrad import _jax
from funcgrad._jax import Cotangent, Jaxpr, Mask, Slot, Var, is_literal
from funcgrad.choices import Choices
from funcgrad.masks import mask_of, select, spread

FUSED = frozenset(
    {
        *(lax.add_p, lax.sub_p, lax.mul_p, lax.neg_p, lax.max_p, lax.min_p, lax.abs_p, lax.sign_p),
        *(lax.select_n_p, lax.convert_element_type_p, lax.copy_p, lax.integer_pow_p, lax.square_p),
        *(lax.real_p, lax.imag_p, lax.complex_p, lax.conj_p, lax.reduce_precision_p, lax.clamp_p),
        *(lax.broadcast_in_dim_p, lax.reshape_p, lax.squeeze_p, lax.transpose_p, lax.rev_p),
        *(lax.slice_p, lax.pad_p, _jax.add_any_p),
    }
)
"""Operations that XLA computes in each kernel that reads their results."""

ALONE = frozenset(
    {
        *(lax.div_p, lax.rem_p, lax.pow_p, lax.sqrt_p, lax.rsqrt_p, lax.cbrt_p, lax.atan2_p),
        *(lax.exp_p, lax.exp2_p, lax.expm1_p, lax.log_p, lax.log1p_p, lax.logistic_p, lax.erf_p),
        *(lax.sin_p, lax.cos_p, lax.tan_p, lax.tanh_p),
    }
)
"""Operations that XLA computes once, since they are slow, but fuses with those before them."""


# --- what XLA can fuse of a pullback


class Way(NamedTuple):
    """The operations between a cotangent that a pullback is given and one that it returns.

    Attributes:
      steps: how many; XLA can fuse all of them.
      plain: whether each reads the cotangent alone, and what is broadcast to its shape.
      wide: whether the result is still broadcast, and will be summed.
    """

    steps: int
    plain: bool
    wide: bool = False

    def then(self, further: Way) -> Way:
        """This way, and a further one."""
        return Way(self.steps + further.steps, self.plain and further.plain)


class Fusion(NamedTuple):
    """What XLA can fuse of a pullback.

    Attributes:
      ways: to each operand's cotangent; None if something on the way is written, or if no cotangent of
        the node leads there. Empty where all would be None.
      writes: whether a cotangent of the node is written, since an operation reads it that XLA does not
        fuse: a product, a concatenation, a sum (which takes in a multiplication before it).
    """

    ways: tuple[Way | None, ...]
    writes: bool

    def spread(self, present: Mask) -> Fusion:
        """The same for all operands, of which those that are `present` get a cotangent."""
        return self._replace(ways=tuple(spread(self.ways, present)))


WRITTEN = Fusion((), True)
"""That of a pullback of which XLA fuses nothing with others: a loop's."""


def fusion_of(jaxpr: Jaxpr, cts: Iterable[Var], shapes: Sequence[Any] | None = None) -> Fusion:
    """What XLA can fuse of a program that computes cotangents from `cts`.

    A result that has another shape than in `shapes` is still broadcast.
    """
    ways, writes = _fused(jaxpr, dict.fromkeys(cts, Way(0, True)))
    if shapes is not None:
        own = [getattr(v.aval, "shape", ()) for v in jaxpr.outvars]
        wide = [a != b for a, b in zip(own, shapes, strict=True)]
        ways = tuple(way and way._replace(wide=w) for way, w in zip(ways, wide, strict=True))
    return Fusion(ways, writes or any(way and way.wide and way.steps <= 1 for way in ways))


def _fused(jaxpr: Jaxpr, ways: dict[Var, Way]) -> Fusion:
    writes = False
    for eqn in jaxpr.eqns:
        read = [None if is_literal(v) else ways.get(v) for v in eqn.invars]
        found = [way for way in read if way is not None]
        if not found or eqn.primitive in ALONE:
            continue
        if eqn.primitive in FUSED:
            out = eqn.outvars[0]
            others = [v for v, way in zip(eqn.invars, read, strict=True) if way is None]
            plain = all(
                is_literal(v) or elements_of(v.aval) < elements_of(out.aval) for v in others
            )
            ways[out] = longest(found).then(Way(1, plain))
        elif eqn.primitive is _jax.jit_p:
            inside = _fusion_of_call(_jax.close(eqn.params["jaxpr"]), mask_of(read))
            before = longest(found)
            writes |= inside.writes and not before.steps
            pairs = zip(eqn.outvars, inside.ways, strict=True)
            ways.update({v: before.then(way) for v, way in pairs if way is not None})
        else:
            writes |= min(way.steps for way in found) <= (eqn.primitive is lax.reduce_sum_p)
    return Fusion(tuple(None if is_literal(v) else ways.get(v) for v in jaxpr.outvars), writes)


def longest(ways: Sequence[Way]) -> Way:
    """The way to a value that several lead to."""
    return Way(max(way.steps for way in ways), all(way.plain for way in ways))


@_jax.weak_cache
def _fusion_of_call(closed: _jax.ClosedJaxpr, given: Mask) -> Fusion:
    """What XLA can fuse of a jitted function, some of whose inputs depend on cotangents."""
    return fusion_of(closed.jaxpr, select(closed.jaxpr.invars, given))


def elements_of(array: Any) -> float:
    """How many elements there are; 0 of what has none, infinity if only a run tells."""
    size = getattr(array, "size", 0)
    return size if isinstance(size, int) else math.inf


def fusion(node: Any) -> Fusion:
    """What XLA can fuse of a node: one operation for each operand, where its pullback does not say."""
    operands = len(node.operands)
    known = getattr(node.pullback, "fusion", None) or Fusion((Way(1, False),) * operands, False)
    return known if known.ways else known._replace(ways=(None,) * operands)


# --- what a cotangent has passed

AS_IT_IS, SCALED, MIXED = range(3)


class Passed(NamedTuple):
    """What a cotangent has passed since it was written or added up.

    Attributes:
      depth: how many operations that XLA can fuse.
      became: what they made of it: nothing else (`AS_IT_IS`), a multiple, which XLA computes again even
        where it writes it (`SCALED`), or a value that depends on another array (`MIXED`).
      direct: whether the last node passed it on as it is.
      crossed: whether something on the way is written.
      written: how many terms of it, if it is a sum, XLA writes.
    """

    depth: int = 0
    became: int = AS_IT_IS
    direct: bool = False
    crossed: bool = False
    written: int = 0

    def after(self, way: Way | None) -> Passed:
        """The same of a result of a pullback."""
        if way is None or way.wide:
            return Passed(crossed=True, written=1)
        now = AS_IT_IS if not way.steps else SCALED if way.plain else MIXED
        depth = self.depth + way.steps
        return Passed(depth, max(self.became, now), not way.steps, self.crossed)

    def plus(self, other: Passed) -> Passed:
        """The same of a sum. In x + f(x), the cotangent of both is written if f writes something."""
        own = 0 if self.direct and other.crossed else self.depth
        others = 0 if other.direct and self.crossed else other.depth
        return Passed(max(own, others) + 1, written=self.written + other.written)


START = Passed()
CROSSED = Passed(crossed=True)


# --- what is held


class Holds(NamedTuple):
    """What a walk back over a tape holds.

    Attributes:
      nodes: numbers of the nodes whose cotangents are held before they go on.
      sums: (number of a node, slot): before the node adds to what waits at the slot, that is held.
    """

    nodes: set[int]
    sums: set[tuple[int, Slot]]


FEW = 6
"""A tape of fewer nodes is too short for anything to be held."""


def holds_of(nodes: Sequence[Any], avals: Sequence[Any], choices: Choices) -> Holds:
    """What to hold on the way back over nodes whose slots have these types."""
    holds = Holds(set(), set())
    if len(nodes) < FEW or not choices.computed_again:
        return holds
    fusions = [fusion(node) for node in nodes]
    writes = written_anyway(nodes, fusions)
    kernels = kernels_of(nodes, fusions, writes)
    known: dict[Any, Passed] = {}
    for index in range(len(nodes) - 1, -1, -1):
        node, ways = nodes[index], fusions[index].ways
        before = max([known.pop(slot, START) for slot in node.outputs], default=START)
        if writes[index] and before.became != SCALED:
            before = CROSSED
        elif len(node.operands) > 1 and before.depth:
            size = max(elements_of(avals[slot]) for slot in node.outputs if slot is not None)
            if pays(before.depth, len(kernels[index]) - 1, size, choices):
                holds.nodes.add(index)
                before = CROSSED
        for slot, way in zip(node.operands, ways, strict=True):
            now, waiting = before.after(way), known.get(slot)
            if waiting is not None and waiting.written >= choices.written_terms:
                holds.sums.add((index, slot))
                waiting = CROSSED
            known[slot] = now if waiting is None else waiting.plus(now)
    return holds


def written_anyway(nodes: Sequence[Any], fusions: Sequence[Fusion]) -> list[bool]:
    """Whether XLA writes the cotangents of each node anyway."""
    pairs = [*zip(nodes, fusions, strict=True)]
    slots = {slot for node, found in pairs if found.writes for slot in node.outputs}
    return [
        found.writes
        or any(
            way is not None and not way.steps and slot in slots
            for slot, way in zip(node.operands, found.ways, strict=True)
        )
        for node, found in pairs
    ]


MOST_KERNELS = 8


def kernels_of(
    nodes: Sequence[Any], fusions: Sequence[Fusion], writes: Sequence[bool]
) -> list[frozenset[Any]]:
    """By node, names of the kernels, eight at most, in which XLA computes its cotangents.

    Each writes something that is made of them, and computes all that is not written before.
    """
    of_slot: dict[Slot | None, frozenset[Any]] = {}
    of_node = []
    for index, (node, found) in enumerate(zip(nodes, fusions, strict=True)):
        names: set[Any] = set()
        for slot, way in zip(node.operands, found.ways, strict=True):
            if way is None:
                names.add((index, slot))
            elif way.wide:
                names.add(slot)
            else:
                names |= of_slot.get(slot, {slot})
        kernels = frozenset({(index,)} if writes[index] else islice(names, MOST_KERNELS))
        of_node.append(kernels)
        of_slot.update(dict.fromkeys(node.outputs, kernels))
    return of_node


def pays(depth: int, again: int, size: float, choices: Choices) -> bool:
    """Whether to hold cotangents that `again` kernels compute besides the first.

    Of small ones, a kernel of their own may take longer. Two kernels repeat each other once, whatever
    the number of steps: that pays only for the sake of compiling.
    """
    if not again or depth * again < choices.computed_again:
        return False
    large = again > 1 and depth * size >= choices.kernel_work
    return large or depth >= choices.most_fused_steps


def held(ct: Cotangent) -> Cotangent:
    """`ct`, which XLA is asked to write; as it is if it is no array of numbers."""
    if ct is None or not _jax.has_numbers(_jax.typeof(ct)):
        return ct
    return _jax.held_p.bind(ct)
