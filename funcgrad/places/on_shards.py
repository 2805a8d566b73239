"""The inside of a shard_map, run with taps.

A tapped value comes out with a leading axis for the devices on which it differs, of length 1 where it is
the same on all; its sink goes in with the same axis. Only :mod:`funcgrad.inspect` looks in here: a
selector means nothing inside a shard_map.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from funcgrad import _jax
from funcgrad._jax import Aval, Value
from funcgrad.places.program import Block, Place

if TYPE_CHECKING:
    from funcgrad.places.editing import Editor, Found, Inputs, Key


def is_looked_into(place: Place) -> bool:
    """Whether an operation is a shard_map that is in no other."""
    around = (call.op is _jax.shard_map_p for call in place.calls)
    return place.op is _jax.shard_map_p and not any(around)


def copies(aval: Aval, params: Mapping[str, Any]) -> int:
    """On how many devices, or groups of devices, a value in a shard_map differs."""
    return math.prod(params["mesh"].shape[name] for name in _names(aval, params))


def _names(aval: Aval, params: Mapping[str, Any]) -> tuple[Any, ...]:
    """The mesh axes along which a value differs; without ``check_vma`` it may along all."""
    mesh = params["mesh"]
    manual = {*_jax.newly_manual_names(mesh, params["newly_manual_axes"])}
    if params["check_vma"]:
        manual &= _jax.varying_axes(aval)
    return tuple(name for name in mesh.axis_names if name in manual)


def shard_map_edited(
    editor: Editor, place: Place, blocks: Sequence[Block], operands: Sequence[Value], inputs: Inputs
) -> tuple[list[Value], Found]:
    """A shard_map; what is tapped has a leading axis for the devices on which it differs."""
    (block,) = blocks
    params = place.params
    mesh = params["mesh"]
    specs = {
        key: PartitionSpec(_names(aval, params) or None) for key, aval, _ in _tapped(editor, block)
    }
    found = {key: specs[key] for key, _, is_found in _tapped(editor, block) if is_found}
    given = editor.inputs_of(block, inputs)
    if _jax.has_explicit_axes(mesh):
        given = {
            key: _jax.resharded(sink, NamedSharding(mesh.abstract_mesh, specs[key]))
            for key, sink in given.items()
        }

    def on_shards(args: Sequence[Value], given: Inputs) -> tuple[list[Value], dict[Key, Value]]:
        of_shard = {key: lax.squeeze(sink, (0,)) for key, sink in given.items()}
        outs, tapped = editor.run(block, args, of_shard)
        return outs, {key: lax.expand_dims(y, (0,)) for key, (y, _) in tapped.items()}

    run = jax.shard_map(
        on_shards,
        mesh=mesh,
        in_specs=([*params["in_specs"]], {key: specs[key] for key in given}),
        out_specs=([*params["out_specs"]], found),
        axis_names={*_jax.newly_manual_names(mesh, params["newly_manual_axes"])},
        check_vma=params["check_vma"],
    )
    outs, tapped = run([*operands], given)
    return outs, {key: (y, jnp.bool_(True)) for key, y in tapped.items()}


def _tapped(editor: Editor, block: Block) -> Iterator[tuple[Key, Aval, bool]]:
    """The taps in a block and in those inside it: key, type, and whether the value comes out."""
    for v in block.variables:
        for action in editor.actions.get((block, v), ()):
            yield action.key, v.aval, action.found
    for reader, atoms in block.uses:
        for i, atom in enumerate(atoms):
            if (reader, i) in editor.uses:
                action = editor.uses[reader, i]
                yield action.key, atom.aval, action.found
    for inner in block.inner.values():
        for carried in inner:
            yield from _tapped(editor, carried)
