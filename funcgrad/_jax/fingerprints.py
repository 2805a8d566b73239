"""A digest of a program: equal in every process in which the program is the same."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from funcgrad._jax.sharding import explicit_sharding
from funcgrad._jax.values import is_key, is_plain_array_type

ADDRESS = re.compile(r"\bat 0x[0-9a-f]+")


def fingerprint(closed: ClosedJaxpr, *more: str) -> str:
    """The SHA-256 of a program as JAX prints it, of the arrays in it, and of `more`, in hexadecimal."""
    digest = hashlib.sha256()
    for text in (str(closed.jaxpr), *more):
        digest.update(ADDRESS.sub("", text).encode() + b"\0")
    for array in _arrays_in(closed):
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def _arrays_in(value: Any) -> Iterator[np.ndarray]:
    """The arrays in a program, of which a print shows only the type, or some elements."""
    if isinstance(value, ClosedJaxpr):
        yield from _arrays_in(list(value.consts))
        value = value.jaxpr
    if isinstance(value, Jaxpr):
        for v in value.outvars:
            yield from _arrays_in(v)
        for eqn in value.eqns:
            yield from _arrays_in([*eqn.invars, *eqn.params.values()])
    elif isinstance(value, Literal):
        yield from _arrays_in(value.val)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _arrays_in(one)
    elif isinstance(value, jax.Array) and is_key(value):
        yield np.asarray(jax.random.key_data(value))
    elif isinstance(value, (jax.Array, np.ndarray, np.generic)):
        yield np.asarray(value)


def is_plain_type(aval: Any) -> bool:
    """Whether this is the type of an array, without a sharding: shape, dtype and weakness say all."""
    return is_plain_array_type(aval) and explicit_sharding(aval) is None
