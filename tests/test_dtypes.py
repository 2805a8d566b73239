"""Low and mixed precision: the dtypes of jax.grad, and no more rounding than jax.grad's.

The truth is jax.grad's in float64 at the same inputs, of the same function without its casts. Both
gradients err from it by rounding: ours by at most twice what jax.grad does, or four roundings of the
operand's dtype where that is more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from tests.rules.cases import normal, uniform

BFLOAT16, FLOAT16, FLOAT32 = jnp.bfloat16, jnp.float16, jnp.float32
E4M3, E5M2 = jnp.float8_e4m3fn, jnp.float8_e5m2
HALVES = [BFLOAT16, FLOAT16]
ROUNDINGS = 4


@dataclass(frozen=True)
class Narrow:
    """A function of narrow arrays, and the same mathematics without casts if it has any."""

    fn: Callable[..., Any]
    xs: tuple[Any, ...]
    wide: Callable[..., Any] | None = None


def weighted(y: Any) -> Any:
    """A sum by weights that every dtype holds exactly, so that only `y` is rounded."""
    weights = 2.0 ** np.random.default_rng(11).integers(-1, 2, y.shape)
    return jnp.sum(y.astype(y.dtype if y.dtype == np.float64 else FLOAT32) * weights)


def gradients(grad: Any, rows: dict[str, Narrow], wide: bool = False) -> dict[str, Any]:
    """Of every row the gradient by all its arrays, compiled as one program."""

    def all_of(every: dict[str, Any]) -> dict[str, Any]:
        found = {}
        for name, xs in every.items():
            fn = (rows[name].wide or rows[name].fn) if wide else rows[name].fn
            loss = lambda *xs, fn=fn: sum(map(weighted, jax.tree.leaves(fn(*xs))))
            found[name] = grad(loss, tuple(range(len(xs))))(*xs)
        return found

    given = {name: row.xs for name, row in rows.items()}
    if not wide:
        return jax.jit(all_of)(given)
    with jax.enable_x64(True):
        return jax.jit(all_of)(jax.tree.map(lambda x: x.astype(jnp.float64), given))


def check(rows: dict[str, Narrow]) -> None:
    """Our gradients have jax.grad's dtypes and round no worse."""
    truths = gradients(jax.grad, rows, wide=True)
    ours, theirs = gradients(funcgrad.grad, rows), gradients(jax.grad, rows)
    for name, row in rows.items():
        for x, a, b, truth in zip(row.xs, ours[name], theirs[name], truths[name], strict=True):
            assert a.dtype == b.dtype == x.dtype, name
            truth = np.asarray(truth)
            found, allowed = (np.abs(np.float64(ct) - truth).max() for ct in (a, b))
            least = ROUNDINGS * float(jnp.finfo(x.dtype).eps) * np.abs(truth).max()
            assert found <= max(2 * allowed, least), f"{name}: {found}, jax.grad {allowed}"


def array(dtype: Any, *shape: int, seed: int = 0) -> Any:
    return jnp.asarray(normal(*shape, seed=seed), dtype)


def positive(dtype: Any, *shape: int, seed: int = 0) -> Any:
    return jnp.asarray(uniform(0.25, 2, *shape, seed=seed), dtype)


# --- element by element -----------------------------------------------------------------------

UNARY = {
    name: fn
    for fns in (
        (lax.exp, lax.exp2, lax.expm1, lax.log, lax.log1p, lax.logistic, lax.sqrt, lax.rsqrt),
        (lax.cbrt, lax.sin, lax.cos, lax.tan, lax.atan, lax.sinh, lax.cosh, lax.tanh, lax.asinh),
        (lax.erf, lax.erfc, lax.lgamma, lax.digamma, lax.square, lax.abs, lax.neg),
        (jax.nn.gelu, jax.nn.silu, jax.nn.softplus, jax.nn.elu, jax.nn.relu),
    )
    for fn in fns
    for name in [fn.__name__]
}
BINARY = {
    "add": lax.add,
    "mul": lax.mul,
    "div": lax.div,
    "pow": lax.pow,
    "atan2": lax.atan2,
    "max": lax.max,
    "logaddexp": jnp.logaddexp,
    "hypot": jnp.hypot,
    "broadcast": lambda x, y: x[:, None] * y[None, :] - y,
}


@pytest.mark.parametrize("dtype", HALVES, ids=lambda d: d.__name__)
def test_elementwise(dtype: Any) -> None:
    rows = {name: Narrow(fn, (positive(dtype, 8),)) for name, fn in UNARY.items()}
    pair = positive(dtype, 8), positive(dtype, 8, seed=1)
    rows |= {name: Narrow(fn, pair) for name, fn in BINARY.items()}
    rows["mul add"] = Narrow(lambda x, y: x * y + jnp.sin(x) * y**3, pair)
    check(rows)


# --- reductions, normalisations, matrix products ----------------------------------------------


def layer_norm(x: Any, scale: Any, bias: Any) -> Any:
    mean = jnp.mean(x, -1, keepdims=True)
    variance = jnp.mean((x - mean) ** 2, -1, keepdims=True)
    return (x - mean) * lax.rsqrt(variance + 1e-3) * scale + bias


def in_float32(fn: Any) -> Any:
    """The usual mixed precision: narrow in and out, wide within."""
    return lambda *xs: fn(*[x.astype(FLOAT32) for x in xs]).astype(xs[0].dtype)


@pytest.mark.parametrize("dtype", HALVES, ids=lambda d: d.__name__)
def test_reductions_and_normalisations(dtype: Any) -> None:
    x = array(dtype, 4, 16)
    scale, bias = array(dtype, 16, seed=1), array(dtype, 16, seed=2)
    norm = (x, scale, bias)
    reduced = {
        "sum": lambda x: jnp.sum(x, 0),
        "mean": lambda x: jnp.mean(x, 1),
        "var": lambda x: jnp.var(x, 1),
        "max": lambda x: jnp.max(x, 1),
        "prod": lambda x: jnp.prod(x[:, :4], 1),
        "cumsum": lambda x: jnp.cumsum(x, 1),
        "cumprod": lambda x: jnp.cumprod(x[:, :4], 1),
        "cumlogsumexp": lambda x: lax.cumlogsumexp(x, 1),
        "logsumexp": lambda x: jax.nn.logsumexp(x, 1),
        "softmax": lambda x: jax.nn.softmax(x, 1),
        "log_softmax": lambda x: jax.nn.log_softmax(x, 1),
        "norm": lambda x: jnp.linalg.norm(x, axis=1),
        "sort": lambda x: jnp.sort(x, 1),
        "average pooling": lambda x: lax.reduce_window(
            x, np.zeros((), x.dtype), lax.add, (1, 4), (1, 2), "SAME"
        ),
        "take": lambda x: x[np.array([0, 2, 2, 1]), np.array([1, 1, 1, 3])],
        "scatter": lambda x: jnp.zeros((3, 16), x.dtype).at[np.array([0, 1, 1, 0])].add(x),
    }
    rows = {name: Narrow(fn, (x,)) for name, fn in reduced.items()}
    rows["layer norm"] = Narrow(layer_norm, norm)
    rows["layer norm in float32"] = Narrow(in_float32(layer_norm), norm, layer_norm)
    rows["softmax in float32"] = Narrow(in_float32(jax.nn.softmax), (x,), jax.nn.softmax)
    check(rows)


MATMUL = (((1,), (0,)), ((), ()))
CONV = ("NCH", "OIH", "NCH")


def attention(q: Any, k: Any, v: Any) -> Any:
    scores = jnp.einsum("qd,kd->qk", q, k, preferred_element_type=jnp.promote_types(q, FLOAT32))
    return jnp.einsum("qk,kd->qd", jax.nn.softmax(scores).astype(v.dtype), v)


def dot(accumulated: Any = None, precision: Any = None) -> Any:
    """A product; float64 stays as it is."""

    def product(x: Any, y: Any) -> Any:
        wanted = x.dtype if x.dtype == np.float64 else accumulated
        return lax.dot_general(x, y, MATMUL, precision, wanted)

    return product


def conv(accumulated: Any = None) -> Any:
    def product(x: Any, w: Any) -> Any:
        wanted = x.dtype if x.dtype == np.float64 else accumulated
        return lax.conv_general_dilated(
            x, w, (2,), ((1, 2),), dimension_numbers=CONV, preferred_element_type=wanted
        )

    return product


@pytest.mark.parametrize("dtype", HALVES, ids=lambda d: d.__name__)
def test_products(dtype: Any) -> None:
    matrices = array(dtype, 8, 16), array(dtype, 16, 4, seed=1)
    images = array(dtype, 2, 3, 9), array(dtype, 4, 3, 3, seed=1)
    heads = tuple(array(dtype, 6, 8, seed=i) for i in range(3))
    mixed = matrices[0], matrices[1].astype(FLOAT32)
    check(
        {
            "dot": Narrow(dot(), matrices),
            "dot to float32": Narrow(dot(FLOAT32), matrices),
            "dot of both widths": Narrow(jnp.matmul, mixed),
            "conv": Narrow(conv(), images),
            "conv to float32": Narrow(conv(FLOAT32), images),
            "attention": Narrow(attention, heads),
            "gelu of dot": Narrow(lambda x, y: jax.nn.gelu(dot(FLOAT32)(x, y)), matrices),
        }
    )


# --- chains of casts --------------------------------------------------------------------------


def through(*dtypes: Any) -> Any:
    def cast(x: Any) -> Any:
        for dtype in dtypes:
            x = jnp.sin(x.astype(dtype))
        return x

    return cast


def sines(count: int) -> Any:
    return through(*[jnp.float64] * count)


def test_casts() -> None:
    chains = {
        "half and back": (FLOAT32, BFLOAT16, FLOAT32),
        "two halves": (BFLOAT16, FLOAT16, BFLOAT16),
        "eighths": (BFLOAT16, E4M3, FLOAT32, E5M2, FLOAT16),
    }
    rows = {
        f"{name} of {dtype.__name__}": Narrow(
            through(*chain), (positive(dtype, 6),), sines(len(chain))
        )
        for name, chain in chains.items()
        for dtype in (BFLOAT16, FLOAT32, E4M3)
    }
    precision = lambda x: lax.reduce_precision(x * x, 5, 3)
    rows["reduce_precision"] = Narrow(precision, (positive(FLOAT32, 6),), lambda x: x * x)
    check(rows)


# --- eight bits -------------------------------------------------------------------------------

EIGHTHS = [E4M3, E5M2]


@pytest.mark.parametrize("dtype", EIGHTHS, ids=lambda d: d.__name__)
def test_eight_bits(dtype: Any) -> None:
    x, y = positive(dtype, 4, 8), positive(dtype, 8, 3, seed=1)
    other = positive(dtype, 4, 8, seed=2)
    check(
        {
            "mul add": Narrow(lambda x, y: x * y + x, (x, other)),
            "exp": Narrow(jnp.exp, (x,)),
            "sum": Narrow(lambda x: jnp.sum(x, 1), (x,)),
            "transpose": Narrow(lambda x: x.T[1:].reshape(-1), (x,)),
            "dot to float32": Narrow(dot(FLOAT32), (x, y)),
            "dot to bfloat16": Narrow(dot(BFLOAT16), (x, y)),
            "dot": Narrow(dot(), (x, y)),
        }
    )


def test_eight_bits_of_two_kinds() -> None:
    x, y = positive(E4M3, 4, 8), positive(E5M2, 8, 3, seed=1)
    check({"dot": Narrow(dot(FLOAT32), (x, y))})


def test_scaled_eight_bit_training_step() -> None:
    """Quantise, multiply, dequantise, as fp8 training does, with straight casts between."""

    def layer(x: Any, w: Any) -> Any:
        narrow_x, narrow_w = (x * 4).astype(E4M3), (w * 8).astype(E4M3)
        return dot(FLOAT32)(narrow_x, narrow_w) / 32

    rows = {"layer": Narrow(layer, (array(BFLOAT16, 4, 8), array(FLOAT32, 8, 3)), jnp.matmul)}
    check(rows)


# --- what the backward products are told ------------------------------------------------------


def products_in(grad: Any, fn: Any, *xs: Any) -> list[Any]:
    """Precision and element type of every product of a gradient's program, sorted."""
    jaxpr = jax.make_jaxpr(grad(lambda *xs: weighted(fn(*xs)), (0, 1)))(*xs)
    ops = (lax.dot_general_p, lax.conv_general_dilated_p)
    return sorted(
        str([eqn.params[name] for name in ("precision", "preferred_element_type")])
        for eqn in jaxpr.jaxpr.eqns
        if eqn.primitive in ops
    )


@pytest.mark.parametrize(
    "precision",
    [
        None,
        lax.Precision.HIGHEST,
        (lax.Precision.HIGH, lax.Precision.DEFAULT),
        lax.DotAlgorithmPreset.BF16_BF16_F32_X3,
    ],
    ids=str,
)
def test_dot_products_are_told_what_jax_tells_them(precision: Any) -> None:
    args = dot(FLOAT32, precision), array(FLOAT32, 2, 3), array(FLOAT32, 3, 2)
    ours, theirs = products_in(funcgrad.grad, *args), products_in(jax.grad, *args)
    assert len(ours) == 3
    assert ours == theirs


@pytest.mark.parametrize("precision", [lax.Precision.HIGHEST, lax.Precision.HIGH], ids=str)
def test_convolutions_are_told_what_jax_tells_them(precision: Any) -> None:
    def fn(x: Any, w: Any) -> Any:
        return lax.conv_general_dilated(
            x, w, (1,), ((0, 0),), dimension_numbers=CONV, precision=precision
        )

    args = fn, array(FLOAT32, 1, 2, 4), array(FLOAT32, 2, 2, 2)
    ours, theirs = products_in(funcgrad.grad, *args), products_in(jax.grad, *args)
    assert len(ours) == 3
    assert ours == theirs


@pytest.mark.parametrize("matmul_precision", ["BF16_BF16_F32_X3", "highest"])
def test_precision_by_context(matmul_precision: str) -> None:
    with jax.default_matmul_precision(matmul_precision):
        args = jnp.matmul, array(FLOAT32, 2, 3), array(FLOAT32, 3, 2)
        assert products_in(funcgrad.grad, *args) == products_in(jax.grad, *args)
