"""Single operations with arguments of a size that is asked for: one line an operation.

A side of n makes vectors of n^2 elements, matrices of n x n, and images of 4 n^2 elements. Names are
those of JAX's primitives; what follows a space tells two uses of one primitive apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.nn import dot_product_attention, relu

Make = Callable[[int], tuple[Any, ...]]
la = lax.linalg

SIDES = {"small": 16, "medium": 64, "large": 256}


@dataclass(frozen=True)
class Operation:
    """A function of arrays, most of them operands of one primitive.

    Attributes:
      fun: of arrays; those of integers are not differentiated.
      make_args: the arrays, float32, for a side.
      sides: by the name of the size.
    """

    fun: Callable[..., Any]
    make_args: Make
    sides: Mapping[str, int]


def weighted(fun: Callable[..., Any], *args: Any) -> Array:
    """A scalar: the sum of all results, each element times one of sixteen weights.

    Neighbours have unlike weights, so that little cancels in the gradient of a softmax. The weights are
    computed, not stored, so that they cost no memory.
    """

    def total(y: Array) -> Array:
        y = jnp.real(y) + jnp.imag(y) if jnp.iscomplexobj(y) else y
        if not jnp.issubdtype(y.dtype, jnp.floating):
            return jnp.zeros(())
        sixteen = (lax.iota(jnp.int32, y.size) & 15).astype(jnp.float32) / 16 + 0.5
        return jnp.sum(y * sixteen.reshape(y.shape))

    return sum((total(y) for y in jax.tree.leaves(fun(*args))), jnp.zeros(()))


def drawn(low: float, high: float, *shape: int, seed: int = 0) -> Array:
    """Uniform float32."""
    values = np.random.default_rng(seed).uniform(low, high, shape)
    return jnp.asarray(values, jnp.float32)


def vectors(low: float, high: float, count: int = 1) -> Make:
    """So many vectors of side^2 elements."""
    return lambda n: tuple(drawn(low, high, n * n, seed=i) for i in range(count))


def matrices(low: float = -1.0, high: float = 1.0, count: int = 1) -> Make:
    """So many matrices of side x side."""
    return lambda n: tuple(drawn(low, high, n, n, seed=i) for i in range(count))


def indexed(count: int, *more: Callable[[int], Array]) -> Make:
    """A matrix, `count` indices into its rows, and further arrays."""

    def make(n: int) -> tuple[Any, ...]:
        rows = np.random.default_rng(1).integers(n, size=count or n)
        return drawn(-1, 1, n, n), jnp.asarray(rows), *(f(n) for f in more)

    return make


def positive(x: Array) -> Array:
    """A positive definite matrix whose product costs little beside a decomposition."""
    return 0.1 * (x + x.T) + x.shape[0] * jnp.eye(x.shape[0], dtype=x.dtype)


def apart(x: Array) -> Array:
    """A symmetric matrix whose eigenvalues lie well apart, so that derivatives are accurate."""
    return 0.05 * (x + x.T) + jnp.diag(jnp.arange(1.0, x.shape[0] + 1, dtype=x.dtype))


def images(n: int) -> tuple[Array]:
    """Four images of 16 channels."""
    side = max(4, n // 4)
    return (drawn(-1, 1, 4, 16, side, side),)


def convolved(n: int, groups: int = 1) -> tuple[Array, Array]:
    return *images(n), drawn(-1, 1, 16, 16 // groups, 3, 3, seed=1)


def grouped(x: Array, w: Array) -> Array:
    """A convolution of as many groups as the shapes of its operands say."""
    groups = x.shape[1] // w.shape[1]
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", feature_group_count=groups)


def upsampled(x: Array, w: Array) -> Array:
    return lax.conv_general_dilated(x, w, (1, 1), ((1, 2), (1, 2)), lhs_dilation=(2, 2))


def scattered(method: str, x: Array, indices: Array, y: Array) -> Array:
    return getattr(x.at[indices], method)(y)


def scattered_rows(n: int) -> Array:
    return drawn(0.5, 1, n, n, seed=3)


def pooled(x: Array, start: float, combine: Any, padding: str = "VALID") -> Array:
    return lax.reduce_window(x, start, combine, (1, 1, 2, 2), (1, 1, 2, 2), padding)


def averaged(x: Array, combine: Any, start: float) -> Array:
    """Windows that overlap."""
    return lax.reduce_window(x, start, combine, (1, 1, 3, 3), (1, 1, 1, 1), "SAME")


def attended(n: int) -> tuple[Array, Array, Array]:
    heads, width = 2, 8
    q, k, v = (drawn(-1, 1, 1, n, heads, width, seed=i) for i in range(3))
    return q, k, v


def named(names: str, make: Make, **params: Any) -> dict[str, Operation]:
    """Functions of ``jax.lax`` by their names."""
    return {
        name: Operation(
            partial(getattr(lax, name), **params) if params else getattr(lax, name), make, SIDES
        )
        for name in names.split()
    }


def rows(
    table: Mapping[str, tuple[Any, Make]], sides: Mapping[str, int] = SIDES
) -> dict[str, Operation]:
    return {name: Operation(fun, make, sides) for name, (fun, make) in table.items()}


ELEMENTWISE = {
    **named("add sub mul atan2 max min", vectors(0.5, 2, 2)),
    **named(
        "neg abs sign square exp exp2 expm1 sin cos tanh logistic erf sinh asinh", vectors(-1, 1)
    ),
    **named("tan asin acos atan atanh erf_inv bessel_i0e bessel_i1e", vectors(-0.9, 0.9)),
    **named("sqrt rsqrt cbrt log log1p cosh erfc lgamma digamma", vectors(0.5, 2)),
    **named("acosh", vectors(1.5, 3)),
    **named("div pow rem", vectors(0.5, 2, 2)),
    **named("igamma igammac", vectors(0.5, 2, 2)),
    **rows(
        {
            "integer_pow": (lambda x: x**3, vectors(-1, 1)),
            "clamp": (lambda x: lax.clamp(-0.5, x, 0.5), vectors(-1, 1)),
            "select_n": (lambda a, b: jnp.where(a > b, a, 2 * b), vectors(-1, 1, 2)),
            "convert_element_type": (
                lambda x: x.astype(jnp.bfloat16).astype(x.dtype),
                vectors(-1, 1),
            ),
            "reduce_precision": (lambda x: lax.reduce_precision(x, 8, 10), vectors(-1, 1)),
            "complex": (lambda a, b: lax.complex(a, b) ** 2, vectors(-1, 1, 2)),
            "relu": (relu, vectors(-1, 1)),
            "gelu": (jax.nn.gelu, vectors(-1, 1)),
            "polygamma": (lambda x: lax.polygamma(jnp.float32(1), x), vectors(0.5, 2)),
            "regularized_incomplete_beta": (
                lambda x: lax.betainc(jnp.float32(1.5), jnp.float32(2.5), x),
                vectors(0.1, 0.9),
            ),
            "random_gamma": (
                lambda a: jax.random.gamma(jax.random.key(0), a),
                lambda n: (drawn(1, 3, n * n // 16),),
            ),
        }
    ),
}

REDUCTIONS = rows(
    {
        "reduce_sum": (lambda x: jnp.sum(x, 1), matrices()),
        "reduce_max": (lambda x: jnp.max(x, 1), matrices()),
        "reduce_min": (lambda x: jnp.min(x, 0), matrices()),
        "reduce_prod": (lambda x: jnp.prod(x, 1), matrices(0.9, 1.1)),
        "cumsum": (lambda x: jnp.cumsum(x, 1), matrices()),
        "cumprod": (lambda x: jnp.cumprod(x, 1), matrices(0.9, 1.1)),
        "cummax": (lambda x: lax.cummax(x, 1), matrices()),
        "cummin": (lambda x: lax.cummin(x, 1), matrices()),
        "cumlogsumexp": (lambda x: lax.cumlogsumexp(x, 1), matrices()),
        "logsumexp": (lambda x: jax.nn.logsumexp(x, 1), matrices()),
        "softmax": (jax.nn.softmax, matrices()),
        "log_softmax": (jax.nn.log_softmax, matrices()),
        "var": (lambda x: jnp.var(x, 1), matrices()),
        "norm": (lambda x: jnp.linalg.norm(x, axis=1), matrices()),
    }
)

ORDERING = rows(
    {
        "sort": (lambda x: jnp.sort(x, 1), matrices()),
        "sort vector": (jnp.sort, vectors(-1, 1)),
        "top_k": (lambda x: lax.top_k(x, 8)[0], matrices()),
        "approx_top_k": (lambda x: lax.approx_max_k(x, 8)[0], matrices()),
        "median": (lambda x: jnp.median(x, axis=1), matrices()),
        "percentile": (lambda x: jnp.percentile(x, 30.0, axis=1), matrices()),
    }
)

INDEXING = rows(
    {
        "gather": (lambda x, i: x[i], indexed(0)),
        "gather elements": (lambda x, i: jnp.take_along_axis(x, i[:, None], 1), indexed(0)),
        "gather embedding": (
            lambda x, i: x[i],
            lambda n: (drawn(-1, 1, n * n, 16), jnp.arange(n * 2) * 7919 % (n * n)),
        ),
        "dynamic_slice": (lambda x, i: lax.dynamic_slice(x, (i[0], 0), (4, 4)), indexed(1)),
        "dynamic_update_slice": (
            lambda x, i, y: lax.dynamic_update_slice(x, y, (i[0], 0)),
            indexed(1, lambda n: drawn(-1, 1, 4, 4)),
        ),
        **{
            f"scatter{name}": (partial(scattered, method), indexed(0, scattered_rows))
            for name, method in {
                "": "set",
                "-add": "add",
                "-sub": "subtract",
                "-max": "max",
                "-min": "min",
            }.items()
        },
        "scatter-mul": (
            lambda x, i, y: x.at[jnp.arange(len(i))].mul(y, unique_indices=True),
            indexed(0, scattered_rows),
        ),
        "segment_sum": (lambda x, i: jax.ops.segment_sum(x, i, len(x)), indexed(0)),
        "segment_max": (
            lambda x, i: jnp.where(jnp.isfinite(y := jax.ops.segment_max(x, i, len(x))), y, 0),
            indexed(0),
        ),
    }
)

SHAPES = rows(
    {
        "broadcast_in_dim": (lambda x: jnp.broadcast_to(x, (8, *x.shape)), matrices()),
        "reshape": (lambda x: x.reshape(-1), matrices()),
        "squeeze": (lambda x: x.reshape(1, -1).squeeze(0), matrices()),
        "transpose": (lambda x: x.T, matrices()),
        "rev": (lambda x: lax.rev(x, (0,)), matrices()),
        "concatenate": (lambda a, b: jnp.concatenate([a, b]), matrices(count=2)),
        "stack": (lambda a, b: jnp.stack([a, b]), matrices(count=2)),
        "unstack": (lambda x: jnp.unstack(x.reshape(4, -1)), matrices()),
        "split": (lambda x: jnp.split(x, 4), matrices()),
        "tile": (lambda x: jnp.tile(x, (2, 3)), matrices()),
        "pad": (lambda x: jnp.pad(x, 2), matrices()),
        "slice": (lambda x: x[1:-1, ::2], matrices()),
        "roll": (lambda x: jnp.roll(x, 1, 0), matrices()),
    }
)

PRODUCTS = rows(
    {
        "dot_general": (jnp.matmul, matrices(count=2)),
        "dot_general batch": (
            lambda a, b: a @ b,
            lambda n: tuple(
                drawn(-1, 1, 8, n, n // 2, seed=i).mT if i else drawn(-1, 1, 8, n, n // 2)
                for i in range(2)
            ),
        ),
        "dot_general vector": (jnp.matmul, lambda n: (drawn(-1, 1, n, n), drawn(-1, 1, n))),
        "ragged_dot_general": (
            lambda a, b: lax.ragged_dot(a, b, jnp.array([a.shape[0] // 2] * 2)),
            lambda n: (drawn(-1, 1, n, n), drawn(-1, 1, 2, n, n)),
        ),
        "conv_general_dilated": (
            lambda x, w: lax.conv_general_dilated(x, w, (1, 1), "SAME"),
            convolved,
        ),
        "conv_general_dilated strided": (
            lambda x, w: lax.conv_general_dilated(x, w, (2, 2), "SAME"),
            convolved,
        ),
        "conv_general_dilated grouped": (grouped, partial(convolved, groups=4)),
        "conv_general_dilated by channel": (grouped, partial(convolved, groups=16)),
        "conv_general_dilated transposed": (upsampled, convolved),
        "attention": (dot_product_attention, attended),
        "reduce_window_sum": (lambda x: averaged(x, lax.add, 0.0), images),
        "reduce_window_sum pool": (lambda x: pooled(x, 0.0, lax.add), images),
        "reduce_window_max": (lambda x: averaged(x, lax.max, -np.inf), images),
        "reduce_window_max pool": (lambda x: pooled(x, -np.inf, lax.max), images),
        "reduce_window_min": (lambda x: averaged(x, lax.min, np.inf), images),
        "fft": (lambda x: jnp.fft.fft(x + 0j), matrices()),
        "fft real": (jnp.fft.rfft, matrices()),
    }
)

LINALG = rows(
    {
        "cholesky": (lambda x: jnp.linalg.cholesky(positive(x)), matrices()),
        "lu": (lambda x: la.lu(positive(x))[0], matrices()),
        "qr": (lambda x: la.qr(x, full_matrices=False), matrices()),
        "qr tall": (
            lambda x: la.qr(x, full_matrices=False),
            lambda n: (drawn(-1, 1, 4 * n, n // 2),),
        ),
        "eigh": (lambda x: la.eigh(apart(x)), matrices()),
        "eigh values": (lambda x: jnp.linalg.eigvalsh(apart(x)), matrices()),
        "svd": (lambda x: la.svd(apart(x), full_matrices=False), matrices()),
        "svd values": (lambda x: la.svd(apart(x), compute_uv=False), matrices()),
        "eig values": (lambda x: jnp.abs(jnp.linalg.eigvals(apart(x))), matrices()),
        "triangular_solve": (
            lambda a, b: la.triangular_solve(positive(a), b, left_side=True, lower=True),
            matrices(count=2),
        ),
        "tridiagonal_solve": (
            lambda low, middle, up, b: la.tridiagonal_solve(low, middle + 4, up, b[:, None]),
            vectors(-1, 1, 4),
        ),
        "solve": (lambda a, b: jnp.linalg.solve(positive(a), b), matrices(count=2)),
        "solve vector": (
            lambda a, b: jnp.linalg.solve(positive(a), b),
            lambda n: (drawn(-1, 1, n, n), drawn(-1, 1, n)),
        ),
        "inv": (lambda x: jnp.linalg.inv(positive(x)), matrices()),
        "det": (lambda x: jnp.linalg.slogdet(positive(x))[1], matrices()),
        "expm": (lambda x: jax.scipy.linalg.expm(x / x.shape[0] ** 0.5), matrices()),
    },
    {"small": 16, "medium": 48, "large": 128},
)

OPERATIONS: Mapping[str, Operation] = {
    **ELEMENTWISE,
    **REDUCTIONS,
    **ORDERING,
    **INDEXING,
    **SHAPES,
    **PRODUCTS,
    **LINALG,
}
"""All operations by their names."""

LEFT_OUT = {
    "moves and marks without work of their own": (
        "add_any real imag conj copy optimization_barrier name tap tie stage xla_metadata_value "
        "layout_constraint held device_put shard_alike sharding_constraint reshard nextafter "
        "to_edtype from_edtype"
    ),
    "collectives, whose cost is that of a network": (
        "psum psum_invariant pvary ppermute pbroadcast all_gather reduce_scatter "
        "all_gather_invariant all_to_all ragged_all_to_all all_gather_reduced "
        "unreduced_reduce_scatter unreduced_psum preduced vary_unreduced_cast_p reduced_vary_cast_p "
        "host_local_array_to_global_array global_array_to_host_local_array"
    ),
    "steps of the derivatives of others": "select_and_gather_add select_and_scatter_add igamma_grad_a",
    "sparse arrays, whose cost is that of their formats": (
        "bcoo_todense bcoo_fromdense bcoo_extract bcoo_transpose bcoo_dot_general "
        "bcoo_dot_general_sampled bcoo_sort_indices bcoo_sum_duplicates bcsr_todense bcsr_fromdense "
        "bcsr_extract bcsr_dot_general coo_todense csr_todense coo_fromdense csr_fromdense "
        "coo_matvec coo_matmat csr_matvec csr_matmat spsolve"
    ),
    "formats of narrow numbers, which a CPU emulates": "scaled_dot",
    "without a derivative by JAX to compare with": (
        "zeta symmetric_product eigh_tridiagonal _lobpcg_standard_matrix _lobpcg_standard_callable"
    ),
}
"""The ops that have a rule and no line above, by the reason."""
