"""The arrays of a training state: their names, their types, and whether they are what was saved.

Orbax notices files that are missing or cut short. It does not notice one changed bit in an array, since
the storage format has no checksum there. So each array is saved with a fingerprint.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax


def named(state: Any) -> dict[str, Array]:
    """The arrays of a pytree by their paths, in the pytree's order.

    Raises:
        TypeError: If a leaf is no array.
        ValueError: If two paths read alike.

    Examples:
        >>> list(named({"hidden": {"weight": jnp.ones(2), "bias": jnp.ones(2)}}))
        ['hidden.bias', 'hidden.weight']
    """
    leaves: dict[str, Array] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        name = jax.tree_util.keystr(path, simple=True, separator=".") or "state"
        if not isinstance(leaf, Array):
            found = type(leaf).__name__
            raise TypeError(f"`{name}` is a {found}; a state has jax.Arrays only. Make it one.")
        if name in leaves:
            raise ValueError(f"two arrays of the state have the path `{name}`; rename one.")
        leaves[name] = leaf
    return leaves


def type_of(leaf: Array) -> str:
    """The dtype and the shape of an array.

    Examples:
        >>> type_of(jnp.ones((2, 3)))
        'float32[2, 3]'
    """
    return f"{leaf.dtype}{list(leaf.shape)}"


def with_content(leaves: Mapping[str, Array]) -> dict[str, Array]:
    """The arrays that have at least one element, which are all that orbax saves.

    Examples:
        >>> list(with_content({"w": jnp.ones(2), "nothing": jnp.ones((0, 2))}))
        ['w']
    """
    return {name: leaf for name, leaf in leaves.items() if leaf.size}


def difference(kind: str, saved: Mapping[str, Any], asked: Mapping[str, Any]) -> str | None:
    """In which entries two mappings differ, in words; None if they agree.

    Examples:
        >>> print(difference("array", {"w": "float32[2]"}, {"w": "float32[3]"}))
        the array `w` is float32[3] now and was float32[2]
    """
    lines = [
        f"the {kind} `{name}` is {asked.get(name, 'absent')} now and was {saved.get(name, 'absent')}"
        for name in sorted({*saved, *asked})
        if (name in saved, saved.get(name)) != (name in asked, asked.get(name))
    ]
    shown = lines[:5] + ([f"and {len(lines) - 5} more {kind}s differ"] if len(lines) > 5 else [])
    return "; ".join(shown) or None


def fingerprints(leaves: Mapping[str, Array]) -> dict[str, int]:
    """The fingerprint of each array.

    One program computes them all and ends before this returns. Several programs at once, in which
    processes wait for each other, can wait for ever: on CPUs they run in no certain order.
    """
    marks = jax.block_until_ready(_fingerprints(dict(leaves)))
    return {name: int(np.asarray(mark)) for name, mark in marks.items()}


@jax.jit
def _fingerprints(leaves: dict[str, Array]) -> dict[str, Array]:
    return {name: fingerprint(leaf) for name, leaf in leaves.items()}


@jax.jit
def fingerprint(leaf: Array) -> Array:
    """A sum over the bits of an array, each word with an odd factor of its place (uint32, scalar).

    Arithmetic modulo 2**32 gives the same sum for every sharding. A change of a single word always
    changes the sum; another change does so but for a chance of about one in four billion.

    Examples:
        >>> x = jnp.arange(6.0)
        >>> bool(fingerprint(x) == fingerprint(x.at[3].set(3.0000002)))
        False
    """
    bits = _words(leaf)
    place = jnp.zeros(bits.shape, jnp.uint32)
    for axis in range(bits.ndim):
        stride = jnp.uint32(math.prod(bits.shape[axis + 1 :]) % 2**32)
        place += lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * stride
    factor = (place * jnp.uint32(2654435761)) | jnp.uint32(1)
    return jnp.sum(bits * factor, dtype=jnp.uint32)


def _words(leaf: Array) -> Array:
    """The bits of an array as uint32; a wide dtype gets one more axis."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if jnp.iscomplexobj(leaf):
        leaf = jnp.stack([leaf.real, leaf.imag], axis=-1)
    if leaf.dtype.itemsize == 8:
        return lax.bitcast_convert_type(leaf, jnp.uint32)
    if jnp.issubdtype(leaf.dtype, jnp.floating):
        leaf = lax.bitcast_convert_type(leaf, f"uint{8 * leaf.dtype.itemsize}")
    return leaf.astype(jnp.uint32)
