"""Compares results of funcgrad with JAX's: structure, type, dtype, weakness and values."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def assert_same(ours: Any, theirs: Any, rtol: float = 1e-12, weak: bool = True) -> None:
    """Equal pytrees; weak types are compared where `weak`, floats to `rtol` of the largest."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    paths = jax.tree_util.tree_flatten_with_path(theirs)[0]
    for a, (path, b) in zip(jax.tree.leaves(ours), paths, strict=True):
        where = jax.tree_util.keystr(path)
        assert not isinstance(a, jax.core.Tracer), f"{where}: {a}"
        a_type, b_type = jax.typeof(a), jax.typeof(b)
        assert (a_type.shape, a_type.dtype) == (b_type.shape, b_type.dtype), where
        if weak:
            assert a_type.weak_type == b_type.weak_type, f"{where}: weak {a_type}, {b_type}"
        if b_type.dtype == jax.dtypes.float0:
            continue
        inexact = jax.dtypes.issubdtype(b_type.dtype, np.inexact)
        tolerance = max(rtol, 8 * float(jnp.finfo(b_type.dtype).eps)) if inexact else 0
        kind = np.complex128 if jnp.iscomplexobj(b) else np.float64
        a, b = np.asarray(a).astype(kind), np.asarray(b).astype(kind)
        scale = np.max(np.abs(b[np.isfinite(b)]), initial=0.0)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * scale, err_msg=where)
