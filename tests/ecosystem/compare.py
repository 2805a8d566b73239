"""Compares gradients of models made with other libraries, by funcgrad and by jax.grad."""

from __future__ import annotations

import importlib
import importlib.metadata
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad

RTOL = 1e-10


def load(name: str, *deprecations: str) -> Any:
    """A library, or a skip of the whole module that says what is missing.

    The `deprecations` are beginnings of warnings that importing the library gives, not we.
    """
    with warnings.catch_warnings():
        for message in deprecations:
            warnings.filterwarnings("ignore", message)
        try:
            return importlib.import_module(name)
        except (ImportError, AttributeError) as error:  # AttributeError: a name JAX has dropped
            pytest.skip(reason_of_failure(name, error), allow_module_level=True)


def reason_of_failure(name: str, error: Exception) -> str:
    """Which version of a library cannot be imported with which version of JAX, and why."""
    found = importlib.metadata.packages_distributions().get(name.split(".")[0], [])
    if not found:
        return f"{name} is not installed: pip install 'funcgrad[ecosystem]'"
    version = importlib.metadata.version(found[0])
    return f"{name} of {found[0]} {version} does not import with JAX {jax.__version__}: {error}"


def draw(seed: int, *shape: int) -> Any:
    """Standard normal numbers, in the default float type."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def as_float64(tree: Any) -> Any:
    """A pytree with its floats in double precision."""

    def convert(x: Any) -> Any:
        x = jnp.asarray(x)
        return x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(convert, tree)


def check(
    loss: Callable[..., Any],
    *args: Any,
    argnums: int | tuple[int, ...] = 0,
    has_aux: bool = False,
    allow_int: bool = False,
    rtol: float = RTOL,
    eager: bool = False,
) -> Any:
    """Value and gradient under jit (and not, if `eager`) are jax.grad's; return the gradient."""
    settings = {"argnums": argnums, "has_aux": has_aux, "allow_int": allow_int}
    theirs = jax.jit(jax.value_and_grad(loss, **settings))(*args)
    ours = jax.jit(funcgrad.value_and_grad(loss, **settings))(*args)
    assert_gradients_same(ours, theirs, rtol)
    if eager:
        assert_gradients_same(funcgrad.value_and_grad(loss, **settings)(*args), theirs, rtol)
    assert_not_trivial(theirs[1])
    return ours[1]


def assert_gradients_same(ours: Any, theirs: Any, rtol: float = RTOL) -> None:
    """Equal structure and types; floats to `rtol` of the largest number in the whole pytree.

    The scale is that of all leaves: a bias in front of a normalisation, or of an attention's keys,
    has a gradient of zero, and two programs round that differently.
    """
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    pairs = list(
        zip(jax.tree.leaves(ours), jax.tree_util.tree_leaves_with_path(theirs), strict=True)
    )
    for a, (path, b) in pairs:
        assert jax.typeof(a) == jax.typeof(b), jax.tree_util.keystr(path)
    scale = max(magnitude(b) for _, (_, b) in pairs)
    for a, (path, b) in pairs:
        where = jax.tree_util.keystr(path)
        if jnp.issubdtype(b.dtype, jnp.inexact):
            np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * scale, err_msg=where)
        elif b.dtype != jax.dtypes.float0:
            assert bool(jnp.all(a == b)), where


def magnitude(x: Any) -> float:
    """The largest number of an array of floats, 0 for others."""
    return float(np.max(np.abs(x), initial=0.0)) if jnp.issubdtype(x.dtype, jnp.inexact) else 0.0


def assert_not_trivial(gradient: Any) -> None:
    """A test whose gradient is zero or not finite would show nothing."""
    floats = [x for x in jax.tree.leaves(gradient) if jnp.issubdtype(x.dtype, jnp.inexact)]
    assert floats
    assert all(np.all(np.isfinite(x)) for x in floats)
    assert any(np.any(np.asarray(x) != 0) for x in floats)
