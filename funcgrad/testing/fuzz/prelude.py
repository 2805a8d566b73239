"""Small functions that random programs are written in: they keep values and shapes in range."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import linear_call
from jax.experimental import hijax

Array = Any
HiPrimitive: Any = getattr(hijax, "HiPrim", None) or hijax.VJPHiPrimitive  # the name since JAX 0.12


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


def stored(x: Array, y: Array) -> Array:
    """A sparse matrix with the elements of `x` times a vector."""
    from jax.experimental import sparse

    matrix = sparse.BCOO.fromdense(x, nse=x.size)
    return (matrix @ y).astype(x.dtype)


@jax.custom_vjp
def halved(x: Array, y: Array) -> Array:
    """Half of `x`; the derivatives by both are numbers of Python's and NumPy's where they can be."""
    return 0.5 * x + 0.0 * jnp.sum(y)


def _halved_vjp(y: Array, ct: Array) -> Any:
    ct_y = 0.0 if y.ndim == 0 else np.zeros(y.shape, y.dtype)
    return 0.5 * ct, ct_y


halved.defvjp(lambda x, y: (halved(x, y), y), _halved_vjp)


class _Sine(HiPrimitive):
    """The sine of an array, with rules of its own."""

    def __init__(self, aval: Any):
        self.in_avals, self.out_aval, self.params = (aval,), aval, {}
        super().__init__()

    def expand(self, x: Array) -> Array:
        return jnp.sin(x)

    def vjp_fwd(self, nzs_in: Any, x: Array) -> Any:
        return self(x), x

    def vjp_bwd_retval(self, kept: Array, ct: Array) -> Any:
        return (ct * jnp.cos(kept),)

    def jvp(self, primals: Any, tangents: Any) -> Any:
        (x,), (x_dot,) = primals, tangents
        return self(x), x_dot * jnp.cos(x)

    def batch(self, axis_data: Any, args: Any, dims: Any) -> Any:
        return _Sine(jax.typeof(args[0]))(*args), dims[0]


def high(x: Array) -> Array:
    """sin x, by a primitive with rules of its own."""
    return _Sine(jax.typeof(x))(x)
