"""shard_map, differentiated as a whole: a forward shard_map, and a backward one.

The body runs on shards and records a tape of its own. The forward shard_map returns the tape's
residuals as extra outputs, stacked along the mesh axes over which they vary. A residual that is an
input, an output or a constant needs no extra output. In the backward shard_map each device walks the
tape with its own residuals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import PartitionSpec

from funcgrad import _jax, errors
from funcgrad.backward import walk
from funcgrad.masks import select, spread
from funcgrad.registry import Rules, defrecord
from funcgrad.tangents import TangentTrace
from funcgrad.tape import FrozenTape, TapeTrace, TapeTracer, freeze


@defrecord(_jax.shard_map_p)
def shard_map_call(trace: TapeTrace, primitive: Any, tracers: Any, params: dict[str, Any]) -> Any:
    """Run the forward shard_map and record it with the backward one as its pullback."""
    if isinstance(trace, TangentTrace):
        raise errors.MissingRuleError(primitive, len(tracers), params, _jax.here())
    (fun,) = params["subfuns"]
    specs = params["in_specs"]
    settings = MeshSettings(
        **{name: value for name, value in params.items() if name not in ("subfuns", "in_specs")}
    )
    primals, slots = trace.split(tracers)
    body = ShardBody(trace, fun, settings, specs, [slot is not None for slot in slots])
    results = settings.run(body, primals, specs)
    outs = results[: len(body.slots)]
    present = [slot is not None for slot in body.slots]
    if any(present):
        residuals = body.residuals(primals, results)
        captured = [tracer.slot for tracer in body.captured]
        named = {name: value for name, value in params.items() if name != "subfuns"}
        outs = trace.record(
            primitive, named, [*slots, *captured], outs, present, body.pullback(), residuals
        )
    return body.out_tree.update(outs)


@dataclass(frozen=True)
class MeshSettings:
    """The params of a shard_map other than its function and its input specs."""

    mesh: Any
    check_vma: bool
    newly_manual_axes: frozenset[Any]
    debug_info: Any

    def run(self, body: Any, args: Sequence[Any], in_specs: Sequence[Any]) -> list[Any]:
        """Run a shard_map of `body`, which returns a list of shards and a list of their specs."""

        def on_shards(*shards: Any) -> Any:
            outs, specs = body(*shards)
            return _jax.flat_tree(outs).with_aux(tuple(specs))

        settings = {**vars(self), "debug_info": self.debug_info.with_unknown_names()}
        return list(
            _jax.shard_map_p.bind(*args, subfuns=(on_shards,), in_specs=tuple(in_specs), **settings)
        )

    def manual_names(self) -> tuple[Any, ...]:
        """The mesh axes that are manual inside the shard_map and not outside it."""
        return tuple(_jax.newly_manual_names(self.mesh, self.newly_manual_axes))

    def unmentioned(self, spec: Any) -> tuple[Any, ...]:
        """The manual axes over which a value with this spec is replicated."""
        return tuple(_jax.unmentioned_names(self.mesh, spec, self.newly_manual_axes))

    def stacked_spec(self, shard: Any, names: tuple[Any, ...]) -> Any:
        """The spec of an output that keeps each device's value of `shard`."""
        spec = jax.typeof(shard).nospec(self.mesh, self.check_vma, names)
        parts = [part if isinstance(part, tuple) else (part,) for part in spec.partitions]
        axes = [name for part in parts for name in part]
        kept = tuple(name for name in axes if name in names)
        return PartitionSpec(kept or None, unreduced=spec.unreduced, reduced=spec.reduced)


class ShardTrace(TapeTrace):
    """The trace of a shard_map's body.

    A body may close over values that the enclosing trace differentiates. Each becomes a further
    differentiated input, of which every device holds a full copy.
    """

    __slots__ = ("captured", "outer")

    def __init__(self, parent: _jax.Trace, rules: Rules, description: str, outer: TapeTrace):
        super().__init__(parent, rules, description)
        self.outer = outer
        self.captured: dict[int, tuple[TapeTracer, TapeTracer]] = {}

    def lift(self, value: Any) -> Any:
        """The tracer of this trace for a value that the enclosing trace differentiates."""
        if not (isinstance(value, TapeTracer) and value._trace is self.outer):
            return value
        if value.slot not in self.captured:
            self.captured[value.slot] = value, self.new_tracer(value.primal)
        return self.captured[value.slot][1]

    def split(self, values: Sequence[Any]) -> tuple[list[Any], list[int | None]]:
        return super().split([self.lift(value) for value in values])

    def stage_value(self, val: Any) -> Any:
        return super().stage_value(self.lift(val))


@dataclass(frozen=True)
class Kept:
    """Where a residual is found: an ``input``, an ``output``, a ``constant`` or an ``extra`` output.

    A scalar that is an extra output gets an axis of size 1, along which the devices' scalars are
    stacked.
    """

    kind: str
    index: int
    spec: Any
    scalar: bool = False


class ShardBody:
    """A shard_map's body that records a tape. The forward shard_map calls it, once."""

    out_tree: Any
    tape: FrozenTape
    slots: list[int | None]
    out_specs: tuple[Any, ...]

    def __init__(self, trace: TapeTrace, fun: Any, settings: MeshSettings, specs: Any, wanted: Any):
        self.trace, self.fun, self.settings, self.in_specs = trace, fun, settings, specs
        self.wanted = wanted
        self.rules = trace.rules_inside()
        self.manual_names = settings.manual_names()
        self.captured: list[TapeTracer] = []
        self.input_slots: list[int] = []
        self.constants: list[Any] = []
        self.kept: list[Kept] = []

    def __call__(self, *shards: Any) -> tuple[list[Any], list[Any]]:
        """Run the function on shards; return outputs and extra outputs, and the specs of both."""
        with _jax.take_current_trace() as parent:
            trace = ShardTrace(parent, self.rules, self.trace.description, self.trace)
            args = [
                trace.new_tracer(x) if wanted else x
                for x, wanted in zip(shards, self.wanted, strict=True)
            ]
            tape, captured = trace.tape, trace.captured
            self.input_slots = list(range(len(tape.avals)))
            try:
                with _jax.set_current_trace(trace):
                    self.out_tree, self.out_specs = self.fun(*args).unpack_aux()
                outs, self.slots = trace.split(list(self.out_tree))
            finally:
                trace.invalidate()
        for outer, inner in captured.values():
            self.captured.append(outer)
            self.input_slots.append(inner.slot)
        self.tape, leaves = freeze(tape)
        extra = self.keep(leaves, shards, outs) if any(s is not None for s in self.slots) else []
        specs = [*self.out_specs, *(kept.spec for kept in self.kept if kept.kind == "extra")]
        return [*outs, *extra], specs

    def keep(self, leaves: Sequence[Any], shards: Sequence[Any], outs: Sequence[Any]) -> list[Any]:
        """Note where each residual is found; return those that must be extra outputs."""
        places = {
            id(y): Kept("output", i, s)
            for i, (y, s) in enumerate(zip(outs, self.out_specs, strict=True))
        }
        places |= {
            id(x): Kept("input", i, s)
            for i, (x, s) in enumerate(zip(shards, self.in_specs, strict=True))
        }
        closed_over = {id(tracer.primal) for tracer in self.captured}
        extra: list[Any] = []
        for leaf in leaves:
            if id(leaf) in places:
                self.kept.append(places[id(leaf)])
            elif id(leaf) in closed_over or not isinstance(leaf, _jax.Tracer):
                spec = PartitionSpec()
                self.kept.append(Kept("constant", len(self.constants), spec))
                self.constants.append(leaf)
            else:
                scalar = leaf.ndim == 0
                shard = jax.lax.expand_dims(leaf, (0,)) if scalar else leaf
                spec = self.settings.stacked_spec(shard, self.manual_names)
                self.kept.append(Kept("extra", len(extra), spec, scalar))
                extra.append(shard)
        return extra

    def residuals(self, primals: Sequence[Any], results: Sequence[Any]) -> list[Any]:
        """The residuals' values outside the shard_map."""
        found = {
            "input": primals,
            "output": results,
            "constant": self.constants,
            "extra": results[len(self.slots) :],
        }
        return [found[kept.kind][kept.index] for kept in self.kept]

    def pullback(self) -> ShardPullback:
        specs = select(self.in_specs, self.wanted)
        specs += [PartitionSpec()] * len(self.captured)
        return ShardPullback(
            self.settings,
            self.tape,
            tuple(self.kept),
            tuple(self.slots),
            tuple(self.out_specs),
            tuple(self.input_slots),
            tuple(specs),
        )


@dataclass(frozen=True, eq=False)
class ShardPullback:
    """The backward shard_map.

    Attributes:
      settings: the mesh and its manual axes.
      tape: the body's.
      kept: where each residual comes from, with its spec.
      out_slots: slots of the body's outputs, with `out_specs`.
      in_slots: slots of the differentiated inputs, closed-over ones last, with `in_specs`.
    """

    settings: MeshSettings
    tape: FrozenTape
    kept: tuple[Kept, ...]
    out_slots: tuple[int | None, ...]
    out_specs: tuple[Any, ...]
    in_slots: tuple[int, ...]
    in_specs: tuple[Any, ...]
    late: bool = False

    @property
    def inner(self) -> dict[str, FrozenTape]:
        """The body's tape."""
        return {"body": self.tape}

    def __call__(self, residuals: Sequence[Any], cts: Sequence[Any], eager: bool) -> Sequence[Any]:
        arrived = [
            (ct, slot, spec.to_ct_spec())
            for ct, slot, spec in zip(cts, self.out_slots, self.out_specs, strict=True)
            if ct is not None and slot is not None
        ]
        slots = [slot for _, slot, _ in arrived]
        present: list[bool] = []

        def backward(*shards: Any) -> tuple[list[Any], list[Any]]:
            leaves = [
                jax.lax.squeeze(shard, (0,)) if kept.scalar else shard
                for kept, shard in zip(self.kept, shards[: len(self.kept)], strict=True)
            ]
            seeds = zip(slots, shards[len(leaves) :], strict=True)
            found = walk(self.tape.thaw(leaves), seeds, self.in_slots, consume=True)
            present.extend(ct is not None for ct in found)
            pairs = [
                (self.whole(ct, slot, spec.to_ct_spec()), spec.to_ct_spec())
                for ct, slot, spec in zip(found, self.in_slots, self.in_specs, strict=True)
                if ct is not None
            ]
            return [ct for ct, _ in pairs], [spec for _, spec in pairs]

        shared = [self.divided(ct, spec) for ct, _, spec in arrived]
        specs = [*(kept.spec for kept in self.kept), *(spec for *_, spec in arrived)]
        results = self.settings.run(backward, [*residuals, *shared], specs)  # fills `present`
        return spread(results, present)

    def divided(self, ct: Any, spec: Any) -> Any:
        """Split an output's cotangent over the devices that hold a full copy of the output.

        The backward shard_map adds up what these devices compute, so their parts must add up to the
        cotangent. With ``check_vma``, JAX knows the copies to be equal and needs no split.
        """
        if self.settings.check_vma:
            return ct
        copies = 1
        for name in self.settings.unmentioned(spec):
            copies *= self.settings.mesh.shape[name]
        return ct / copies if copies != 1 else ct

    def whole(self, ct: Any, slot: int, spec: Any) -> Any:
        """An input's cotangent: the sum over the devices that hold a full copy of the input."""
        if self.settings.check_vma:
            return _jax.with_cotangent_type(ct, self.tape.avals[slot])
        names = self.settings.unmentioned(spec)
        return jax.lax.psum(ct, names) if names else ct
