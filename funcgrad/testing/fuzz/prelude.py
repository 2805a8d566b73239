"""Small functions that random programs are written in: they keep values and shapes in range."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import linear_call

Array = Any


def fit(x: Array, *shape: int) -> Array:
    """`x` repeated or cut to `shape`."""
    return x if x.shape == shape else jnp.resize(x, shape)


def squash(x: Array) -> Array:
    """Into (-0.9, 0.9)."""
    return 0.9 * jnp.tanh(x)


def positive(x: Array) -> Array:
    """Into (0.35, 2.15)."""
    return 1.25 + squash(x)


def definite(x: Array, size: int = 2) -> Array:
    """A symmetric positive definite matrix with eigenvalues over 1."""
    a = squash(fit(x, size, size))
    return a @ a.T + jnp.eye(size, dtype=x.dtype)


def separated(x: Array, *shape: int) -> Array:
    """A matrix with singular values (and, if it is square, real eigenvalues) well apart."""
    diagonal = jnp.eye(*shape, dtype=x.dtype) * (1.0 + 2.0 * jnp.arange(shape[-1], dtype=x.dtype))
    return diagonal + 0.3 * squash(fit(x, *shape))


def symmetric(x: Array, size: int = 2) -> Array:
    """A symmetric matrix with eigenvalues well apart."""
    a = separated(x, size, size)
    return 0.5 * (a + a.T)


def like(x: Array, *shape: int) -> Array:
    """A bounded array of `shape` that depends on the whole of `x`."""
    total = jnp.sum(jnp.tanh(x))
    return jnp.broadcast_to(total, shape) * jnp.asarray(0.3, x.dtype)


def index(x: Array, size: int) -> Array:
    """A position below `size` that only running the program tells."""
    return jnp.asarray(jnp.sum(x) > 0, jnp.int32) % size


def weigh(*values: Array) -> Array:
    """A bounded float64 scalar in which every element has a weight of its own."""
    total = jnp.zeros((), jnp.float64)
    for value in values:
        parts = [value.real, value.imag] if jnp.iscomplexobj(value) else [value]
        for i, x in enumerate(parts):
            x = x.astype(jnp.float64).ravel()
            total += jnp.vdot(jnp.cos(jnp.arange(x.size) + i), jnp.sin(x))
    return total


def leaves(tree: Any) -> list[Any]:
    """The arrays of nested results."""
    return jax.tree.leaves(tree)


def kept(x: Array) -> Array:
    """`x` under the name that some of the checkpoint policies save."""
    return checkpoint_name(x, "kept")


def read_back(x: Array) -> Array:
    """`x` squared by way of a mutable reference."""
    ref = jax.new_ref(x)
    ref[...] = ref[...] * x
    return ref[...]


def through_reference(x: Array) -> Array:
    """Adds to a mutable reference, and freezes it."""
    ref = jax.new_ref(jnp.zeros_like(x))
    ref[...] += jnp.sin(x)
    ref[...] += x
    return jax.freeze(ref)


def solve_linear(x: Array, y: Array) -> Array:
    """The solution of (2 + tanh y) z = x, element by element, by custom_linear_solve."""
    x, y = jnp.broadcast_arrays(x, y)
    diagonal = 2.0 + squash(y)
    return lax.custom_linear_solve(
        lambda z: diagonal * z, x, lambda _, b: b / diagonal, lambda _, b: b / diagonal
    )


def linear(x: Array) -> Array:
    """sin x by a constant, with a transpose of its own."""
    return linear_call(lambda r, t: t * r, lambda r, ct: ct * r, jnp.full_like(x, 0.7), jnp.sin(x))


def dual(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f` as a custom_jvp function with its own derivative."""
    wrapped = jax.custom_jvp(f)
    wrapped.defjvp(lambda primals, tangents: jax.jvp(f, primals, tangents))
    return wrapped


def adjoint(f: Callable[..., Any], scale: float = 1.0) -> Callable[..., Any]:
    """`f` as a custom_vjp function with its own derivative, or `scale` times it."""

    def backward(saved: Any, ct: Any) -> Any:
        cts = jax.vjp(f, *saved)[1](ct)
        return cts if scale == 1.0 else jax.tree.map(lambda x: x * jnp.asarray(scale, x.dtype), cts)

    wrapped = jax.custom_vjp(f)
    wrapped.defvjp(lambda *xs: (f(*xs), xs), backward)
    return wrapped


def bounded_while(test: Any, body: Any, init: Any, limit: int = 5) -> Any:
    """``lax.while_loop`` of at most `limit` steps as a scan, which jax.grad can differentiate."""

    def step(carry: Any, _: Any) -> Any:
        return lax.cond(test(carry), body, lambda carry: carry, carry), None

    return lax.scan(step, init, None, length=limit)[0]


def bounded_fori(lower: Any, upper: Any, body: Any, init: Any) -> Any:
    """``lax.fori_loop`` by :func:`bounded_while`."""
    start = (jnp.asarray(lower), init)
    run = bounded_while(lambda c: c[0] < upper, lambda c: (c[0] + 1, body(*c)), start)
    return run[1]
