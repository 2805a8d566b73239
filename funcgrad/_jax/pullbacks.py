"""What a pullback keeps of the arguments, and how a user says where cotangents go, as JAX does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax._src import api as _api
from jax._src.api_util import flatten_axes

GradValue: Any = _api.GradValue
GradRef: Any = _api.GradRef
DontWant: Any = _api.DontWant
DidntWant: Any = _api.DidntWant
NotNeeded: Any = _api.NotNeeded


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _NotSaveable:
    """Stands for an argument that the pullback needs and may not keep."""


NotSaveable: Any = getattr(_api, "NotSaveable", _NotSaveable)  # from JAX 0.11

REFERENCES_NEED_REFERENCES = jax.__version_info__ >= (0, 12)
"""Whether a pullback that is called without references refuses an argument that is one."""


def is_left_out(x: Any) -> bool:
    """Whether this stands for an argument that is not kept."""
    return isinstance(x, (NotNeeded, NotSaveable))


def like_arguments(tree: Any, leaves: Sequence[Any]) -> list[Any]:
    """Something for each leaf, in a tree that mirrors the arguments' as JAX's pullbacks do."""
    mirror: Any = getattr(_api, "mirror_tree_map", None)  # from JAX 0.12
    if mirror is None:
        mirror = _api.tuptree_map
    return list(mirror(lambda x: x, tree, list(leaves)))


def flags_of_leaves(prefix: Any, tree: Any, name: str) -> list[bool]:
    """A truth for each leaf of a tree, from a tree of truths that begins like it."""
    expand: Any = getattr(_api, "tuptree_flags", None)  # from JAX 0.12
    if expand is not None:
        return expand(prefix, tree, name, f"the {name} argument to funcgrad.vjp")
    return list(flatten_axes(name, tree, prefix))


def is_accumulator(x: Any) -> bool:
    """Whether this is one of JAX's accumulators of cotangents."""
    return callable(getattr(x, "accum", None)) and callable(getattr(x, "freeze", None))
